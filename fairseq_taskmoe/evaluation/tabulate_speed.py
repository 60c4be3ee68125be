"""Speeds of table 1 and figures 2 and 4, out of a report of `taskmoe bench decode`."""

from typing import Any, Optional

from .tabulate_inputs import device_name
from .tabulate_paper import Paper
from .tabulate_table import Column, Note, Row, Table

WEB_EXPERTS = 128  # figure 4's, of the paper's web-scale models; figure 2 has all others


def peak_speed(report: Optional[dict[str, Any]], paper: Paper, system: str) -> Optional[float]:
    """Return tokens/s of a system at its best batch size, with the fewest experts measured."""
    known = paper.systems.get(system)
    variants = {system, known.speed if known else None}
    rows = [row for row in _figure_rows(report, "figure2")
            if row["fits"] and row["variant"] in variants]
    if not rows:
        return None
    fewest = min(row["experts"] for row in rows)
    return max(row["tokens_per_second"] for row in rows if row["experts"] == fewest)


def figure_report(report: Optional[dict[str, Any]], figure: str) -> Optional[dict[str, Any]]:
    """Return what a report holds for figure2 or figure4; None where that is nothing."""
    rows = _figure_rows(report, figure)
    return {**report, "rows": rows} if report and rows else None


def speed_table(report: dict[str, Any], figure: str, paper: Paper) -> Table:
    """Return the points of figure 2 or 4."""
    columns = [
        Column("variant", "variant"), Column("experts", "experts"),
        Column("batch_size", "batch size"), Column("tokens_per_second", "tokens/s"),
    ]
    if any("communication_share" in row for row in report["rows"]):
        columns.append(Column("communication_share", "share of communication", 3))
    rows: list[Row] = [
        {
            **{column.key: row.get(column.key) for column in columns},
            **({} if row["fits"] else {"tokens_per_second": "does not fit"}),
        }
        for row in report["rows"]
    ]
    notes = [Note(conditions(report))]
    title = f"Figure {figure[-1]}. Tokens per second by batch size"
    return Table(figure, title, columns, rows, [*notes, *paper.notes(figure)])


def conditions(report: dict[str, Any]) -> str:
    """Return what was measured, and on what."""
    settings = report["settings"]
    return (f"{settings['arch']}, beam {settings['beam']}, {settings['dtype']}, "
            f"{device_name(report)}")


def _figure_rows(report: Optional[dict[str, Any]], figure: str) -> list[dict[str, Any]]:
    rows = report["rows"] if report else []
    return [row for row in rows if (row["experts"] == WEB_EXPERTS) == (figure == "figure4")]
