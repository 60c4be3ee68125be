"""Notes below tables: whether rows are comparable with each other, and their provenance."""

from typing import Any, Collection, Dict, Iterable, List, Tuple

from ..evaluation.significance_inputs import SEARCH
from ..metrics.registry import METRICS, ScoreMetric
from .experiment import Experiment
from .table import Note


def comparison_notes(
    experiment: Experiment, pairs: Iterable[str], metric: ScoreMetric = METRICS["bleu"]
) -> List[Note]:
    """Return the signatures of these directions, after warnings about rows that do not compare."""
    pairs = list(pairs)
    warnings = _search_warnings(experiment, pairs)
    used: Dict[str, List[str]] = {}
    for pair in pairs:
        found: Dict[Tuple[str, int], List[str]] = {}
        for system in experiment.systems.values():
            for score in (seed[pair] for seed in system.seeds if pair in seed):
                signature = score[metric.signature]
                if signature:  # chrF++ is not in all results
                    found.setdefault((signature, score["sentences"]), []).append(system.name)
        for signature in dict.fromkeys(signature for signature, _ in found):
            used.setdefault(signature, []).append(pair)
        if len(found) > 1:
            variants = "; ".join(
                f"`{signature}` of {count} sentences ({', '.join(dict.fromkeys(names))})"
                for (signature, count), names in found.items()
            )
            warnings.append(Note(f"**Warning**: {pair} was scored in different ways, its scores "
                                 f"are not comparable: {variants}"))
    return warnings + [
        Note(f"{metric.title} signature `{key}`: {', '.join(used[key])}") for key in used
    ]


def provenance_notes(experiment: Experiment) -> List[Note]:
    """Return the commits and the hardware that the results were made with."""
    found: Dict[Tuple[str, str], List[str]] = {}
    for system in experiment.systems.values():
        for key in system.provenance:
            found.setdefault(key, []).append(system.name)
    return [
        Note(f"evaluated at commit `{commit}` on {hardware}: {', '.join(dict.fromkeys(names))}")
        for (commit, hardware), names in found.items()
    ]


def _search_warnings(experiment: Experiment, pairs: Collection[str]) -> List[Note]:
    """Return a warning if these directions were not all translated by the same search."""
    differences: List[str] = []
    for name in SEARCH:
        found: Dict[str, List[str]] = {}
        for system in experiment.systems.values():
            for directions, settings in system.searches:
                if not set(pairs).isdisjoint(directions):
                    found.setdefault(_text(settings[name]), []).append(system.name)
        if len(found) > 1:
            values = ", ".join(
                f"{value} ({', '.join(dict.fromkeys(names))})" for value, names in found.items()
            )
            differences.append(f"{name} {values}")
    if not differences:
        return []
    return [Note("**Warning**: rows were translated by different searches, their scores are not "
                 f"comparable: {'; '.join(differences)}")]


def _text(value: Any) -> str:
    if value is None:
        return "unknown"
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)
