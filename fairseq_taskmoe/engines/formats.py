"""The formats of `taskmoe extract` as this package runs them: the files each needs, and its engine.

How a format is written, and what its README says, is in subnet/formats.py.
"""

from typing import Callable, Dict, NamedTuple, Sequence, Tuple

from ..errors import refuse
from ..host import default_threads
from .engine import Engine, Tags


class Opening(NamedTuple):
    """How a model folder is opened."""

    folder: str
    tags: Dict[str, Tags]  # pair -> the tags of its sources and targets
    quantization: str
    device: str = "cpu"  # cpu, cuda or auto
    threads: int = 0  # on CPU; 0: OMP_NUM_THREADS, or one a core
    for_throughput: bool = False  # large batches matter, and single sentences may wait longer


class StoredFormat(NamedTuple):
    """A format: the files that opening it reads, and the function that opens it."""

    files: Tuple[str, ...]
    has_dictionaries: bool  # dict.LANG.txt of each language
    open: Callable[[Opening], Engine]
    quantizes: bool = False  # whether --quantization and --device apply when it is written


def _open_stock(opening: Opening) -> Engine:
    device = prepare_torch(opening.device, opening.threads)
    from .fairseq_engine import stock_engine

    return stock_engine(opening.folder, opening.tags, device)


def _open_task_moe(opening: Opening) -> Engine:
    device = prepare_torch(opening.device, opening.threads)
    from ..checkpoint.reading import read_model
    from .fairseq_engine import task_moe_engine

    trained = read_model(f"{opening.folder}/model.pt")
    for name, value in trained.checkpoint["cfg"]["model"].items():
        if isinstance(value, str) and "${" in value:  # OmegaConf would resolve ${oc.env:HOME}
            refuse(f"{opening.folder}: its setting {ascii(name)[:64]} contains an interpolation")
    return task_moe_engine(trained, opening.tags, device)


def _open_ctranslate2(opening: Opening) -> Engine:
    from .ctranslate2_cpu import ctranslate2
    from .ctranslate2_engine import Ctranslate2Engine, Threads

    device = choose_device(opening.device, ctranslate2.get_cuda_device_count() > 0)
    threads = Threads.divide(
        opening.threads or default_threads(), opening.for_throughput and device == "cpu"
    )
    return Ctranslate2Engine(opening.folder, opening.tags, opening.quantization, device, threads)


def _open_huggingface(opening: Opening) -> Engine:
    device = prepare_torch(opening.device, opening.threads)
    from .huggingface_engine import HuggingFaceEngine

    return HuggingFaceEngine(opening.folder, opening.tags, device)


def prepare_torch(device: str, threads: int) -> str:
    """Load the plugin, set torch's threads, and return the device."""
    import torch

    from .. import register  # noqa: F401

    if threads:
        torch.set_num_threads(threads)
    return choose_device(device, torch.cuda.is_available())


STORED_FORMATS: Dict[str, StoredFormat] = {
    "fairseq": StoredFormat(("model.pt",), True, _open_stock),
    "taskmoe": StoredFormat(("model.pt",), False, _open_task_moe),
    "ctranslate2": StoredFormat(
        ("model.bin", "config.json", "shared_vocabulary.json"), False, _open_ctranslate2,
        quantizes=True,
    ),
    "huggingface": StoredFormat(
        ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
         "tokenizer_config.json"), False, _open_huggingface,
    ),
}


def needed_files(name: str, languages: Sequence[str]) -> Sequence[str]:
    """Return the files that a model folder of a format has to hold."""
    stored = STORED_FORMATS[name]
    dictionaries = [f"dict.{lang}.txt" for lang in languages] if stored.has_dictionaries else []
    return [*stored.files, *dictionaries]


def choose_device(device: str, has_gpu: bool) -> str:
    """Return cpu or cuda for one of DEVICES; refuses cuda without a GPU."""
    if device == "cuda" and not has_gpu:
        refuse("--device cuda: this machine has no usable GPU")
    return {"auto": "cuda" if has_gpu else "cpu"}.get(device, device)
