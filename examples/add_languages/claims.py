"""What the recipe claims, written before it was run, and whether the results bear it out."""

from statistics import fmean
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple

from examples.demo.report import PARTS

from .plan import NEW, OLD

Result = Dict[str, Any]


class Results(NamedTuple):
    """The results of all models, as run.py returns them."""

    models: List[Result]

    def of(self, name: str) -> List[Result]:
        """Return the results of a model, by seed."""
        return sorted((m for m in self.models if m["name"] == name), key=lambda m: m["seed"])

    def mean(
        self, name: str, pairs: Sequence[str], score: str, parts: Sequence[str] = tuple(PARTS)
    ) -> List[float]:
        """Return the mean of a score over directions and parts of the test, by seed."""
        return [
            fmean(model["scores"][pair][part][score] for pair in pairs for part in parts)
            for model in self.of(name)
        ]


class Claim(NamedTuple):
    text: str
    check: Callable[[Results], Tuple[bool, str]]  # -> whether it holds, and the numbers


def _unchanged(name: str) -> Callable[[Results], Tuple[bool, str]]:
    def check(results: Results) -> Tuple[bool, str]:
        changed, total = map(sum, zip(*(m["changed"] for m in results.of(name)), strict=True))
        return changed == 0, f"{changed} of {total:,} translations differ"

    return check


def _reaches(name: str, percent: float) -> Callable[[Results], Tuple[bool, str]]:
    def check(results: Results) -> Tuple[bool, str]:
        found, whole = (results.mean(one, NEW, "chrf") for one in (name, "scratch"))
        shares = [100 * a / b for a, b in zip(found, whole, strict=True)]
        figures = "; ".join(
            f"{a:.1f} against {b:.1f}, {share:.1f} %"
            for a, b, share in zip(found, whole, shares, strict=True)
        )
        return min(shares) >= percent, f"chrF {figures}"

    return check


def _keeps(name: str, points: float) -> Callable[[Results], Tuple[bool, str]]:
    def check(results: Results) -> Tuple[bool, str]:
        found, before = (results.mean(one, OLD, "chrf") for one in (name, "base"))
        pairs = list(zip(found, before, strict=True))
        figures = "; ".join(f"{a:.1f} after, {b:.1f} before" for a, b in pairs)
        return all(a >= b - points for a, b in pairs), f"chrF {figures}"

    return check


CLAIMS = (
    Claim("with the others frozen, every translation of the old directions stays the same",
          _unchanged("frozen")),
    Claim("with the others frozen and new words, every translation of the old directions stays "
          "the same", _unchanged("frozen_words")),
    Claim("with the others frozen, the new directions reach 70 % of the chrF of training from the "
          "start, with 25 % of its updates", _reaches("frozen", 70)),
    Claim("with the others frozen and new words, they reach 80 %", _reaches("frozen_words", 80)),
    Claim("fine-tuned on all directions, they reach 90 %", _reaches("tuned", 90)),
    Claim("fine-tuned on the new directions, they reach 95 %", _reaches("tuned_new", 95)),
    Claim("fine-tuned on all directions, the old ones lose at most 1 point of chrF",
          _keeps("tuned", 1)),
)
