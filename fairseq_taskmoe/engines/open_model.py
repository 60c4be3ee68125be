"""Opening what `taskmoe extract` has left, in any of its formats."""

from pathlib import Path
from typing import Tuple

from ..errors import Refusal, refuse
from ..host_cores import default_threads
from .engine import Engine, Tags
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
    if manifest.format == "ctranslate2":
        from .ctranslate2_cpu import ctranslate2
        from .ctranslate2_engine import Cores, Ctranslate2Engine

        has_gpu = ctranslate2.get_cuda_device_count() > 0
        device = choose_device(device, has_gpu)
        cores = Cores.share(
            threads or default_threads(), for_throughput and device == "cpu"
        )
        return Ctranslate2Engine(folder, tags, str(manifest.quantization), device, cores)
    import torch

    from .. import register  # noqa: F401
    from ..checkpoint.reading import read_task_moe_checkpoint
    from .fairseq_engine import stock_engine, task_moe_engine

    device = choose_device(device, torch.cuda.is_available())
    if threads:
        torch.set_num_threads(threads)
    if manifest.format == "fairseq":
        return stock_engine(folder, tags, device)
    checkpoint = read_task_moe_checkpoint(f"{folder}/model.pt")
    for name, value in checkpoint["cfg"]["model"].items():
        if isinstance(value, str) and "${" in value:  # OmegaConf would look it up: ${oc.env:HOME}
            refuse(f"{folder}: its setting {ascii(name)[:64]} refers to something else")
    return task_moe_engine(checkpoint, tags, device)


def choose_device(device: str, has_gpu: bool) -> str:
    """Return cpu or cuda for one of DEVICES, refusing a GPU that is not there."""
    if device == "cuda" and not has_gpu:
        refuse("--device cuda: this machine has no GPU that can be used")
    return {"auto": "cuda" if has_gpu else "cpu"}.get(device, device)
