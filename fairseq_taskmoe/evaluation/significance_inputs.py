"""Reading the evaluated systems that are to be compared, and checking that they are comparable."""

from pathlib import Path
from typing import Any, Dict, Mapping, NamedTuple

from ..errors import refuse
from ..metrics.scoring import DirectionScore
from ..read_files import read_lines
from .folder import EvaluationFolder
from .results import load_results

# settings in the config of results.json that change a model's translations or scores
SEARCH = ("gen_subset", "beam", "lenpen", "max_len_a", "max_len_b")


class Evaluation(NamedTuple):
    """One direction of a system."""

    texts: EvaluationFolder
    score: DirectionScore
    config: Mapping[str, Any]


class Evaluated(NamedTuple):
    """A system: one model for all directions, or one model for each direction."""

    row: str  # the name of the folder that contains its evaluation
    directions: Dict[str, Evaluation]


def open_system(folder: str) -> Evaluated:
    """Return the system in a folder of `taskmoe evaluate`, or in a folder with one model per pair.

    The latter is a folder such as RUNS/bilingual that contains PAIR/evaluation. Refuses any other
    folder, and one with missing files.
    """
    path = Path(folder)
    parts = [path]
    if not (path / "results.json").exists():
        parts = sorted(file.parent for file in path.glob("*/evaluation/results.json")) or parts
    directions: Dict[str, Evaluation] = {}
    for part in parts:
        for pair, evaluation in _open_part(part).items():
            if pair in directions:
                refuse(f"{folder}: two of its evaluations have results for {pair}: "
                       f"{directions[pair].texts.out} and {part}")
            directions[pair] = evaluation
    return Evaluated(row_name(path), directions)


def row_name(folder: Path) -> str:
    """Return the name of the system whose evaluation is in a folder: runs/NAME/evaluation, NAME."""
    place = folder.resolve()
    return place.parent.name if place.name == "evaluation" else place.name


def search_settings(config: Any) -> Dict[str, Any]:
    """Return the settings of the search; None for those that a results.json does not record."""
    known = config if isinstance(config, dict) else {}
    return {name: known.get(name) for name in SEARCH}


def check_comparable(base: Evaluated, system: Evaluated) -> None:
    """Refuse two systems without common directions, or with one that is not comparable.

    A direction is comparable if search, BLEU signature and references are the same.
    """
    pairs = [pair for pair in system.directions if pair in base.directions]
    if not pairs:
        refuse(f"{base.row} and {system.row} were evaluated in no common direction")
    for pair in pairs:
        both = (base.directions[pair], system.directions[pair])
        _check_search(*both)
        signatures = [one.score["signature"] for one in both]
        if signatures[0] != signatures[1]:
            refuse(f"{pair}: BLEU of {base.row} was computed as {signatures[0]}, BLEU of "
                   f"{system.row} as {signatures[1]}")
        expected, got = (read_lines(one.texts.references(pair)) for one in both)
        if expected != got:
            line = next(
                (n for n, (one, other) in enumerate(zip(expected, got, strict=False), 1)
                 if one != other), min(len(expected), len(got)) + 1,
            )
            files = " and ".join(str(one.texts.references(pair)) for one in both)
            refuse(f"{pair}: {base.row} and {system.row} were scored against different references: "
                   f"{files} differ from line {line} on; evaluate both with the same "
                   "--references DIR")


def _check_search(one: Evaluation, other: Evaluation) -> None:
    settings, others = search_settings(one.config), search_settings(other.config)
    for name in SEARCH:
        if settings[name] != others[name]:
            texts = [f"{name} {'unknown' if values[name] is None else values[name]}"
                     for values in (settings, others)]
            refuse(f"{one.texts.out} was translated with {texts[0]}, {other.texts.out} with "
                   f"{texts[1]}: they are not comparable; evaluate both with the same flags")


def _open_part(path: Path) -> Dict[str, Evaluation]:
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
                refuse(f"{file} is missing: run the same `taskmoe evaluate` again, which writes it "
                       "without translating again")
    return {pair: Evaluation(texts, score, config) for pair, score in results.directions.items()}
