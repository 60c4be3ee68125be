"""Table 2: how much of a mixture's gain over the dense model its distilled student keeps."""

from typing import Optional

from .tabulate_paper import Paper
from .tabulate_runs import (
    Experiment,
    comparison_notes,
    run_status,
    scored_metrics,
    side_of,
)
from .tabulate_speed import peak_speed
from .tabulate_table import OURS, PAPER, Cell, Column, Note, Row, Spread, Table

STUDENTS = ("distilled", "distilled_sequence")
SYSTEMS = ("bilingual", "dense_base", "token_target", "token_token", *STUDENTS)
# whose gain the share is of: the task model's, or the teacher's
SHARES = {"token_target": "% of task gain", "token_token": "% of teacher gain"}


def share_of_gain(
    student: Optional[float], dense: Optional[float], large: Optional[float]
) -> Optional[float]:
    """Return in percent what a student keeps of the gain of a large model over a dense one.

    None where a score is missing or there is no gain. A student below the dense model keeps less
    than nothing.
    """
    if student is None or dense is None or large is None or large <= dense:
        return None
    return 100 * (student - dense) / (large - dense)


def table2(experiment: Experiment, paper: Paper) -> list[Table]:
    """Return all systems in the paper's directions and in those of our students, then shares.

    Directions without English, in which nobody was taught, are none of them.
    """
    taught = [
        pair for name in STUDENTS if name in experiment.systems
        for pair in experiment.systems[name].directions if side_of(pair)
    ]
    pairs = list(dict.fromkeys([*paper.content["table2"]["pairs"], *taught]))
    common = _common_directions(experiment, pairs)
    columns = [
        Column("system", "system"), Column("whose", "whose"), Column("run", "run"),
        Column("tokens_per_second", "tok/s", 0), *(Column(pair, pair) for pair in pairs),
        Column("average", "average"),
    ]
    tables = []
    for metric, field in scored_metrics(experiment).items():
        ours = {name: _ours(experiment, paper, name, pairs, common, field) for name in SYSTEMS}
        printed = {name: paper.distillation(name) for name in SYSTEMS if metric == "BLEU"}
        rows: list[Row] = []
        for name in SYSTEMS:
            rows.append({"system": name, "whose": OURS, **ours[name]})
            if printed.get(name):
                rows.append({"system": name, "whose": PAPER, **printed[name]})
        for student in STUDENTS:
            for large, title in SHARES.items():
                line: Row = {"system": f"{student}: {title}"}
                rows.append({**line, "whose": OURS, **_shares(ours, student, large, pairs)})
                if printed.get(student):
                    rows.append({**line, "whose": PAPER, **_shares(printed, student, large, pairs)})
        evaluated = [pair for pair in pairs if pair in experiment.directions]
        notes = [
            *comparison_notes(experiment, evaluated, metric),
            Note(f"Our average is over the {len(common)} directions that all of our rows have: "
                 f"{', '.join(common) or 'none'}."),
        ]
        if metric == "BLEU":
            title = "Table 2. Distillation, in BLEU"
            tables.append(Table("table2", title, columns, rows, [*notes, *paper.notes("table2")]))
        else:
            tables.append(Table("table2-chrfpp", metric, columns, rows, notes))
    return tables


def _ours(
    experiment: Experiment, paper: Paper, name: str, pairs: list[str], common: list[str], field: str
) -> Row:
    system = experiment.systems.get(name)
    row: Row = {
        "run": run_status(system, pairs),
        "tokens_per_second": peak_speed(experiment.throughput, paper, name),
    }
    if system:
        row |= {pair: system.score(pair, field) for pair in pairs}
        row["average"] = system.means(None, common)["all"][field]
    return row


def _common_directions(experiment: Experiment, pairs: list[str]) -> list[str]:
    """Return the directions that all of our systems have."""
    systems = [experiment.systems[name] for name in SYSTEMS if name in experiment.systems]
    return [pair for pair in pairs if systems and all(pair in s.directions for s in systems)]


def _shares(scores: dict[str, Row], student: str, large: str, pairs: list[str]) -> Row:
    """Return a student's shares of the gain of a large system, by direction and on average."""
    return {
        key: share_of_gain(*(_number(scores[name].get(key))
                             for name in (student, "dense_base", large)))
        for key in (*pairs, "average")
    }


def _number(cell: Cell) -> Optional[float]:
    if isinstance(cell, Spread):
        return cell.mean
    return cell if isinstance(cell, (int, float)) else None
