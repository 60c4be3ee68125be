"""Opening what `taskmoe extract` has left, in any of its formats."""

from pathlib import Path
from typing import Tuple

from ..errors import Refusal, refuse
from .engine import Engine, Tags
from .formats import STORED_FORMATS, Opening
from .manifest import Manifest, read_manifest
from .translator import Translator

DEVICES = ("cpu", "cuda", "auto")


def open_model(
    folder: str, device: str = "cpu", threads: int = 0, for_throughput: bool = False
) -> Translator:
    """Return a translator for a model folder, refusing one that is not as its manifest says.

    device is one of DEVICES; threads is their number on CPU, 0 for OMP_NUM_THREADS or one a core.
    for_throughput: large batches matter, and single sentences may wait longer.
    """
    manifest = read_manifest(folder)
    spm = manifest.sentencepiece_model
    try:
        engine = open_engine(folder, manifest, device, threads, for_throughput)
        source, target = _room(engine)
        return Translator(
            engine,
            str(Path(folder) / spm) if spm else None,
            min(manifest.max_source_pieces, source),
            min(manifest.max_target_pieces, target),
        )
    except Refusal:
        raise
    # files that are what the manifest says may still be of no model, each library says so otherwise
    except Exception as problem:
        reason = f"{type(problem).__name__}: {problem}"
        refuse(f"{folder} is broken, or too large for this machine: "
               f"{ascii(' '.join(reason.split()))[1:-1][:300]}")


def _room(engine: Engine) -> Tuple[int, int]:
    """Return how many pieces of a source and of a target go with tags and end of the sentence."""
    tags = engine.tags.values()
    source = engine.max_positions[0] - max(len(each.source) for each in tags) - 1
    target = engine.max_positions[1] - max(len(each.target) for each in tags) - 1
    if min(source, target) < 1:
        raise ValueError(f"the model has room for {source} and {target} pieces")
    return source, target


def open_engine(
    folder: str, manifest: Manifest, device: str, threads: int = 0, for_throughput: bool = False
) -> Engine:
    """Return the engine of a model folder, as open_model does."""
    tags = {pair: Tags(**tags) for pair, tags in manifest.directions.items()}
    opening = Opening(folder, tags, str(manifest.quantization), device, threads, for_throughput)
    return STORED_FORMATS[manifest.format].open(opening)
