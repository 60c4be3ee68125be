"""Speeds in table 1 and figures 2 and 4, from reports of `taskmoe bench decode`."""

from typing import Any, Dict, List, NamedTuple, Optional

from .paper import Paper
from .sweep import (
    Report,
    architecture,
    conditions,
    device,
    is_of_architecture,
    peak,
    speed,
    unsteady_note,
)
from .table import NOT_RUN, OURS, PAPER, Column, Measurement, Note, Row, Table

WEB_EXPERTS = 128  # in figure 4, as in the paper's web-scale models; all others are in figure 2
TASK = ("extracted", "task")  # the variants that serve a model with task routing


class Speeds(NamedTuple):
    """The reports that an experiment has."""

    throughput: Optional[Report] = None  # throughput.json
    web: Optional[Report] = None  # throughput-web.json, for figure 4 if measured separately
    communication: Optional[Report] = None  # communication.json, of several processes


def peak_speed(speeds: Speeds, paper: Paper, system: str) -> Optional[Measurement]:
    """Return tokens/s of a system at its best batch size, with the fewest experts measured."""
    known = paper.systems.get(system)
    variants = {system, known.speed if known else None}
    return speed(peak(_rows(speeds.throughput, "figure2"), variants))


def speed_note(speeds: Speeds) -> Note:
    """Return which model the speeds of table 1 were measured with."""
    report = speeds.throughput
    rows = _rows(report, "figure2")
    if report is None or not rows:
        return Note("No throughput.json: tokens/s were not measured.")
    peaks = [peak(rows, [variant]) for variant in dict.fromkeys(row["variant"] for row in rows)]
    spreads = [row["spread"] for row in peaks if row and row.get("spread") is not None]
    spread = f"; spread {min(spreads):.0%} to {max(spreads):.0%}" if spreads else ""
    return Note(
        "tok/s, ours: `taskmoe bench decode` at its best batch size, with a model of random "
        "weights and the same routers as the row, not the row's own model: "
        f"{conditions(report, rows)}{spread}. {unsteady_note()}. -: these routers were not "
        "measured."
    )


def figure_report(speeds: Speeds, figure: str) -> Optional[Report]:
    """Return the sweep of figure2 or figure4; None where there is none."""
    report = speeds.throughput
    rows = _rows(report, figure)
    if figure == "figure4" and speeds.web:
        report, rows = speeds.web, speeds.web["rows"]
    return {**report, "rows": rows} if report and rows else None


def figure_tables(speeds: Speeds, figure: str, paper: Paper) -> List[Table]:
    """Return the points of figure 2 or 4, and its peaks beside the paper's; [] without reports."""
    report = figure_report(speeds, figure)
    exchanging = _rows(speeds.communication, figure)
    tables = [_points(report, figure)] if report else []
    if report or exchanging:
        tables.append(_beside_paper(report, speeds.communication, exchanging, figure, paper))
    return tables


def _points(report: Report, figure: str) -> Table:
    columns = [
        Column("variant", "variant"), Column("experts", "experts"),
        Column("batch_size", "batch size"), Column("tokens_per_second", "tokens/s"),
        Column("architecture", "architecture"),
    ]
    rows: List[Row] = [
        {
            **{column.key: row.get(column.key) for column in columns},
            "tokens_per_second": speed(row) if row["fits"] else "does not fit",
            "architecture": architecture(report),
        }
        for row in report["rows"]
    ]
    notes = [Note(f"{conditions(report, report['rows'])}."), Note(f"{unsteady_note()}.")]
    title = f"Figure {figure[-1]}. Tokens per second by batch size"
    return Table(figure, title, columns, rows, notes)


def _beside_paper(
    report: Optional[Report], communication: Optional[Report], exchanging: List[Dict[str, Any]],
    figure: str, paper: Paper,
) -> Table:
    """Return the peak speed of each kind of routing, and the time spent in communication."""
    printed = paper.content[figure]
    columns = [
        Column("whose", "whose"), Column("architecture", "architecture"),
        Column("experts", "experts"), Column("device", "device"),
        Column("dense", "dense, tok/s", 0), Column("task", "task, tok/s", 0),
        Column("token", "token, tok/s", 0), Column("ratio", "task / token", 2),
        Column("communication_token", "token: % communication"),
        Column("communication_task", "task: % communication"),
        Column("communication_device", "communication on"),
    ]
    ours: Row = {
        "whose": OURS, **_peaks(report), **_communication_shares(communication, exchanging)
    }
    measured = [
        (one, min(row["experts"] for row in rows))
        for one, rows in ((report, report["rows"] if report else []), (communication, exchanging))
        if one and rows
    ]
    same = all(
        is_of_architecture(one, printed["arch"]) and experts == printed["row"]["experts"]
        for one, experts in measured
    )
    whose = PAPER if same else f"{PAPER}, of another model"
    notes = [
        Note("Each at its best batch size. Task: the sub-network of one direction."),
        Note(f"{unsteady_note()}."), *paper.notes(figure),
    ]
    if not same:
        notes.insert(0, Note(
            "**Another model than the paper's**: the paper's model is "
            f"{printed['row']['architecture']} with {printed['row']['experts']} experts. Only the "
            "order of the numbers can be compared."
        ))
    if exchanging and communication:
        notes.append(Note(f"Communication: {conditions(communication, exchanging)}."))
    rows: List[Row] = [ours, {"whose": whose, **printed["row"]}]
    title = f"Figure {figure[-1]} beside the paper's"
    return Table(f"{figure}-paper", title, columns, rows, notes)


def _peaks(report: Optional[Report]) -> Row:
    if report is None:
        return dict.fromkeys(("architecture", "experts", "device", "dense", "task", "token",
                              "ratio"), NOT_RUN)
    extracted = [row for row in report["rows"] if row["variant"] == TASK[0] and row["fits"]]
    peaks = {
        "dense": speed(peak(report["rows"], ["dense"])),
        "task": speed(peak(extracted or report["rows"], TASK)),
        "token": speed(peak(report["rows"], ["token_token"])),
    }
    task, token = peaks["task"], peaks["token"]
    ratio: Optional[Measurement] = None
    if task and token:
        spreads = [one.spread for one in (task, token) if one.spread is not None]
        ratio = Measurement(task.value / token.value, max(spreads, default=None))
    return {
        "architecture": architecture(report),
        "experts": min(row["experts"] for row in report["rows"]), "device": device(report),
        **peaks, "ratio": ratio,
    }


def _communication_shares(report: Optional[Report], rows: List[Dict[str, Any]]) -> Row:
    if report is None or not rows:
        return dict.fromkeys(("communication_token", "communication_task",
                              "communication_device"), NOT_RUN)
    best = {"token": peak(rows, ["token_token"]), "task": peak(rows, TASK)}
    return {
        **{f"communication_{name}": 100 * row["communication_share"] if row else NOT_RUN
           for name, row in best.items()},
        "communication_device": device(report),
    }


def _rows(report: Optional[Report], figure: str) -> List[Dict[str, Any]]:
    rows = report["rows"] if report else []
    return [row for row in rows if (row["experts"] == WEB_EXPERTS) == (figure == "figure4")]
