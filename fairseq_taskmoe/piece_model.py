"""Reading a SentencePiece model: whole, with pieces that are text, or not at all."""

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
        if not content or not len(model):  # of nothing SentencePiece makes a model without pieces
            raise NoPieceModel(f"{path}: no SentencePiece model")
        for number in range(len(model)):
            model.id_to_piece(number)  # raises what is no text, as of a changed byte
    except (RuntimeError, UnicodeDecodeError) as problem:
        raise NoPieceModel(f"{path}: no SentencePiece model, or a damaged one") from problem
    return model
