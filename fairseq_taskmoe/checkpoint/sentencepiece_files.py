"""The SentencePiece model of a run: finding it, and leaving out pieces that a model lacks."""

import logging
import os
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any, Optional, Sequence, Set

import sentencepiece

from ..errors import refuse
from .reading import Checkpoint

logger = logging.getLogger(__name__)

NAMES = ("spm.model", "sentencepiece.bpe.model")
NUM_SPECIAL = 4  # words that a dictionary begins with: <s> <pad> </s> <unk>


def find_sentencepiece_model(path: str, checkpoint: Checkpoint) -> Optional[str]:
    """Return the SentencePiece model of a run: its --sentencepiece-model, or one nearby.

    It is looked for beside the checkpoint, which is where an extraction puts it, beside the data,
    and in the folder that holds the data. One that does not fit is passed over.
    """
    bpe = checkpoint["cfg"].get("bpe")
    named = bpe.get("sentencepiece_model") if isinstance(bpe, dict) else None
    data = str(checkpoint["cfg"]["task"].get("data") or "").split(os.pathsep)[0]
    folders = [os.path.dirname(os.path.abspath(path))]
    folders += [data, os.path.dirname(os.path.abspath(data))] if data else []
    candidates = [os.path.join(folder, name) for folder in folders for name in NAMES]
    for file in [named, *candidates]:
        if file and os.path.isfile(file):
            if fits(open_sentencepiece(file), checkpoint["task_state"]["words"]):
                return file
            logger.warning("%s is not the model's: few of its words are pieces there", file)
    logger.warning("no SentencePiece model found near the checkpoint or its data, so texts are "
                   "pieces; name one with --sentencepiece-model")
    return None


def fits(spm: sentencepiece.SentencePieceProcessor, words: Sequence[str]) -> bool:
    """Say whether most of a model's words are pieces of a SentencePiece model."""
    pieces = {spm.id_to_piece(i) for i in range(len(spm))}
    own = [word for word in words[NUM_SPECIAL:] if not word.startswith("madeupword")]
    return 2 * sum(word in pieces for word in own) >= len(own)


def open_sentencepiece(path: str) -> sentencepiece.SentencePieceProcessor:
    """Return the SentencePiece model of a file."""
    if not os.path.isfile(path):
        refuse(f"--sentencepiece-model {path}: no such file")
    try:
        return sentencepiece.SentencePieceProcessor(model_file=path)
    except (RuntimeError, OSError):
        refuse(f"--sentencepiece-model {path}: no SentencePiece model")


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
