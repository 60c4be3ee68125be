"""The demo's sub-networks: extraction, comparison with the full model, size and speed."""

import shutil
import time
from operator import eq
from pathlib import Path
from typing import Any, Callable, Dict, List

from examples.demo.prepare import DIRECTIONS
from examples.demo.report import BATCHING, SEARCH
from examples.demo.stages import progress
from fairseq_taskmoe.checkpoint.load_models import load_stock
from fairseq_taskmoe.engines.engine import SearchOptions
from fairseq_taskmoe.engines.manifest import read_manifest
from fairseq_taskmoe.engines.open_model import open_model
from fairseq_taskmoe.evaluation.compare import compare
from fairseq_taskmoe.evaluation.translate import load_for_pairs, translate_pairs
from fairseq_taskmoe.metrics.scoring import score_direction
from fairseq_taskmoe.read_files import read_lines
from fairseq_taskmoe.subnet.folder import Extraction, extract

TOLERANCE = 1e-4  # of log-probabilities in float32
MEASURED = "en-de"  # the direction whose speed is measured
FAIRSEQ_MODEL, CTRANSLATE2_MODEL = "model.pt", "model.bin"
# one model for each target language, as all directions into a language have the same experts
TARGETS = {
    language: [pair for pair in DIRECTIONS if pair.endswith(f"-{language}")]
    for language in sorted({pair.split("-")[1] for pair in DIRECTIONS})
}


def extract_directions(checkpoint: Path, out: Path) -> str:
    """Extract the sub-network of each direction for fairseq."""
    for pair in progress(DIRECTIONS, "sub-networks"):
        shutil.rmtree(out / "subnets" / pair, ignore_errors=True)
        extraction = Extraction("fairseq", str(out / "spm.model"))
        extract(str(checkpoint), [pair], str(out / "subnets" / pair), extraction)
    return f"{len(DIRECTIONS)} sub-networks for fairseq"


def export_targets(checkpoint: Path, out: Path) -> str:
    """Extract a model for each target language for CTranslate2, in int8."""
    for language, pairs in progress(list(TARGETS.items()), "models"):
        shutil.rmtree(out / "int8" / language, ignore_errors=True)
        extraction = Extraction("ctranslate2", str(out / "spm.model"), quantization="int8")
        extract(str(checkpoint), pairs, str(out / "int8" / language), extraction)
    return f"{len(TARGETS)} models for CTranslate2 in int8"


def check_subnets(data: Path, checkpoint: Path, out: Path) -> Dict[str, Any]:
    """Compare every sub-network with the full model on the validation set."""
    full, task = load_for_pairs(str(data), str(checkpoint), DIRECTIONS)
    generation = SEARCH.config()
    checks = []
    for pair in progress(DIRECTIONS, "sub-networks compared"):
        subnet = load_stock(str(out / "subnets" / pair)).model
        checks.append(compare(full, subnet, task, pair, "valid", generation, BATCHING))
    manifest = read_manifest(str(out / "subnets" / MEASURED))
    return {
        "subnet_max_abs_logprob_diff": max(check.max_abs_logprob_diff for check in checks),
        "subnet_hypotheses": sum(check.hypotheses for check in checks),
        "subnet_hypotheses_different": sum(check.different for check in checks),
        "of_which_ties": sum(check.ties for check in checks),
        "params_full": manifest.source_checkpoint["parameters"],
        "params_subnet": manifest.parameters,
    }


def problem(facts: Dict[str, Any]) -> str:
    """Return how the sub-networks differ from the full model, apart from ties; or nothing."""
    not_tied = facts["subnet_hypotheses_different"] - facts["of_which_ties"]
    if facts["subnet_max_abs_logprob_diff"] <= TOLERANCE and not not_tied:
        return ""
    return "the sub-networks do not compute what the full model computes"


def measure(data: Path, checkpoint: Path, out: Path) -> Dict[str, Any]:
    """Return the speed of the full model, a sub-network, and its int8 form; and the latter's size.

    The int8 translations are compared with those of the full model.
    """
    source, target = MEASURED.split("-")
    folders = {"sources": source, "references": target, "hypotheses": target}
    sources, references, translations = (
        read_lines(str(out / "evaluation" / folder / f"test.{MEASURED}.{language}"))
        for folder, language in folders.items()
    )
    full, task = load_for_pairs(str(data), str(checkpoint), [MEASURED])
    subnet, int8 = out / "subnets" / MEASURED, out / "int8" / target

    def translate_full() -> List[str]:
        ((_, texts),) = translate_pairs(
            full, task, [MEASURED], "test", SEARCH.config(), BATCHING, fold=False
        )
        return texts or []

    def with_model(folder: Path) -> Callable[[], List[str]]:
        model, options = open_model(str(folder)), SearchOptions(beam=SEARCH.beam)
        return lambda: [ranked[0].text for ranked in model.translate(MEASURED, sources, options)]

    quantized = with_model(int8)
    runs = {"full": translate_full, "subnet": with_model(subnet), "int8": quantized}
    outputs = quantized()
    chrf, full_chrf = (
        score_direction(MEASURED, texts, references)["chrf"] for texts in (outputs, translations)
    )
    return {
        "measured": MEASURED,
        **{f"{name}_sentences_per_second": round(len(sources) / fastest(run))
           for name, run in runs.items()},
        "subnet_bytes": (subnet / FAIRSEQ_MODEL).stat().st_size,
        "int8_bytes": (int8 / CTRANSLATE2_MODEL).stat().st_size,
        "int8_same": sum(map(eq, outputs, translations)) / len(outputs),
        "int8_chrf_change": round(chrf - full_chrf, 2),
    }


def fastest(action: Callable[[], Any]) -> float:
    """Return the seconds of the fastest of three runs."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return min(times)
