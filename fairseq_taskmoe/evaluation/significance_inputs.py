"""What is compared: systems as `taskmoe evaluate` left them, and whether they compare at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import refuse
from ..metrics.scoring import DirectionScore
from ..read_files import read_lines
from .folder import EvaluationFolder
from .results import load_results

# of results.json's config: with others the same model translates, or scores, otherwise
SEARCH = ("gen_subset", "beam", "lenpen", "max_len_a", "max_len_b")


class Evaluation(NamedTuple):
    """A direction of a system."""

    texts: EvaluationFolder
    score: DirectionScore
    config: Mapping[str, Any]


class Evaluated(NamedTuple):
    """A system: one model for all directions, or a model for each of them."""

    row: str  # the name of the folder above its evaluation
    directions: dict[str, Evaluation]


def open_system(folder: str) -> Evaluated:
    """Return what `taskmoe evaluate` wrote, whole: a folder of it, or one of models that have one.

    The latter is as RUNS/bilingual with PAIR/evaluation in it. Refuses any other.
    """
    path = Path(folder)
    parts = [path]
    if not (path / "results.json").exists():
        parts = sorted(file.parent for file in path.glob("*/evaluation/results.json")) or parts
    directions: dict[str, Evaluation] = {}
    for part in parts:
        for pair, evaluation in _open_part(part).items():
            if pair in directions:
                refuse(f"{folder}: two of its evaluations are of {pair}: "
                       f"{directions[pair].texts.out} and {part}")
            directions[pair] = evaluation
    place = path.resolve()
    row = place.parent.name if place.name == "evaluation" else place.name
    return Evaluated(row, directions)


def search_settings(config: Any) -> dict[str, Any]:
    """Return how translations were searched for, None for what a results.json does not tell."""
    known = config if isinstance(config, dict) else {}
    return {name: known.get(name) for name in SEARCH}


def check_comparable(base: Evaluated, system: Evaluated) -> None:
    """Refuse two systems without a common direction, or with one that was scored otherwise.

    That is by another search, in another way, or against other references.
    """
    pairs = [pair for pair in system.directions if pair in base.directions]
    if not pairs:
        refuse(f"{base.row} and {system.row} were evaluated in no common direction")
    for pair in pairs:
        both = (base.directions[pair], system.directions[pair])
        _check_search(*both)
        signatures = [one.score.signature for one in both]
        if signatures[0] != signatures[1]:
            refuse(f"{pair}: BLEU of {base.row} was taken as {signatures[0]}, of {system.row} as "
                   f"{signatures[1]}")
        expected, got = (read_lines(one.texts.references(pair)) for one in both)
        if expected != got:
            line = next(
                (n for n, (one, other) in enumerate(zip(expected, got, strict=False), 1)
                 if one != other), min(len(expected), len(got)) + 1,
            )
            files = " and ".join(str(one.texts.references(pair)) for one in both)
            refuse(f"{pair}: {base.row} and {system.row} were scored against different references: "
                   f"{files} differ from line {line} on")


def _check_search(one: Evaluation, other: Evaluation) -> None:
    settings, others = search_settings(one.config), search_settings(other.config)
    for name in SEARCH:
        if settings[name] != others[name]:
            told = [f"{name} {'unknown' if values[name] is None else values[name]}"
                    for values in (settings, others)]
            refuse(f"{one.texts.out} was translated with {told[0]}, {other.texts.out} with "
                   f"{told[1]}: they do not compare")


def _open_part(path: Path) -> dict[str, Evaluation]:
    results = load_results(path / "results.json")
    config = results.config if isinstance(results.config, dict) else {}
    split = config.get("gen_subset")
    if not isinstance(split, str):
        refuse(f"{path}/results.json does not say which set was translated (gen_subset)")
    if not isinstance(config.get("tokenize"), str | None):
        refuse(f"{path}/results.json does not say which tokenization was used (tokenize)")
    texts = EvaluationFolder(path, split)
    for pair in results.directions:
        for file in (texts.hypotheses(pair), texts.references(pair)):
            if not file.is_file():
                refuse(f"{file} is missing: the same `taskmoe evaluate` writes it, and translates "
                       "nothing twice")
    return {pair: Evaluation(texts, score, config) for pair, score in results.directions.items()}
