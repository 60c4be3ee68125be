"""Tables 4, 5 and 6: scores by direction, ours above the paper's."""

from typing import Dict, List, Sequence

from ..evaluation.significance import SIGNIFICANT
from ..metrics.registry import ScoreMetric
from .experiment import SIDES, Experiment, run_status, side_of, split_seed
from .notes import comparison_notes
from .paper import Paper
from .table import NOT_RUN, OURS, PAPER, Column, Note, Row, Table, seed_mean

MEANS = Note("±: standard deviation over seeds. Average: over the directions that a row has.")


def table4(experiment: Experiment, paper: Paper) -> List[Table]:
    """Return the bilingual models' scores, into and from English."""
    columns = _columns("direction", _languages(experiment, paper))
    pairs = [pair for side in SIDES for pair in _pairs(experiment, side).values()]
    tables = []
    for metric in experiment.metrics_by_direction():
        rows = [
            {"direction": title, **row} for side, title in SIDES.items()
            for row in _both(experiment, paper, "bilingual", side, metric)
        ]
        notes = [*comparison_notes(experiment, pairs, metric), MEANS]
        title = "Table 4. Bilingual baselines"
        tables.append(paper.metric_table("table4", title, metric, columns, rows, notes))
    return tables


def direction_tables(name: str, side: str, experiment: Experiment, paper: Paper) -> List[Table]:
    """Return a table of all systems into English (side xx-en) or from English (en-xx).

    Tables of the other metrics, and of the differences to a baseline if they were tested, follow.
    """
    languages, pairs = _languages(experiment, paper), _pairs(experiment, side)
    columns = _columns("system", languages)
    tables = []
    for metric in experiment.metrics_by_direction():
        rows = [
            {"system": system, **row} for system in paper.ordered(experiment.systems)
            for row in _both(experiment, paper, system, side, metric)
        ]
        notes = [*comparison_notes(experiment, pairs.values(), metric), MEANS]
        title = f"Table {name[-1]}. {SIDES[side]} by direction"
        tables.append(paper.metric_table(name, title, metric, columns, rows, notes))
    return tables + _significance(name, experiment, paper, pairs, languages)


def zero_shot_table(experiment: Experiment, paper: Paper) -> List[Table]:
    """Return the directions without English, one in each row, since there can be hundreds."""
    printed = {name: paper.directions(name) for name in paper.systems}
    in_paper = [pair for scores in printed.values() for pair in scores if side_of(pair) is None]
    ours = [pair for pair in experiment.directions if side_of(pair) is None]
    names = [
        name for name in paper.ordered(experiment.systems)
        if name in experiment.systems or not set(in_paper).isdisjoint(printed.get(name, ()))
    ]
    rows: List[Row] = []
    for pair in dict.fromkeys([*ours, *in_paper]):
        scores: Row = {
            name: experiment.systems[name].score(pair) for name in names
            if name in experiment.systems
        }
        shown = {name: scores.get(name) or NOT_RUN for name in names}
        rows.append({"direction": pair, "whose": OURS, **shown})
        if pair in in_paper:
            known = {name: printed[name].get(pair) for name in names if name in printed}
            rows.append({"direction": pair, "whose": PAPER, **known})
    columns = [
        Column("direction", "direction"), Column("whose", "whose"),
        *(Column(name, name) for name in names),
    ]
    notes = comparison_notes(experiment, ours)
    title = "Directions without English, in BLEU"
    return [Table("table5-zero-shot", title, columns, rows, notes)]


def _both(
    experiment: Experiment, paper: Paper, name: str, side: str, metric: ScoreMetric
) -> List[Row]:
    """Return our scores of a system by language, and for BLEU those of the paper, if any."""
    system, pairs = experiment.systems.get(name), _pairs(experiment, side)
    ours: Row = {"whose": OURS, "run": run_status(system, pairs.values())}
    if system:
        ours |= {code: system.score(pair, metric.name) for code, pair in pairs.items()}
        ours["average"] = system.means(None, pairs.values())["all"][metric.name]
    scores = {
        found[1]: bleu for pair, bleu in paper.directions(name).items()
        for found in [side_of(pair)] if found is not None and found[0] == side
    }
    mean = seed_mean(list(scores.values()))
    if metric.name != "bleu" or mean is None:
        return [ours]
    return [ours, {"whose": PAPER, **scores, "average": mean.mean}]


def _significance(
    name: str, experiment: Experiment, paper: Paper, pairs: Dict[str, str],
    languages: Sequence[str],
) -> List[Table]:
    tested = experiment.significance
    if not tested:
        return []
    order = paper.ordered(split_seed(folder)[0] for folder in tested["rows"])
    rows: List[Row] = []
    for (system, seed), tests in sorted(
        ((split_seed(folder), tests) for folder, tests in tested["rows"].items()),
        key=lambda entry: (order.index(entry[0][0]), entry[0][1]),
    ):
        cells: Row = {
            code: f"{tests[pair]['delta_bleu']:+.1f} (p {tests[pair]['p']:.3f})"
            for code, pair in pairs.items() if pair in tests
        }
        if cells:
            rows.append({"system": system if seed == 1 else f"{system}, seed {seed}", **cells})
    if not rows:
        return []
    columns = [Column("system", "system"), *(Column(code, code) for code in languages)]
    notes = [Note(f"Paired bootstrap on {tested.get('metric', 'bleu')}, each direction tested "
                  f"separately; significant: p < {SIGNIFICANT}.")]
    if any(", seed " in str(row["system"]) for row in rows):
        notes.append(Note(
            f"Each test compares one training run with one run of {tested['baseline']}; the other "
            f"seeds of {tested['baseline']} show the effect of the seed alone."
        ))
    title = f"Difference in BLEU to {tested['baseline']}"
    return [Table(f"{name}-significance", title, columns, rows, notes)]


def _columns(first: str, languages: Sequence[str]) -> List[Column]:
    return [
        Column(first, first), Column("whose", "whose"), Column("run", "run"),
        *(Column(code, code) for code in languages), Column("average", "average"),
    ]


def _languages(experiment: Experiment, paper: Paper) -> List[str]:
    """Return our languages, ordered by training data where that is known, then the paper's."""
    found = [code for side in SIDES for code in _pairs(experiment, side)]
    known = [*experiment.languages, *(code for code in paper.languages if code in found)]
    return list(dict.fromkeys([*known, *found, *paper.languages]))


def _pairs(experiment: Experiment, side: str) -> Dict[str, str]:
    """Return the directions into English (xx-en) or from English (en-xx), by language."""
    sides = {pair: side_of(pair) for pair in experiment.directions}
    return {found[1]: pair for pair, found in sides.items() if found and found[0] == side}
