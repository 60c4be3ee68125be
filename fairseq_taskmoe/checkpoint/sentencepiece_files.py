"""The SentencePiece model of a run: finding it, and leaving out pieces that a model lacks."""

import os
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any, Optional, Set

import sentencepiece

from ..errors import refuse
from .reading import Checkpoint

NAMES = ("spm.model", "sentencepiece.bpe.model")


def find_sentencepiece_model(checkpoint: Checkpoint) -> Optional[str]:
    """Return the SentencePiece model of a run: its --sentencepiece-model, or beside its data."""
    bpe = checkpoint["cfg"].get("bpe")
    named = bpe.get("sentencepiece_model") if isinstance(bpe, dict) else None
    data = str(checkpoint["cfg"]["task"].get("data") or "").split(os.pathsep)[0]
    folders = [data, os.path.dirname(os.path.abspath(data))]
    candidates = [os.path.join(folder, name) for folder in folders for name in NAMES]
    return next((file for file in [named, *candidates] if file and os.path.isfile(file)), None)


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
        if piece.type == kinds.NORMAL and piece.piece not in kept:
            piece.type = kinds.UNUSED
    out.write_bytes(model.SerializeToString())
