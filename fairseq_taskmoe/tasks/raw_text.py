"""Raw text in fairseq-interactive: splitting it with the run's SentencePiece model."""

import logging
from typing import Optional, Sequence

from torch import Tensor

from ..piece_model import NoPieceModel, fits, load_pieces, piece_models_near

logger = logging.getLogger(__name__)

SPACE = "\u2581"  # begins a word in SentencePiece's pieces


class RunPieces:
    """The SentencePiece model of a run, with the interface of fairseq's BPE."""

    def __init__(self, file: str):
        self.pieces = load_pieces(file)

    def encode(self, text: str) -> str:
        """Return the pieces of a line; a line that consists of pieces stays as it is."""
        return text if SPACE in text else " ".join(self.pieces.encode(text, out_type=str))

    def decode(self, pieces: str) -> str:
        return str(self.pieces.decode(pieces.split()))


def find_run_pieces(checkpoint: str, data: str, words: Sequence[str]) -> Optional[RunPieces]:
    """Return the SentencePiece model near a checkpoint or its data that fits the dictionary."""
    for file in piece_models_near(checkpoint, data):
        try:
            found = RunPieces(file)
        except (NoPieceModel, OSError):
            continue
        if fits(found.pieces, words):
            logger.info("input is split with %s; give --bpe and its flags to use another", file)
            return found
    return None


def warn_of_unknown(sources: Sequence[Tensor], unknown: int, first: int) -> None:
    """Warn of lines (S,), each with its end of sentence, that are mostly unknown words.

    first is the number of the first line, counted from 0.
    """
    strange = [
        first + number for number, source in enumerate(sources, start=1)
        if 2 * int(source.eq(unknown).sum()) > len(source) - 1
    ]
    if strange:
        logger.warning(
            "more than half of line %d is unknown to the model (and %d of these %d lines in all); "
            "is it in the source language, and split into pieces as the training data was? "
            "(--bpe sentencepiece --sentencepiece-model FILE)",
            strange[0], len(strange), len(sources),
        )
