"""Lines below tables: whether rows compare with each other, and where they come from."""

from collections.abc import Collection, Iterable
from typing import Any

from ..evaluation.results import SIGNATURES
from ..evaluation.significance_inputs import SEARCH
from .experiment import Experiment
from .table import Note


def comparison_notes(
    experiment: Experiment, pairs: Iterable[str], metric: str = "BLEU"
) -> list[Note]:
    """Return the signatures of these directions, warnings first where rows do not compare."""
    pairs = list(pairs)
    warnings = _search_warnings(experiment, pairs)
    used: dict[str, list[str]] = {}
    for pair in pairs:
        found: dict[tuple[str, int], list[str]] = {}
        for system in experiment.systems.values():
            for score in (seed[pair] for seed in system.seeds if pair in seed):
                signature = getattr(score, SIGNATURES[metric])
                if signature:  # chrF++ is not in all results
                    found.setdefault((signature, score.sentences), []).append(system.name)
        for signature in dict.fromkeys(signature for signature, _ in found):
            used.setdefault(signature, []).append(pair)
        if len(found) > 1:
            told = "; ".join(
                f"`{signature}` of {count} sentences ({', '.join(dict.fromkeys(names))})"
                for (signature, count), names in found.items()
            )
            warnings.append(Note(f"**Warning**: {pair} was scored in different ways, its scores "
                                 f"do not compare: {told}"))
    signatures = [Note(f"{metric} signature `{key}`: {', '.join(used[key])}") for key in used]
    return [*warnings, *signatures]


def circumstance_notes(experiment: Experiment) -> list[Note]:
    """Return which commits and which hardware the results come from."""
    found: dict[tuple[str, str], list[str]] = {}
    for system in experiment.systems.values():
        for key in system.provenance:
            found.setdefault(key, []).append(system.name)
    return [
        Note(f"evaluated at commit `{commit}` on {hardware}: {', '.join(dict.fromkeys(names))}")
        for (commit, hardware), names in found.items()
    ]


def _search_warnings(experiment: Experiment, pairs: Collection[str]) -> list[Note]:
    """Return a warning where these directions were not all translated by the same search."""
    differences: list[str] = []
    for name in SEARCH:
        found: dict[str, list[str]] = {}
        for system in experiment.systems.values():
            for directions, settings in system.searches:
                if not set(pairs).isdisjoint(directions):
                    found.setdefault(_told(settings[name]), []).append(system.name)
        if len(found) > 1:
            values = ", ".join(
                f"{value} ({', '.join(dict.fromkeys(names))})" for value, names in found.items()
            )
            differences.append(f"{name} {values}")
    if not differences:
        return []
    return [Note("**Warning**: rows were translated by different searches, their scores do not "
                 f"compare: {'; '.join(differences)}")]


def _told(value: Any) -> str:
    if value is None:
        return "unknown"
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)
