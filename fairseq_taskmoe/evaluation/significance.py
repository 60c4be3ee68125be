"""Is one system better than another? Paired bootstrap over what `taskmoe evaluate` left behind.

The test is sacrebleu's own (Koehn, 2004): the same test sentences are drawn for both systems, with
replacement, many times over; p is the share of draws whose difference, around its mean, is larger
than the one observed.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sacrebleu.metrics import CHRF
from sacrebleu.metrics.base import Metric
from sacrebleu.significance import PairedTest, Result
from tqdm import tqdm

from ..errors import refuse
from ..metrics.scoring import bleu_metric
from ..read_files import read_lines
from .significance_inputs import Evaluated, Evaluation, check_comparable, open_system

SIGNIFICANT = 0.05


def compare_systems(
    baseline: str, others: Sequence[str], metric: str = "bleu", samples: int = 1000,
    seed: int = 12345,
) -> dict[str, Any]:
    """Compare systems, as open_system reads them, with a baseline in the directions in common.

    Returns {"baseline": row, "metric", "signature": {pair: signature}, "rows": {row: {pair:
    {"baseline", "score", "delta", "delta_bleu", "p"}}}}: scores and their difference in the metric,
    from 0 to 100, the difference in BLEU whatever the metric, and the p of the metric's difference.
    A row is named after the folder above evaluation/. Refuses systems that were not translated by
    the same search, and scored against the same references in the same way.
    """
    base = open_system(baseline)
    systems = [open_system(other) for other in others]
    rows = [system.row for system in (base, *systems)]
    for row in rows:
        if rows.count(row) > 1:
            refuse(f"two of the folders are of a row {row}: a row is named after the folder "
                   "above evaluation/")
    for system in systems:
        check_comparable(base, system)
    signatures: dict[str, str] = {}
    tests: dict[str, dict[str, Any]] = {system.row: {} for system in systems}
    for pair in tqdm(base.directions, unit="direction", leave=False, disable=None):
        having = [system for system in systems if pair in system.directions]
        if having:
            one_metric = make_metric(metric, pair, base.directions[pair].config)
            signatures[pair], found = _compare_direction(
                one_metric, pair, base, having, samples, seed
            )
            for row, test in found.items():
                tests[row][pair] = test
    return {"baseline": base.row, "metric": metric, "signature": signatures, "rows": tests}


def _compare_direction(
    metric: Metric, pair: str, base: Evaluated, systems: Sequence[Evaluated], samples: int,
    seed: int,
) -> tuple[str, dict[str, Any]]:
    """Return sacrebleu's signature, and the test of each system by its row."""
    all_systems = [system.directions[pair] for system in (base, *systems)]
    references = read_lines(all_systems[0].texts.references(pair))
    translations = [_read_translations(one, pair, len(references)) for one in all_systems]
    signature, (reference, *found) = paired_bootstrap(
        metric, translations, references, samples, seed
    )
    tests = {}
    for system, result in zip(systems, found, strict=True):
        delta = result.score - reference.score
        tests[system.row] = {
            "baseline": reference.score,
            "score": result.score,
            "delta": delta,
            "delta_bleu": system.directions[pair].score.bleu - base.directions[pair].score.bleu,
            # of two equal systems no draw differs, and sacrebleu would call that significant
            "p": result.p_value if delta else 1.0,
        }
    return signature, tests


def _read_translations(evaluation: Evaluation, pair: str, expected: int) -> list[str]:
    file = evaluation.texts.hypotheses(pair)
    lines = read_lines(file)
    if len(lines) != expected:
        refuse(f"{file}: {len(lines)} lines for {expected} references")
    return lines


def paired_bootstrap(
    metric: Metric, translations: Sequence[Sequence[str]], references: Sequence[str],
    samples: int, seed: int,
) -> tuple[str, list[Result]]:
    """Return sacrebleu's signature, and a result for each system, the baseline first."""
    named = [(str(number), lines) for number, lines in enumerate(translations)]
    with sacrebleu_seed(seed):
        test = PairedTest(
            named, {"metric": metric}, [references], test_type="bs", n_samples=samples
        )
        signatures, results = test()
    (name, signature), = signatures.items()
    return str(signature), [result for result in results[name] if isinstance(result, Result)]


def make_metric(name: str, lang_pair: str, config: Mapping[str, Any]) -> Metric:
    """Return sacrebleu's metric as the evaluation used it."""
    if name == "bleu":
        return bleu_metric(lang_pair, config.get("tokenize"))
    return CHRF(word_order=2 if name == "chrfpp" else 0)


@contextmanager
def sacrebleu_seed(seed: int) -> Iterator[None]:
    """Set the seed of sacrebleu's draws, which it reads from the environment alone."""
    before = os.environ.get("SACREBLEU_SEED")
    os.environ["SACREBLEU_SEED"] = str(seed)
    try:
        yield
    finally:
        del os.environ["SACREBLEU_SEED"]
        if before is not None:
            os.environ["SACREBLEU_SEED"] = before


def comparison_table(report: dict[str, Any]) -> str:
    """Return a report of compare_systems as aligned text: differences, and p in brackets."""
    rows: dict[str, dict[str, dict[str, float]]] = report["rows"]
    lines = [[report["metric"], report["baseline"], *rows]]
    for pair in report["signature"]:
        tests = [tests.get(pair) for tests in rows.values()]
        score = next(test["baseline"] for test in tests if test is not None)
        cells = ["-" if t is None else f"{t['delta']:+.2f} ({t['p']:.3f})" for t in tests]
        lines.append([pair, f"{score:.2f}", *cells])
    for name, sign in (("better", 1), ("worse", -1)):
        counts = [
            sum(t["p"] < SIGNIFICANT and t["delta"] * sign > 0 for t in tests.values())
            for tests in rows.values()
        ]
        totals = [
            f"{count} of {len(tests)}" for count, tests in zip(counts, rows.values(), strict=True)
        ]
        lines.append([f"{name}, p < {SIGNIFICANT}", "", *totals])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in lines
    )
