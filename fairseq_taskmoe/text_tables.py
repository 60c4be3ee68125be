"""Tables as text: aligned columns for a terminal, Markdown, and tab-separated files."""

from pathlib import Path
from typing import Iterable, List, Sequence


def aligned(rows: Sequence[Sequence[str]]) -> List[str]:
    """Return one line for each row, the first column aligned left and the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[bool]
) -> List[str]:
    """Return the lines of a Markdown table; numeric columns are aligned right."""
    rule = ["---:" if right else "---" for right in numeric]
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]


def write_tsv(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Write rows of cells as a tab-separated file; the first row has the names of the columns."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines("\t".join(row) + "\n" for row in rows)
