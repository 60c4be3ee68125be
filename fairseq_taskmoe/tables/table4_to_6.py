"""Tables 4, 5 and 6: every direction, ours above the paper's."""

from collections.abc import Sequence

from ..evaluation.significance import SIGNIFICANT
from .experiment import (
    SIDES,
    Experiment,
    run_status,
    scored_metrics,
    side_of,
    split_seed,
)
from .notes import comparison_notes
from .paper import Paper
from .table import NOT_RUN, OURS, PAPER, Column, Note, Row, Table, spread

MEANS = Note("±: standard deviation over seeds. Average: of the directions that a row has.")


def table4(experiment: Experiment, paper: Paper) -> list[Table]:
    """Return the bilingual models' scores, both ways between English and each language."""
    languages = _languages(experiment, paper)
    sides = {side: _pairs(experiment, side) for side in SIDES}
    tables = []
    for metric, field in scored_metrics(experiment).items():
        rows: list[Row] = []
        for side, pairs in sides.items():
            lines = [_ours(experiment, "bilingual", pairs, field)]
            if metric == "BLEU":
                lines += _printed(paper, "bilingual", side)
            rows += [{"direction": SIDES[side], **line} for line in lines]
        every = [pair for pairs in sides.values() for pair in pairs.values()]
        notes = [*comparison_notes(experiment, every, metric), MEANS]
        if metric == "BLEU":
            notes += paper.notes("table4")
        name, title = _names("table4", "Table 4. Bilingual baselines, in BLEU", metric)
        tables.append(Table(name, title, _columns("direction", languages), rows, notes))
    return tables


def direction_tables(name: str, side: str, experiment: Experiment, paper: Paper) -> list[Table]:
    """Return a table of all systems into English (side xx-en) or out of it (en-xx).

    chrF++ where it was scored, and the differences to a baseline where they were tested, follow
    as tables of their own.
    """
    languages, pairs = _languages(experiment, paper), _pairs(experiment, side)
    tables = []
    for metric, field in scored_metrics(experiment).items():
        rows: list[Row] = []
        for system in paper.ordered(experiment.systems):
            lines = [_ours(experiment, system, pairs, field)]
            if metric == "BLEU":
                lines += _printed(paper, system, side)
            rows += [{"system": system, **line} for line in lines]
        notes = [*comparison_notes(experiment, pairs.values(), metric), MEANS]
        if metric == "BLEU":
            notes += paper.notes(name)
        heading = f"Table {name[-1]}. {SIDES[side]} by direction, in BLEU"
        file, title = _names(name, heading, metric)
        tables.append(Table(file, title, _columns("system", languages), rows, notes))
    return tables + _significance(name, experiment, paper, pairs, languages)


def zero_shot_table(experiment: Experiment, paper: Paper) -> list[Table]:
    """Return the directions without English, one a row, since there can be hundreds."""
    printed = {name: paper.directions(name) for name in paper.systems}
    in_paper = [pair for scores in printed.values() for pair in scores if side_of(pair) is None]
    ours = [pair for pair in experiment.directions if side_of(pair) is None]
    names = [
        name for name in paper.ordered(experiment.systems)
        if name in experiment.systems or not set(in_paper).isdisjoint(printed.get(name, ()))
    ]
    rows: list[Row] = []
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


def _names(name: str, title: str, metric: str) -> tuple[str, str]:
    """Return a table's name and title; chrF++ stands below BLEU in the same file."""
    return (name, title) if metric == "BLEU" else (f"{name}-chrfpp", metric)


def _ours(experiment: Experiment, name: str, pairs: dict[str, str], field: str) -> Row:
    """Return our scores of a system in the directions of pairs, by language."""
    system = experiment.systems.get(name)
    row: Row = {"whose": OURS, "run": run_status(system, pairs.values())}
    if system:
        row |= {code: system.score(pair, field) for code, pair in pairs.items()}
        row["average"] = system.means(None, pairs.values())["all"][field]
    return row


def _printed(paper: Paper, name: str, side: str) -> list[Row]:
    """Return the paper's scores of a system, nothing where it has none."""
    scores = {
        code: bleu for pair, bleu in paper.directions(name).items()
        for found in [side_of(pair)] if found is not None
        for in_side, code in [found] if in_side == side
    }
    mean = spread(list(scores.values()))
    return [{"whose": PAPER, **scores, "average": mean.mean}] if mean else []


def _significance(
    name: str, experiment: Experiment, paper: Paper, pairs: dict[str, str],
    languages: Sequence[str],
) -> list[Table]:
    tested = experiment.significance
    if not tested:
        return []
    order = paper.ordered(split_seed(folder)[0] for folder in tested["rows"])
    rows: list[Row] = []
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
    notes = [Note(f"Paired bootstrap on {tested.get('metric', 'bleu')}, each direction by itself; "
                  f"significant: p < {SIGNIFICANT}.")]
    if any(", seed " in str(row["system"]) for row in rows):
        notes.append(Note(
            f"One training against one: each seed of a row against one of {tested['baseline']}, "
            "whose other seeds show what seeds alone do."
        ))
    title = f"Difference in BLEU to {tested['baseline']}"
    return [Table(f"{name}-significance", title, columns, rows, notes)]


def _columns(first: str, languages: Sequence[str]) -> list[Column]:
    return [
        Column(first, first), Column("whose", "whose"), Column("run", "run"),
        *(Column(code, code) for code in languages), Column("average", "average"),
    ]


def _languages(experiment: Experiment, paper: Paper) -> list[str]:
    """Return ours, most text first where that is known, and the paper's."""
    found = [code for side in SIDES for code in _pairs(experiment, side)]
    known = [*experiment.languages, *(code for code in paper.languages if code in found)]
    return list(dict.fromkeys([*known, *found, *paper.languages]))


def _pairs(experiment: Experiment, side: str) -> dict[str, str]:
    """Return the directions into English (xx-en) or out of it (en-xx), by language."""
    sides = {pair: side_of(pair) for pair in experiment.directions}
    return {found[1]: pair for pair, found in sides.items() if found and found[0] == side}
