"""The formats in which `taskmoe extract` writes a sub-network: files, and text of the README.

To add one, add it to FORMATS here and to STORED_FORMATS in engines/formats.py, which opens it.
"""

from pathlib import Path
from typing import Callable, Dict, NamedTuple, Optional, Sequence, Union

from ..checkpoint.contents import Checkpoint, TrainedModel
from ..checkpoint.convert_shards import write
from ..data.languages import NUM_SPECIAL
from ..engines.manifest import Manifest
from ..metrics.lang_pairs import languages_of
from .extract import Subnet, count_parameters
from .model_card import card_header, scores, with_transformers
from .prune import Pruning
from .readme import with_ctranslate2, with_plugin, with_stock_fairseq
from .to_fairseq import stock_checkpoint, taskmoe_checkpoint
from .verify import QUANTIZED_TOLERANCE, TOLERANCE

MODEL = "model.pt"
SENTENCEPIECE = "spm.model"


class Extraction(NamedTuple):
    """What to make of a sub-network."""

    format: str = "fairseq"  # one of FORMATS
    sentencepiece_model: Optional[str] = None  # a file; None: search for it near the data
    quantization: str = "float32"  # with ctranslate2
    device: str = "cpu"  # where the model is to run: cpu or cuda
    trim_vocabulary: Optional[str] = None  # a source of trim_vocabulary.used_words
    trim_min_count: int = 1
    pruning: Optional[Pruning] = None
    license: Optional[str] = None  # with huggingface
    results: Optional[str] = None  # a results.json, whose scores go into the README

    @property
    def tolerance(self) -> float:
        """Return how far the model's log-probability of a piece may be from what it is to be."""
        return TOLERANCE if self.quantization == "float32" else QUANTIZED_TOLERANCE


class Format(NamedTuple):
    """A format: how a sub-network is written, and the commands in its README."""

    needs: str  # what runs it
    needs_dense: bool  # whether all layers must be dense
    # (trained, subnet, what, folder) -> the number of parameters written, padding included
    write: Callable[[TrainedModel, Subnet, Extraction, Path], int]
    commands: Callable[[Manifest, Subnet, TrainedModel], str]  # that run it, as Markdown
    check: Callable[[Extraction], None] = lambda what: None  # refuses what it cannot hold
    can_run: Callable[[Extraction], bool] = lambda what: True  # on this machine
    header: Callable[[Manifest, Extraction], str] = lambda manifest, what: ""  # of its README


def readme(
    manifest: Manifest, subnet: Subnet, trained: TrainedModel, what: Extraction
) -> str:
    """Return the README.md of the folder of a sub-network, cut out of the model trained."""
    pairs, known = ", ".join(manifest.directions), FORMATS[manifest.format]
    pair = next(iter(manifest.directions))
    missing = "" if manifest.sentencepiece_model else (
        "\nNo SentencePiece model was found beside the data: input and output are pieces.\n"
    )
    named = f" --lang-pair {pair}" if len(manifest.directions) > 1 else ""
    return (
        f"{known.header(manifest, what)}# Sub-network {pairs}\n\nNeeds {known.needs}.\n{missing}\n"
        "In this folder, for text on standard input:\n\n"
        f"    taskmoe translate .{named}\n\n{known.commands(manifest, subnet, trained)}"
        f"{scores(subnet.lang_pairs, what.results) if what.results else ''}"
    )


def write_dictionaries(
    model: Union[Subnet, TrainedModel], languages: Sequence[str], folder: Path
) -> None:
    """Write the dictionary of a model as dict.LANG.txt of each language."""
    pairs = zip(model.words, model.word_counts, strict=True)
    lines = [f"{word} {count}\n" for word, count in list(pairs)[NUM_SPECIAL:]]
    for lang in languages:
        (folder / f"dict.{lang}.txt").write_text("".join(lines), encoding="utf-8", newline="\n")


def _write_stock(trained: TrainedModel, subnet: Subnet, what: Extraction, folder: Path) -> int:
    return _write_checkpoint(stock_checkpoint(trained, subnet), subnet, folder)


def _write_task_moe(trained: TrainedModel, subnet: Subnet, what: Extraction, folder: Path) -> int:
    return _write_checkpoint(taskmoe_checkpoint(trained, subnet), subnet, folder)


def _write_checkpoint(checkpoint: Checkpoint, subnet: Subnet, folder: Path) -> int:
    write(checkpoint, str(folder / MODEL))
    write_dictionaries(subnet, languages_of(subnet.lang_pairs), folder)
    return count_parameters(checkpoint["model"])


def _write_ctranslate2(
    trained: TrainedModel, subnet: Subnet, what: Extraction, folder: Path
) -> int:
    from .to_ctranslate2 import write_ctranslate2  # ctranslate2 may not be installed

    parameters = subnet.num_parameters  # before the weights are taken out
    write_ctranslate2(subnet, what.quantization, folder)
    return parameters


def _write_huggingface(
    trained: TrainedModel, subnet: Subnet, what: Extraction, folder: Path
) -> int:
    from .to_huggingface import write_huggingface  # transformers may not be installed

    spm = folder / SENTENCEPIECE
    return write_huggingface(subnet, spm if spm.exists() else None, folder)


def _huggingface_header(manifest: Manifest, what: Extraction) -> str:
    return card_header(manifest, what.license)


def _check_ctranslate2(what: Extraction) -> None:
    from .to_ctranslate2 import check_quantization

    check_quantization(what.quantization, what.device)


def _can_run_ctranslate2(what: Extraction) -> bool:
    from ..engines.ctranslate2_cpu import ctranslate2

    return what.device == "cpu" or ctranslate2.get_cuda_device_count() > 0


FORMATS: Dict[str, Format] = {
    "fairseq": Format(
        "fairseq alone, without the plugin it was trained with; `taskmoe translate` is the "
        "plugin's", True, _write_stock, with_stock_fairseq,
    ),
    "taskmoe": Format("fairseq and fairseq-taskmoe", False, _write_task_moe, with_plugin),
    "ctranslate2": Format(
        "ctranslate2 and sentencepiece; `taskmoe translate` is fairseq-taskmoe's",
        True, _write_ctranslate2, with_ctranslate2, _check_ctranslate2, _can_run_ctranslate2,
    ),
    "huggingface": Format(
        "transformers; `taskmoe translate` is fairseq-taskmoe's", True, _write_huggingface,
        with_transformers, header=_huggingface_header,
    ),
}
