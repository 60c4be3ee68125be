"""A language pair's sub-network against the full model: size, speed, memory, and what it says.

The full model is in fairseq with the plugin; its sub-network in fairseq alone and in CTranslate2,
quantized and with a smaller vocabulary. All are processes as a user starts them, by turns.
"""

import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

from tqdm import tqdm

from ..analysis.parameters import report_checkpoint
from ..checkpoint.manifest import read_manifest
from ..checkpoint.reading import Checkpoint, read_task_moe_checkpoint
from ..errors import refuse
from ..evaluation.scoring import bleu_metric
from ..read_files import read_lines
from ..serving.engine import Engine
from ..serving.open_model import open_engine
from .measure import Timing, describe
from .subnet_compare import best_texts, score_texts, share_identical, share_tied
from .subnet_runs import Run, Took, run_ctranslate2, run_extraction, run_full, run_stock
from .subnet_work import Sentences, Work, read_sentences

REFERENCE = "full"
STOCK = "fairseq"
TRIMMED = "_trimmed"  # at the end of a quantization: with a smaller vocabulary as well
WEIGHTS = {"fairseq": "model.pt", "ctranslate2": "model.bin"}
Row = Dict[str, Any]


class Variant(NamedTuple):
    """A model that was made to be measured."""

    run: Callable[[Path], Run]  # into files whose names begin so
    parameters: int
    vocabulary: int
    bytes: int  # of the file with its weights
    folder: Optional[Path] = None  # of a sub-network
    extraction: Optional[Took] = None


def bench_subnet(
    work: Work, names: Sequence[str], repeats: int, trim_vocabulary: Optional[str] = None,
    references: Optional[str] = None,
) -> Dict[str, Any]:
    """Return the report on the variants of names: full, fairseq, int8, int8_trimmed and so on.

    trim_vocabulary: the words that are kept, see `taskmoe extract`; without it those of the data.
    """
    checkpoint = read_task_moe_checkpoint(work.path)
    sentences = read_sentences(work, checkpoint)
    expected = _read_references(references, work, sentences) if references else None
    with tempfile.TemporaryDirectory(prefix="taskmoe-bench-") as temporary:
        folder, words = Path(temporary), trim_vocabulary or work.folder
        variants = {
            name: _make(name, work.absolute(), sentences, words, folder)
            for name in tqdm(names, desc="make variants", leave=False, disable=None)
        }
        runs: Dict[str, List[Run]] = {name: [] for name in names}
        for repeat in tqdm(range(repeats), desc="measure", leave=False, disable=None):
            for name, variant in variants.items():
                runs[name].append(variant.run(folder / f"{name}.{repeat}"))
        rows = {name: _row(variants[name], runs[name]) for name in names}
        first = {name: runs[name][0] for name in names}
        _compare(rows, first, variants, work, sentences, expected)
    _add_ratios(rows)
    settings = {
        **work._asdict(), "repeats": repeats, "trim_vocabulary": trim_vocabulary,
        "references": references,
    }
    report = {
        **describe(settings),
        "ctranslate2": version("ctranslate2"),
        "sentences": len(sentences.pieces),
        "source_pieces": sum(map(len, sentences.pieces)),
        "weight_bytes": weight_bytes(checkpoint),  # of the full model
        "variants": rows,
    }
    report["hardware"]["threads"] = work.threads  # of each process
    return report


def weight_bytes(checkpoint: Checkpoint) -> int:
    """Return what the weights in a checkpoint take, shared ones once."""
    return sum({w.data_ptr(): w.nbytes for w in checkpoint["model"].values()}.values())


def extraction_flags(name: str, words: str) -> List[str]:
    """Return what makes a variant of a name; words is for those of a smaller vocabulary."""
    if name == STOCK:
        return ["--format", "fairseq"]
    flags = ["--format", "ctranslate2", "--quantization", name.removesuffix(TRIMMED)]
    return [*flags, "--trim-vocabulary", words] if name.endswith(TRIMMED) else flags


def _make(name: str, work: Work, sentences: Sentences, words: str, folder: Path) -> Variant:
    """Make a variant; a sub-network gets a folder of its name."""
    if name == REFERENCE:
        vocabulary = len(read_task_moe_checkpoint(work.path)["task_state"]["words"])
        return Variant(
            lambda out: run_full(work, sentences, out),
            report_checkpoint(work.path).full.total_shared, vocabulary, os.path.getsize(work.path),
        )
    own = folder / name
    took = run_extraction(work, extraction_flags(name, words), own)
    manifest = read_manifest(str(own))
    run = run_stock if name == STOCK else run_ctranslate2
    return Variant(
        lambda out: run(own, work, sentences, out), manifest.parameters, manifest.vocabulary,
        (own / WEIGHTS[manifest.format]).stat().st_size, own, took,
    )


def _row(variant: Variant, runs: Sequence[Run]) -> Row:
    first, timing = runs[0], Timing([run.seconds for run in runs])
    took = variant.extraction
    return {
        "extraction_seconds": took and took.seconds,
        "extraction_peak_bytes": took and took.peak_bytes,
        "parameters": variant.parameters,
        "vocabulary": variant.vocabulary,
        "bytes": variant.bytes,
        "load_seconds": Timing([run.load_seconds for run in runs]).median,
        "seconds": timing.median,
        "spread": timing.spread if len(runs) > 1 else None,
        "pieces": first.pieces,
        "tokens_per_second": first.pieces / timing.median,
        "peak_bytes": max(run.peak_bytes for run in runs),
    }


def _compare(
    rows: Dict[str, Row], runs: Dict[str, Run], variants: Dict[str, Variant], work: Work,
    sentences: Sentences, references: Optional[List[str]],
) -> None:
    """Add to rows how good the translations are, by the full model's and by references."""
    texts = {}
    for name, run in runs.items():
        ends = work.cuts_off and name not in (REFERENCE, STOCK)
        engine = _open(variants[name], work) if ends else None
        texts[name] = best_texts(run, sentences, work, engine)
    if REFERENCE in rows:
        # which computes what the full model computes, in less memory
        judge = _open(variants[STOCK], work) if STOCK in variants else None
        for name, row in rows.items():
            pair = texts[name], texts[REFERENCE]
            row["identical"] = share_identical(*pair, sentences)
            row["tied"] = share_tied(*pair, sentences, work, judge) if judge else None
    if references is not None:
        for name, row in rows.items():
            score = score_texts(texts[name], references, sentences, work)
            row.update(bleu=score.bleu, chrf=score.chrf, signature=score.signature)


def _open(variant: Variant, work: Work) -> Engine:
    folder = str(variant.folder)
    return open_engine(folder, read_manifest(folder), "cpu", work.threads)


def _read_references(path: str, work: Work, sentences: Sentences) -> List[str]:
    bleu_metric(work.lang_pair)  # refuses what would fail after an hour of translating
    if not os.path.isfile(path):
        refuse(f"--references {path}: no such file")
    lines = read_lines(path)
    if len(lines) != len(sentences.pieces):
        refuse(f"--references {path}: {len(lines)} lines for the {len(sentences.pieces)} sentences "
               f"of {work.lang_pair}")
    return lines


def _add_ratios(rows: Dict[str, Row]) -> None:
    full = rows.get(REFERENCE)
    if full is None:
        return
    for row in rows.values():
        row["speed_of_full"] = row["tokens_per_second"] / full["tokens_per_second"]
        row["memory_of_full"] = row["peak_bytes"] / full["peak_bytes"]
        for score in ("bleu", "chrf"):
            if score in row:
                row[f"{score}_difference"] = row[score] - full[score]
