"""Table 2: how much of an MoE model's gain over the dense model its distilled student keeps."""

from typing import Dict, List, Optional, Union

from .experiment import Experiment, run_status, side_of
from .notes import comparison_notes
from .paper import Paper
from .speed import peak_speed
from .table import OURS, PAPER, Column, Note, Row, SeedMean, Table

STUDENTS = ("distilled", "distilled_sequence")
SYSTEMS = ("bilingual", "dense_base", "token_target", "token_token", *STUDENTS)
# the kept gain as a percentage of the gain of the task model, or of the teacher
SHARES = {"token_target": "% of task gain", "token_token": "% of teacher gain"}
DIFFERENCES = {"dense_base": "over dense", "token_token": "over teacher"}
NO_GAIN = "no gain"


def share_of_gain(
    student: Optional[float], dense: Optional[float], large: Optional[float]
) -> Union[None, str, float]:
    """Return the percentage of a large model's gain over a dense model that a student keeps.

    None where a score is missing, NO_GAIN where the large model has no gain. Negative for a student
    that is worse than the dense model.
    """
    if student is None or dense is None or large is None:
        return None
    if large <= dense:
        return NO_GAIN
    return 100 * (student - dense) / (large - dense)


def table2(experiment: Experiment, paper: Paper) -> List[Table]:
    """Return all systems in the directions of the paper and of our students, then differences.

    The differences are those of a student to the dense model and to its teacher, and the
    percentages of the gains that it keeps. Directions without English are left out: they have no
    distilled data.
    """
    distilled = [
        pair for name in STUDENTS if name in experiment.systems
        for pair in experiment.systems[name].directions if side_of(pair)
    ]
    pairs = list(dict.fromkeys([*paper.content["table2"]["pairs"], *distilled]))
    common = experiment.common_directions(pairs, SYSTEMS)
    columns = [
        Column("system", "system"), Column("whose", "whose"), Column("run", "run"),
        Column("tokens_per_second", "tok/s", 0), *(Column(pair, pair) for pair in pairs),
        Column("average", "average"),
    ]
    tables = []
    for metric in experiment.metrics_by_direction():
        ours = {
            name: _ours(experiment, paper, name, pairs, common, metric.name) for name in SYSTEMS
        }
        printed = {name: paper.distillation(name) for name in SYSTEMS if metric.name == "bleu"}
        rows: List[Row] = []
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
            Note("Differences and percentages are those of the means over seeds."),
        ]
        if any(NO_GAIN in row.values() for row in rows):
            notes.append(Note(
                f"{NO_GAIN}: the task model, or the teacher, is not better than the dense model in "
                "this direction."
            ))
        title = "Table 2. Distillation"
        tables.append(paper.metric_table("table2", title, metric, columns, rows, notes))
    return tables


def _ours(
    experiment: Experiment, paper: Paper, name: str, pairs: List[str], common: List[str], field: str
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


def _gains(whose: str, scores: Dict[str, Row], student: str, pairs: List[str]) -> List[Row]:
    """Return a student's differences and percentages, by direction and on average."""

    def number(system: str, key: str) -> Optional[float]:
        cell = scores[system].get(key)
        if isinstance(cell, SeedMean):
            return cell.mean
        return cell if isinstance(cell, (int, float)) else None

    keys = (*pairs, "average")
    rows: List[Row] = []
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
