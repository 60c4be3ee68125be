"""Open a folder of `taskmoe extract`, of any format."""

from pathlib import Path
from typing import Optional, Sequence, Tuple

from ..errors import Refusal, refuse
from ..metrics.lang_pairs import split_pair
from .engine import Engine, Tags
from .formats import STORED_FORMATS, Opening
from .manifest import Manifest, read_manifest
from .translator import Translator

DEVICES = ("cpu", "cuda", "auto")


def open_model(
    folder: str, device: str = "cpu", threads: int = 0, for_throughput: bool = False
) -> Translator:
    """Return a translator for a model folder; refuses a folder that does not match its manifest.

    device is one of DEVICES. threads is for CPU; 0: OMP_NUM_THREADS, or one for each core.
    for_throughput: translate large batches faster, and single sentences more slowly.
    """
    manifest = read_manifest(folder)
    spm = manifest.sentencepiece_model
    try:
        engine = open_engine(folder, manifest, device, threads, for_throughput)
        source, target = max_pieces(engine)
        return Translator(
            engine,
            str(Path(folder) / spm) if spm else None,
            min(manifest.max_source_pieces, source),
            min(manifest.max_target_pieces, target),
        )
    except Refusal:
        raise
    # files that match the manifest may still be invalid; each library raises another exception
    except Exception as problem:
        reason = f"{type(problem).__name__}: {problem}"
        refuse(f"{folder} is broken, or too large for this machine: "
               f"{ascii(' '.join(reason.split()))[1:-1][:300]}")


def max_pieces(engine: Engine) -> Tuple[int, int]:
    """Return the maximum numbers of source and target pieces, besides tags and end of sentence."""
    tags = engine.tags.values()
    source = engine.max_positions[0] - max(len(each.source) for each in tags) - 1
    target = engine.max_positions[1] - max(len(each.target) for each in tags) - 1
    if min(source, target) < 1:
        raise ValueError(f"the model supports only {source} source and {target} target pieces")
    return source, target


def open_engine(
    folder: str, manifest: Manifest, device: str, threads: int = 0, for_throughput: bool = False
) -> Engine:
    """Return the engine of a model folder, as open_model does."""
    tags = {pair: Tags(**tags) for pair, tags in manifest.directions.items()}
    opening = Opening(folder, tags, str(manifest.quantization), device, threads, for_throughput)
    return STORED_FORMATS[manifest.format].open(opening)


def choose_pair(
    path: str, lang_pairs: Sequence[str], source: Optional[str], target: Optional[str]
) -> str:
    """Return the only one of lang_pairs that has the given languages; refuses none and several."""
    found = [
        pair for pair in lang_pairs
        if all(asked in (None, lang)
               for asked, lang in zip((source, target), split_pair(pair), strict=True))
    ]
    if len(found) != 1:
        asked = f"{source or '?'}-{target or '?'}"
        refuse(f"{path}: {asked} fits {len(found)} of its directions, {', '.join(lang_pairs)}; "
               "name the source and the target language of one")
    return found[0]
