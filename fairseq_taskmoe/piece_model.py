"""Reading a SentencePiece model; one that is damaged, or has pieces that are not text, fails."""

from pathlib import Path
from typing import Union

import sentencepiece


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
