"""Is one system better than another? Paired bootstrap over what `taskmoe evaluate` left behind.

The test is sacrebleu's own (Koehn, 2004): the same test sentences are drawn for both systems, with
replacement, many times over; p is the share of draws whose difference, around its mean, is larger
than the one observed.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sacrebleu.metrics import CHRF
from sacrebleu.metrics.base import Metric
from sacrebleu.significance import PairedTest, Result
from tqdm import tqdm

from ..errors import refuse
from .folder import EvaluationFolder, read_lines
from .results import Results, load_results
from .scoring import bleu_metric

SIGNIFICANT = 0.05


class Evaluated(NamedTuple):
    """A system's evaluation folder."""

    row: str  # the name of the folder above it
    folder: EvaluationFolder
    results: Results


def compare_systems(
    baseline: str, others: Sequence[str], metric: str = "bleu", samples: int = 1000,
    seed: int = 12345,
) -> dict[str, Any]:
    """Compare evaluation folders with that of a baseline, in each direction that both have.

    Returns {"baseline": row, "metric", "signature": {pair: signature}, "rows": {row: {pair:
    {"baseline", "score", "delta", "delta_bleu", "p"}}}}: scores and their difference in the metric,
    from 0 to 100, the difference in BLEU whatever the metric, and the p of the metric's difference.
    A row is named after the folder above evaluation/. Refuses folders that were not scored against
    the same references in the same way.
    """
    base = open_evaluation(baseline)
    systems = [open_evaluation(other) for other in others]
    rows = [system.row for system in (base, *systems)]
    for row in rows:
        if rows.count(row) > 1:
            refuse(f"two of the folders are of a row {row}: a row is named after the folder "
                   "above evaluation/")
    for system in systems:
        check_comparable(base, system)
    signatures: dict[str, str] = {}
    tests: dict[str, dict[str, Any]] = {system.row: {} for system in systems}
    for pair in tqdm(base.results.directions, unit="direction", leave=False, disable=None):
        having = [system for system in systems if pair in system.results.directions]
        if not having:
            continue
        translations = [
            read_lines(str(system.folder.hypotheses(pair))) for system in (base, *having)
        ]
        references = read_lines(str(base.folder.references(pair)))
        for system, lines in zip((base, *having), translations, strict=True):
            if len(lines) != len(references):
                refuse(f"{system.folder.hypotheses(pair)}: {len(lines)} lines for "
                       f"{len(references)} references")
        signatures[pair], (reference, *found) = paired_bootstrap(
            make_metric(metric, pair, base), translations, references, samples, seed
        )
        bleu = base.results.directions[pair].bleu
        for system, result in zip(having, found, strict=True):
            delta = result.score - reference.score
            tests[system.row][pair] = {
                "baseline": reference.score,
                "score": result.score,
                "delta": delta,
                "delta_bleu": system.results.directions[pair].bleu - bleu,
                # of two equal systems no draw differs, and sacrebleu would call that significant
                "p": result.p_value if delta else 1.0,
            }
    return {"baseline": base.row, "metric": metric, "signature": signatures, "rows": tests}


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


def open_evaluation(folder: str) -> Evaluated:
    """Return a folder that `taskmoe evaluate` wrote, whole; refuses another."""
    path = Path(folder)
    results = load_results(path / "results.json")
    split = results.config.get("gen_subset") if isinstance(results.config, dict) else None
    if not isinstance(split, str):
        refuse(f"{folder}/results.json does not say which set was translated (gen_subset)")
    texts = EvaluationFolder(path, split)
    for pair in results.directions:
        for file in (texts.hypotheses(pair), texts.references(pair)):
            if not file.is_file():
                refuse(f"{file} is missing: the same `taskmoe evaluate` writes it, and translates "
                       "nothing twice")
    place = path.resolve()
    row = place.parent.name if place.name == "evaluation" else place.name
    return Evaluated(row, texts, results)


def check_comparable(base: Evaluated, system: Evaluated) -> None:
    """Refuse two evaluations without a common direction, or with different references."""
    pairs = [pair for pair in system.results.directions if pair in base.results.directions]
    if not pairs:
        refuse(f"{base.row} and {system.row} were evaluated in no common direction")
    for pair in pairs:
        signatures = [one.results.directions[pair].signature for one in (base, system)]
        if signatures[0] != signatures[1]:
            refuse(f"{pair}: BLEU of {base.row} was taken as {signatures[0]}, of {system.row} as "
                   f"{signatures[1]}")
        expected, got = (read_lines(str(one.folder.references(pair))) for one in (base, system))
        if expected != got:
            line = next(
                (n for n, (one, other) in enumerate(zip(expected, got, strict=False), 1)
                 if one != other), min(len(expected), len(got)) + 1,
            )
            refuse(f"{pair}: {base.row} and {system.row} were scored against other references, "
                   f"which differ from line {line} on")


def make_metric(name: str, lang_pair: str, base: Evaluated) -> Metric:
    """Return sacrebleu's metric as the evaluation used it."""
    if name == "bleu":
        return bleu_metric(lang_pair, base.results.config.get("tokenize"))
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
