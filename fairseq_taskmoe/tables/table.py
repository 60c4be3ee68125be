"""Tables of an experiment, and how they are written: Markdown, TSV, and JSON for programs."""

import csv
import io
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional, Union

NOT_RUN = "not run"
OURS, PAPER = "ours", "paper"  # whose a row is
UNSTEADY = 0.1  # spread of a measurement that is no more than about right


class Spread(NamedTuple):
    """A number over the seeds of a row."""

    mean: float
    stdev: Optional[float]  # of the sample, n - 1; None for a single seed
    seeds: int


class Measured(NamedTuple):
    """A speed, or a ratio of speeds."""

    value: float
    spread: Optional[float]  # of its repeats, as a share of it; None: not known


Cell = Union[None, str, int, float, Spread, Measured]
Row = dict[str, Cell]  # by the column's key


class Column(NamedTuple):
    key: str
    title: str
    decimals: int = 1  # further ones suggest a precision that BLEU and chrF do not have


@dataclass(frozen=True)
class Note:
    """A line below a table; rows names those that it is a footnote of."""

    text: str
    rows: Collection[str] = ()


@dataclass(frozen=True)
class Table:
    """Rows of cells. The first column names the row, and footnotes refer to it."""

    name: str  # of its file: table1
    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[Note] = field(default_factory=tuple)


def spread(values: Sequence[Optional[float]]) -> Optional[Spread]:
    """Return mean and standard deviation over seeds; None of nothing, or where one is unknown."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    stdev = statistics.stdev(known) if len(known) > 1 else None
    return Spread(statistics.fmean(known), stdev, len(known))


def markdown(tables: Sequence[Table]) -> str:
    """Return the tables of one file, the first of which gives it its heading."""
    lines: list[str] = []
    for table in tables:
        numbered = [note for note in table.notes if note.rows]
        header = [column.title for column in table.columns]
        rule = ["---:" if _has_numbers(table, column) else "---" for column in table.columns]
        rows = [_texts(table, row, numbered) for row in table.rows]
        notes = [f"[{i}] {note.text}" for i, note in enumerate(numbered, start=1)]
        notes += [note.text for note in table.notes if not note.rows]
        lines += [
            f"{'##' if lines else '#'} {table.title}", "",
            *(f"| {' | '.join(row)} |" for row in (header, rule, *rows)), "",
            *(f"- {note}" for note in notes), *([""] if notes else []),
        ]
    return "\n".join(lines).rstrip() + "\n"


def tsv(table: Table) -> str:
    """Return a table in which every cell is one value: a spread has a column of its own."""
    spreading = {
        column.key: kind for column in table.columns for row in table.rows
        for kind, _ in [_deviation(row.get(column.key))] if kind
    }
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(
        title for column in table.columns for title in
        ((column.title, f"{column.title} {spreading[column.key]}") if column.key in spreading
         else (column.title,))
    )
    for row in table.rows:
        cells: list[str] = []
        for column in table.columns:
            cell = row.get(column.key)
            value = cell[0] if isinstance(cell, (Spread, Measured)) else cell
            cells.append("" if value is None else _text(value, column.decimals + 1, ""))
            if column.key in spreading:
                kind, deviation = _deviation(cell)
                decimals = 3 if kind == "spread" else column.decimals + 1  # a spread is a share
                cells.append("" if deviation is None else f"{deviation:.{decimals}f}")
        writer.writerow(cells)
    return text.getvalue()


def to_json(table: Table) -> dict[str, Any]:
    """Return a table for programs, with all the digits that there are."""
    return {
        "title": table.title,
        "columns": {column.key: column.title for column in table.columns},
        "rows": [
            {
                column.key: cell._asdict() if isinstance(cell, (Spread, Measured)) else cell
                for column in table.columns
                for cell in [row.get(column.key)]
            }
            for row in table.rows
        ],
        "notes": [{"text": note.text, "rows": list(note.rows)} for note in table.notes],
    }


def _texts(table: Table, row: Row, numbered: Sequence[Note]) -> list[str]:
    """Return the cells of a row, its name with the numbers of its footnotes."""
    texts = [_text(row.get(column.key), column.decimals) for column in table.columns]
    if row.get("whose") != OURS:  # where ours and the paper's are rows, footnotes are on the latter
        marks = [f" [{i}]" for i, note in enumerate(numbered, start=1) if texts[0] in note.rows]
        texts[0] += "".join(marks)
    return [text.replace("|", "\\|") for text in texts]


def _has_numbers(table: Table, column: Column) -> bool:
    cells = [row.get(column.key) for row in table.rows]
    return any(cell is not None and not isinstance(cell, str) for cell in cells)


def _text(cell: Cell, decimals: int, thousands: str = ",") -> str:
    if cell is None:
        return "-"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int):
        return f"{cell:{thousands}}"
    if isinstance(cell, Spread):
        deviation = "" if cell.stdev is None else f" ± {cell.stdev:.{decimals}f}"
        return f"{cell.mean:{thousands}.{decimals}f}{deviation}"
    if isinstance(cell, Measured):
        about = "~" if cell.spread is not None and cell.spread > UNSTEADY else ""
        return f"{about}{cell.value:{thousands}.{decimals}f}"
    return f"{cell:{thousands}.{decimals}f}"


def _deviation(cell: Cell) -> tuple[str, Optional[float]]:
    """Return by how much a cell varies, and what that is; "" where nothing is known of it."""
    if isinstance(cell, Spread) and cell.stdev is not None:
        return "stdev", cell.stdev
    if isinstance(cell, Measured) and cell.spread is not None:
        return "spread", cell.spread
    return "", None
