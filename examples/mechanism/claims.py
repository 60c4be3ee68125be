"""What the study claims, written before it was run, and whether the results bear it out.

The sizes were chosen with one model of each row, of seed 1; the study uses other seeds.
"""

from math import comb
from statistics import mean, stdev
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

from .plan import INTERFERENCE_COUNTS, MAIN_COUNT

MIN_LANGUAGES = 13  # of 16: by chance with probability 0.011
LARGEST_DIFFERENCE = 1e-4  # of a log-probability, between a sub-network and its full model
Result = Dict[str, Any]


class Results(NamedTuple):
    """The results of all models, as run.py writes them."""

    models: List[Result]

    def of(self, row: str, count: int = MAIN_COUNT) -> List[Result]:
        """Return the results of a row with a number of ciphers, by seed."""
        found = [m for m in self.models if (m["row"], m["ciphers"]) == (row, count)]
        return sorted(found, key=lambda model: model["seed"])

    def accuracies(self, row: str, count: int = MAIN_COUNT) -> List[float]:
        """Return a row's accuracy in percent, by seed."""
        return [100 * mean(model["accuracy"]) for model in self.of(row, count)]

    def by_language(self, row: str) -> List[float]:
        """Return a row's accuracy for each language, as mean over seeds."""
        columns = zip(*(model["accuracy"] for model in self.of(row)), strict=True)
        return [mean(column) for column in columns]


class Claim(NamedTuple):
    text: str
    check: Callable[[Results], Tuple[bool, str]]  # -> whether it holds, and the numbers


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation."""
    return f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def sign_test(wins: int, trials: int) -> float:
    """Return the probability of at least so many wins by chance (one-sided)."""
    return sum(comb(trials, n) for n in range(wins, trials + 1)) / 2**trials


def _better(row: str, other: str) -> Callable[[Results], Tuple[bool, str]]:
    def check(results: Results) -> Tuple[bool, str]:
        pairs = list(zip(results.accuracies(row), results.accuracies(other), strict=True))
        languages = list(zip(results.by_language(row), results.by_language(other), strict=True))
        seeds, wins = (sum(a > b for a, b in found) for found in (pairs, languages))
        figures = (
            f"{spread(results.accuracies(row))} against {spread(results.accuracies(other))} %; "
            f"in {seeds} of {len(pairs)} seeds, {wins} of {len(languages)} languages "
            f"(sign test p = {sign_test(wins, len(languages)):.2g})"
        )
        return seeds == len(pairs) and wins >= MIN_LANGUAGES, figures

    return check


def _at_least(row: str, bound: float) -> Callable[[Results], Tuple[bool, str]]:
    def check(results: Results) -> Tuple[bool, str]:
        found = results.accuracies(row)
        return min(found) >= bound, f"lowest {min(found):.1f} %, mean {spread(found)} %"

    return check


def _at_most(row: str, bound: float) -> Callable[[Results], Tuple[bool, str]]:
    def check(results: Results) -> Tuple[bool, str]:
        found = results.accuracies(row)
        return max(found) <= bound, f"highest {max(found):.1f} %, mean {spread(found)} %"

    return check


def _extraction_is_exact(results: Results) -> Tuple[bool, str]:
    found = [model["extraction"] for model in results.models if model["extraction"]]
    words = sum(one["words"] for one in found)
    different = sum(one["different"] for one in found)
    largest = max(one["max_abs_logprob_diff"] for one in found)
    figures = f"{different} of {words:,} words differ, log-probabilities by at most {largest:.1e}"
    return different == 0 and largest < LARGEST_DIFFERENCE, figures


def _gap_grows(results: Results) -> Tuple[bool, str]:
    counts = [count for count in INTERFERENCE_COUNTS if count <= MAIN_COUNT]
    gaps = [
        mean(results.accuracies("target_target", count)) - mean(results.accuracies("dense", count))
        for count in counts
    ]
    figures = ", ".join(f"{c}: {gap:.1f}" for c, gap in zip(counts, gaps, strict=True))
    return gaps == sorted(gaps), f"gap in points by number of ciphers: {figures}"


CLAIMS = (
    Claim("target/target translates at least 90 % of the words in every seed",
          _at_least("target_target", 90)),
    Claim("dense translates at most 50 % in every seed", _at_most("dense", 50)),
    Claim("target/target is better than token/token", _better("target_target", "token_token")),
    Claim("target/target is better than dense of equal computation",
          _better("target_target", "dense_equal")),
    Claim("target/target is better than dense of equal parameters, which computes more",
          _better("target_target", "dense_parameters")),
    Claim("token/target is better than token/token", _better("token_target", "token_token")),
    Claim("target/target is better than static/static: routes that are learned, than fixed ones",
          _better("target_target", "static_static")),
    Claim("target/target is better than group/group, where four languages share their experts",
          _better("target_target", "group_group")),
    Claim("sub-networks of single tasks translate every test word as their full model",
          _extraction_is_exact),
    Claim("the gap between target/target and dense grows with each doubling from 1 to 16 ciphers",
          _gap_grows),
)
