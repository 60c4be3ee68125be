"""Table 2: how much of a mixture's gain over the dense model its distilled student keeps."""

from typing import Optional, Union

from .experiment import (
    Experiment,
    run_status,
    scored_metrics,
    side_of,
)
from .notes import comparison_notes
from .paper import Paper
from .speed import peak_speed
from .table import OURS, PAPER, Column, Note, Row, Spread, Table

STUDENTS = ("distilled", "distilled_sequence")
SYSTEMS = ("bilingual", "dense_base", "token_target", "token_token", *STUDENTS)
# whose gain the share is of: the task model's, or the teacher's
SHARES = {"token_target": "% of task gain", "token_token": "% of teacher gain"}
DIFFERENCES = {"dense_base": "over dense", "token_token": "over teacher"}
NO_GAIN = "no gain"


def share_of_gain(
    student: Optional[float], dense: Optional[float], large: Optional[float]
) -> Union[None, str, float]:
    """Return in percent what a student keeps of the gain of a large model over a dense one.

    None where a score is missing, NO_GAIN where the large model has none. A student below the dense
    model keeps less than nothing.
    """
    if student is None or dense is None or large is None:
        return None
    if large <= dense:
        return NO_GAIN
    return 100 * (student - dense) / (large - dense)


def table2(experiment: Experiment, paper: Paper) -> list[Table]:
    """Return all systems in the paper's directions and in those of our students, then differences.

    A student's are those to the dense model and to its teacher, and its shares of their gains.
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
            both = [_gains(OURS, ours, student, pairs)]
            if printed.get(student):
                both.append(_gains(PAPER, printed, student, pairs))
            rows += [row for lines in zip(*both, strict=True) for row in lines]
        evaluated = [pair for pair in pairs if pair in experiment.directions]
        notes = [
            *comparison_notes(experiment, evaluated, metric),
            Note(f"Our average is over the {len(common)} directions that all of our rows have: "
                 f"{', '.join(common) or 'none'}."),
            Note("Differences and shares are those of the means over seeds."),
        ]
        if any(NO_GAIN in row.values() for row in rows):
            notes.append(Note(
                f"{NO_GAIN}: the task model or the teacher is not above the dense model there, "
                "and has no gain to keep a share of."
            ))
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
        "tokens_per_second": peak_speed(experiment.speeds, paper, name),
    }
    if system:
        row |= {pair: system.score(pair, field) for pair in pairs}
        row["average"] = system.means(None, common)["all"][field]
    return row


def _common_directions(experiment: Experiment, pairs: list[str]) -> list[str]:
    """Return the directions that all of our systems have."""
    systems = [experiment.systems[name] for name in SYSTEMS if name in experiment.systems]
    return [pair for pair in pairs if systems and all(pair in s.directions for s in systems)]


def _gains(whose: str, scores: dict[str, Row], student: str, pairs: list[str]) -> list[Row]:
    """Return a student's differences and shares, by direction and on average."""

    def number(system: str, key: str) -> Optional[float]:
        cell = scores[system].get(key)
        if isinstance(cell, Spread):
            return cell.mean
        return cell if isinstance(cell, (int, float)) else None

    keys = (*pairs, "average")
    rows: list[Row] = []
    for other, title in DIFFERENCES.items():
        differences: Row = {}
        for key in keys:
            score, theirs = number(student, key), number(other, key)
            if score is not None and theirs is not None:
                differences[key] = score - theirs
        rows.append({"system": f"{student}: {title}", "whose": whose, **differences})
    for large, title in SHARES.items():
        shares: Row = {
            key: share_of_gain(*(number(name, key) for name in (student, "dense_base", large)))
            for key in keys
        }
        rows.append({"system": f"{student}: {title}", "whose": whose, **shares})
    return rows
