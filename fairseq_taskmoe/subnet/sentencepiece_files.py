"""The SentencePiece model of a run: finding it, and leaving out pieces that a model lacks."""

import logging
import os
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Set

import sentencepiece

from ..checkpoint.contents import TrainedModel
from ..data.languages import real_words
from ..errors import refuse
from ..piece_model import NoPieceModel, fits, load_pieces, piece_models_near

logger = logging.getLogger(__name__)

class SentencePieceFile(NamedTuple):
    """A SentencePiece model, and where it is."""

    path: str
    processor: sentencepiece.SentencePieceProcessor


def choose_sentencepiece(
    named: Optional[str], path: str, trained: TrainedModel
) -> Optional[SentencePieceFile]:
    """Return the SentencePiece model of a checkpoint, the one named or else one found.

    It is searched for in the run's --sentencepiece-model, in the folder of the checkpoint (where an
    extraction writes it), in the folder of the data, and in the folder above the data. A file that
    does not fit, or cannot be read, is skipped; if it was named, it is refused.
    """
    words = real_words(trained.words)
    for file in [named] if named else _candidates(path, trained.checkpoint["cfg"]):
        processor = open_sentencepiece(file) if named else _read(file)
        if processor is None:
            logger.warning("%s is no SentencePiece model", file)
            continue
        found = SentencePieceFile(file, processor)
        if fits(found.processor, words):
            return found
        if named:
            refuse(f"--sentencepiece-model {file}: most of the model's words are no pieces of it")
        logger.warning("%s is not the model's: few of its words are pieces there", file)
    logger.warning("no SentencePiece model found near the checkpoint or its data, so texts are "
                   "pieces; name one with --sentencepiece-model")
    return None


def _candidates(path: str, settings: Dict[str, Any]) -> List[str]:
    """Return the files that may be a checkpoint's SentencePiece model, the most likely first."""
    bpe = settings.get("bpe")
    of_run = bpe.get("sentencepiece_model") if isinstance(bpe, dict) else None
    near = piece_models_near(path, str(settings["task"].get("data") or ""))
    return [of_run, *near] if of_run and os.path.isfile(of_run) else near


def open_sentencepiece(path: str) -> sentencepiece.SentencePieceProcessor:
    """Return the SentencePiece model of a file that a flag names."""
    if not os.path.isfile(path):
        refuse(f"--sentencepiece-model {path}: no such file")
    processor = _read(path)
    if processor is None:
        refuse(f"--sentencepiece-model {path}: no SentencePiece model, or a damaged one")
    return processor


def _read(path: str) -> Optional[sentencepiece.SentencePieceProcessor]:
    """Return the SentencePiece model of a file, None if it has none."""
    try:
        return load_pieces(path)
    except (NoPieceModel, OSError):
        return None


def write_sentencepiece(path: str, out: Path, kept: Optional[Set[str]]) -> None:
    """Copy a SentencePiece model; with kept, it spells texts with those pieces alone."""
    if kept is None:
        shutil.copyfile(path, out)
        return
    try:
        formats: Any = import_module("sentencepiece.sentencepiece_model_pb2")
    except ImportError:
        refuse("--trim-vocabulary needs the Python package protobuf, which is not installed")
    model = formats.ModelProto()
    model.ParseFromString(Path(path).read_bytes())
    kinds = formats.ModelProto.SentencePiece
    for piece in model.pieces:
        if piece.type in (kinds.NORMAL, kinds.USER_DEFINED) and piece.piece not in kept:
            piece.type = kinds.UNUSED
    out.write_bytes(model.SerializeToString())
