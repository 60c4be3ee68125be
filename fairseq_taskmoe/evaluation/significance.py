"""Paired bootstrap tests between systems, from the folders that `taskmoe evaluate` writes.

The test is sacrebleu's (Koehn, 2004): the same test sentences are drawn with replacement for both
systems, many times. p is the fraction of the draws in which the difference, relative to its mean,
is larger than the observed difference.
"""

import os
from contextlib import contextmanager
from statistics import fmean
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from sacrebleu.metrics.base import Metric
from sacrebleu.significance import PairedTest, Result
from tqdm import tqdm

from ..errors import refuse
from ..metrics.registry import METRICS
from ..read_files import read_lines
from ..text_tables import aligned
from .significance_inputs import Evaluated, Evaluation, check_comparable, open_system

SIGNIFICANT = 0.05


def compare_systems(
    baseline: str, others: Sequence[str], metric: str = "bleu", samples: int = 1000,
    seed: int = 12345,
) -> Dict[str, Any]:
    """Compare systems, as open_system reads them, with a baseline in their common directions.

    Returns {"baseline": row, "metric", "signature": {pair: signature}, "rows": {row: {pair:
    {"baseline", "score", "delta", "delta_bleu", "p"}}}}: scores in the metric, from 0 to 100, and
    their difference; the difference in BLEU; and the p-value of the difference in the metric. A row
    is named after the folder that contains evaluation/. Refuses systems that were translated by
    different searches, or scored against different references or in different ways.
    """
    if metric not in METRICS:
        refuse(f"--metric {metric}: choose from {', '.join(METRICS)}")
    base = open_system(baseline)
    systems = [open_system(other) for other in others]
    rows = [system.row for system in (base, *systems)]
    for row in rows:
        if rows.count(row) > 1:
            refuse(f"two of the folders belong to a row {row}: a row is named after the folder "
                   "that contains evaluation/")
    for system in systems:
        check_comparable(base, system)
    signatures: Dict[str, str] = {}
    tests: Dict[str, Dict[str, Any]] = {system.row: {} for system in systems}
    for pair in tqdm(base.directions, unit="direction", leave=False, disable=None):
        compared = [system for system in systems if pair in system.directions]
        if compared:
            built = METRICS[metric].build(pair, base.directions[pair].config.get("tokenize"))
            signatures[pair], results = _compare_direction(
                built, pair, base, compared, samples, seed
            )
            for row, test in results.items():
                tests[row][pair] = test
    return {"baseline": base.row, "metric": metric, "signature": signatures, "rows": tests}


def _compare_direction(
    metric: Metric, pair: str, base: Evaluated, systems: Sequence[Evaluated], samples: int,
    seed: int,
) -> Tuple[str, Dict[str, Any]]:
    """Return sacrebleu's signature, and the test of each system by its row."""
    all_systems = [system.directions[pair] for system in (base, *systems)]
    references = read_lines(all_systems[0].texts.references(pair))
    translations = [_read_translations(one, pair, len(references)) for one in all_systems]
    signature, (baseline, *results) = paired_bootstrap(
        metric, translations, references, samples, seed
    )
    base_bleu = base.directions[pair].score["bleu"]
    tests = {}
    for system, result in zip(systems, results, strict=True):
        delta = result.score - baseline.score
        tests[system.row] = {
            "baseline": baseline.score,
            "score": result.score,
            "delta": delta,
            "delta_bleu": system.directions[pair].score["bleu"] - base_bleu,
            # for two equal systems no draw differs, which sacrebleu reports as significant
            "p": result.p_value if delta else 1.0,
        }
    return signature, tests


def _read_translations(evaluation: Evaluation, pair: str, expected: int) -> List[str]:
    file = evaluation.texts.hypotheses(pair)
    lines = read_lines(file)
    if len(lines) != expected:
        refuse(f"{file}: {len(lines)} lines for {expected} references")
    return lines


def paired_bootstrap(
    metric: Metric, translations: Sequence[Sequence[str]], references: Sequence[str],
    samples: int, seed: int,
) -> Tuple[str, List[Result]]:
    """Return sacrebleu's signature, and a result for each system, the baseline first."""
    named = [(str(number), lines) for number, lines in enumerate(translations)]
    with sacrebleu_seed(seed):
        test = PairedTest(
            named, {"metric": metric}, [references], test_type="bs", n_samples=samples
        )
        signatures, results = test()
    (name, signature), = signatures.items()
    return str(signature), [result for result in results[name] if isinstance(result, Result)]


@contextmanager
def sacrebleu_seed(seed: int) -> Iterator[None]:
    """Set the seed of sacrebleu's draws, which sacrebleu reads only from the environment."""
    before = os.environ.get("SACREBLEU_SEED")
    os.environ["SACREBLEU_SEED"] = str(seed)
    try:
        yield
    finally:
        del os.environ["SACREBLEU_SEED"]
        if before is not None:
            os.environ["SACREBLEU_SEED"] = before


def comparison_table(report: Dict[str, Any]) -> str:
    """Return a report of compare_systems as aligned text: differences with their p, and means."""
    rows: Dict[str, Dict[str, Dict[str, float]]] = report["rows"]
    lines = [[report["metric"], report["baseline"], *rows]]
    baseline: List[float] = []
    for pair in report["signature"]:
        tests: List[Optional[Dict[str, float]]] = [tests.get(pair) for tests in rows.values()]
        score = next(test["baseline"] for test in tests if test is not None)
        baseline.append(score)
        cells = ["-" if t is None else f"{t['delta']:+.2f} (p {t['p']:.3f})" for t in tests]
        lines.append([pair, f"{score:.2f}", *cells])
    means = [f"{fmean(t['delta'] for t in tests.values()):+.2f}" for tests in rows.values()]
    lines.append(["mean", f"{fmean(baseline):.2f}", *means])
    for name, sign in (("better", 1), ("worse", -1)):
        counts = [
            sum(t["p"] < SIGNIFICANT and t["delta"] * sign > 0 for t in tests.values())
            for tests in rows.values()
        ]
        totals = [
            f"{count} of {len(tests)}" for count, tests in zip(counts, rows.values(), strict=True)
        ]
        lines.append([f"{name}, p < {SIGNIFICANT}", "", *totals])
    return "\n".join(aligned(lines))
