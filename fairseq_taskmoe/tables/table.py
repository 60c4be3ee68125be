"""Tables of an experiment, and their text as Markdown, LaTeX, TSV and JSON."""

import csv
import io
import re
import statistics
from dataclasses import dataclass, field
from typing import (
    Any,
    Collection,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

from ..text_tables import markdown_table

NOT_RUN = "not run"
OURS, PAPER = "ours", "paper"  # sources of a row
UNSTEADY = 0.1  # measurements with a larger spread are marked as approximate


class SeedMean(NamedTuple):
    """A number over the seeds of a row."""

    mean: float
    stdev: Optional[float]  # of the sample, n - 1; None for a single seed
    seeds: int


class Measurement(NamedTuple):
    """A speed, or a ratio of speeds."""

    value: float
    spread: Optional[float]  # of the repeats, as a fraction of the value; None: unknown


Cell = Union[None, str, int, float, SeedMean, Measurement]
Row = Dict[str, Cell]  # by the column's key


class Column(NamedTuple):
    key: str
    title: str
    decimals: int = 1  # more would suggest a precision that BLEU and chrF do not have


@dataclass(frozen=True)
class Note:
    """A line below a table; rows: the names of the rows that it is a footnote of."""

    text: str
    rows: Collection[str] = ()


@dataclass(frozen=True)
class Table:
    """Rows of cells. The first column has the name of the row, which footnotes refer to."""

    name: str  # of its file, such as table1
    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[Note] = field(default_factory=tuple)
    bold: Collection[Tuple[int, str]] = ()  # cells by number of the row, and key of the column
    marks: Mapping[Tuple[int, str], str] = field(default_factory=dict)  # after a number


def seed_mean(values: Sequence[Optional[float]]) -> Optional[SeedMean]:
    """Return mean and standard deviation over seeds; None without values or if one is unknown."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    stdev = statistics.stdev(known) if len(known) > 1 else None
    return SeedMean(statistics.fmean(known), stdev, len(known))


def markdown(tables: Sequence[Table]) -> str:
    """Return the text of a file with these tables, headed by the title of the first."""
    lines: List[str] = []
    for table in tables:
        notes = _numbered_notes(table)
        lines += [
            f"{'##' if lines else '#'} {table.title}", "",
            *markdown_table(
                [column.title.replace("|", "\\|") for column in table.columns],
                [[text.replace("|", "\\|") for text in row] for row in _texts(table, "**", "**")],
                [_has_numbers(table, column) for column in table.columns],
            ), "",
            *(f"- {note}" for note in notes), *([""] if notes else []),
        ]
    return "\n".join(lines).rstrip() + "\n"


def latex(tables: Sequence[Table]) -> str:
    """Return these tables for LaTeX, with the rules of the package booktabs."""
    lines: List[str] = ["% \\usepackage{booktabs}"]
    for table in tables:
        kinds = "".join("r" if _has_numbers(table, column) else "l" for column in table.columns)
        rows = [[column.title for column in table.columns], *_texts(table, "\x01", "\x02")]
        head, *body = (f"{' & '.join(map(_escaped, row))} \\\\" for row in rows)
        lines += [
            "\\begin{table}", "\\centering", f"\\caption{{{_escaped(table.title)}}}",
            f"\\begin{{tabular}}{{{kinds}}}", "\\toprule", head, "\\midrule", *body, "\\bottomrule",
            "\\end{tabular}", "\\par\\footnotesize",
            *(_escaped(MARKDOWN.sub("", note)) + "\\par" for note in _numbered_notes(table)),
            "\\end{table}", "",
        ]
    return "\n".join(lines)


MARKDOWN = re.compile(r"`|\*\*|\\")  # its signs in notes
# characters that LaTeX reads as commands, and those that its default encoding lacks
LATEX = str.maketrans({
    **{sign: f"\\{sign}" for sign in "&%$#_{}"}, "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}", "<": "$<$", ">": "$>$", "→": "$\\rightarrow$", "±": "$\\pm$",
    "\x01": "\\textbf{", "\x02": "}",
})


def _escaped(text: str) -> str:
    return text.translate(LATEX)


def _numbered_notes(table: Table) -> List[str]:
    numbered = [note for note in table.notes if note.rows]
    return [f"[{i}] {note.text}" for i, note in enumerate(numbered, start=1)] + [
        note.text for note in table.notes if not note.rows
    ]


def tsv(table: Table) -> str:
    """Return a table with one value in each cell: deviations have columns of their own."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    columns: List[List[str]] = []
    for column in table.columns:
        cells = [row.get(column.key) for row in table.rows]
        values = [cell[0] if isinstance(cell, (SeedMean, Measurement)) else cell for cell in cells]
        columns.append([column.title, *(
            "" if value is None else _text(value, column.decimals + 1, "") for value in values
        )])
        deviations = [_deviation(cell) for cell in cells]
        kind = next((kind for kind, _ in deviations if kind), "")
        if kind:
            decimals = 3 if kind == "spread" else column.decimals + 1  # a spread is a fraction
            columns.append([f"{column.title} {kind}", *(
                "" if number is None else f"{number:.{decimals}f}" for _, number in deviations
            )])
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue()


def to_json(table: Table) -> Dict[str, Any]:
    """Return a table for programs, with unrounded numbers."""
    return {
        "title": table.title,
        "columns": {column.key: column.title for column in table.columns},
        "rows": [
            {
                column.key: cell._asdict() if isinstance(cell, (SeedMean, Measurement)) else cell
                for column in table.columns
                for cell in [row.get(column.key)]
            }
            for row in table.rows
        ],
        "notes": [{"text": note.text, "rows": list(note.rows)} for note in table.notes],
    }


def _texts(table: Table, begin_bold: str, end_bold: str) -> List[List[str]]:
    """Return the cells of all rows; the first of a row has the numbers of its footnotes."""
    numbered = [note for note in table.notes if note.rows]
    rows = []
    for i, row in enumerate(table.rows):
        texts = []
        for column in table.columns:
            text = _text(row.get(column.key), column.decimals)
            text = f"{begin_bold}{text}{end_bold}" if (i, column.key) in table.bold else text
            texts.append(text + table.marks.get((i, column.key), ""))
        if row.get("whose") != OURS:  # of a system's two rows, only the paper's has the footnotes
            marks = [f" [{n}]" for n, note in enumerate(numbered, start=1) if texts[0] in note.rows]
            texts[0] += "".join(marks)
        rows.append(texts)
    return rows


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
    if isinstance(cell, SeedMean):
        deviation = "" if cell.stdev is None else f" ± {cell.stdev:.{decimals}f}"
        return f"{cell.mean:{thousands}.{decimals}f}{deviation}"
    if isinstance(cell, Measurement):
        about = "~" if cell.spread is not None and cell.spread > UNSTEADY else ""
        return f"{about}{cell.value:{thousands}.{decimals}f}"
    return f"{cell:{thousands}.{decimals}f}"


def _deviation(cell: Cell) -> Tuple[str, Optional[float]]:
    """Return the kind of a cell's deviation and its value; ("", None) where it is unknown."""
    if isinstance(cell, SeedMean) and cell.stdev is not None:
        return "stdev", cell.stdev
    if isinstance(cell, Measurement) and cell.spread is not None:
        return "spread", cell.spread
    return "", None
