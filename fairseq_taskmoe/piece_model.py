"""Finding and reading a SentencePiece model; one that is damaged, or without text, fails."""

import os
from pathlib import Path
from typing import List, Sequence, Union

import sentencepiece

NAMES = ("spm.model", "sentencepiece.bpe.model")


class NoPieceModel(ValueError):
    """A file holds no SentencePiece model."""


def load_pieces(path: Union[str, Path]) -> sentencepiece.SentencePieceProcessor:
    """Return the SentencePiece model of a file; raises NoPieceModel, and OSError."""
    content = Path(path).read_bytes()
    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=content)
        if not content or not len(model):  # an empty file gives an empty model
            raise NoPieceModel(f"{path}: no SentencePiece model")
        for number in range(len(model)):
            model.id_to_piece(number)  # fails where a changed byte leaves no text
    except (RuntimeError, UnicodeDecodeError) as problem:
        raise NoPieceModel(f"{path}: no SentencePiece model, or a damaged one") from problem
    return model


def piece_models_near(checkpoint: str, data: str) -> List[str]:
    """Return the files that may be a run's SentencePiece model, the most likely first.

    They are in the folder of the checkpoint (where an extraction writes it), in that of the data
    (the first of several), and in the folder above the data. Either may be empty.
    """
    data = data.split(os.pathsep)[0]
    folders = [os.path.dirname(os.path.abspath(checkpoint))] if checkpoint else []
    folders += [data, os.path.dirname(os.path.abspath(data))] if data else []
    files = [os.path.join(folder, name) for folder in folders for name in NAMES]
    return [file for file in files if os.path.isfile(file)]


def fits(pieces: sentencepiece.SentencePieceProcessor, words: Sequence[str]) -> bool:
    """Say whether most words of a dictionary are pieces of a SentencePiece model."""
    known = {pieces.id_to_piece(number) for number in range(len(pieces))}
    return 2 * sum(word in known for word in words) >= len(words)
