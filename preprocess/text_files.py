r"""Text files, one sentence per line, read and written so that no line is lost or shifted.

Only "\n" ends a line. Python's text mode also splits at "\r", and str.splitlines at U+2028 and
others: such a character inside a sentence would shift one side of a parallel corpus.
"""

import os
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Iterable, Iterator, List, Tuple

from fairseq_taskmoe.errors import refuse


def iterate_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of path without their line ends, refusing what is no readable file."""
    try:
        with path.open("rb") as stream:
            for line in stream:
                yield line.rstrip(b"\n")
    except OSError as error:
        refuse(f"{path}: {error.strerror}")


def count_lines(path: Path) -> int:
    return sum(1 for _ in iterate_lines(path))


def read_lines(path: Path) -> List[str]:
    """Read text that must be whole: a line of invalid UTF-8 is refused, never skipped."""
    lines = []
    for number, line in enumerate(iterate_lines(path), start=1):
        try:
            lines.append(line.decode())
        except UnicodeDecodeError:
            refuse(f"{path}, line {number}: not valid UTF-8")
    return lines


def refuse_unequal_lengths(source: Path, target: Path) -> int:
    """Return the number of lines of a parallel corpus, refusing two files that are none."""
    source_count, target_count = count_lines(source), count_lines(target)
    if source_count != target_count:
        refuse(
            f"{source} has {source_count} lines, {target} has {target_count}: "
            "source and target must have one line per sentence pair"
        )
    return source_count


def refuse_existing(outputs: Iterable[Path], overwrite: bool) -> None:
    for path in outputs:
        if path.exists() and not overwrite:
            refuse(f"{path} exists: name another output, or allow it with --overwrite")


@contextmanager
def atomic_output(path: Path) -> Iterator[BinaryIO]:
    """Open path for writing; it appears under its name when it is complete, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as stream:
            yield stream
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    with atomic_output(path) as stream:
        stream.writelines(line.encode() + b"\n" for line in lines)


def language_file(text: str) -> Tuple[str, Path]:
    """Read LANGUAGE=FILE, as the command lines of the steps have it."""
    language, separator, name = text.partition("=")
    if not (language and separator and name):
        refuse(f"{text}: expected LANGUAGE=FILE, as in de=train.en-de.de")
    return language, Path(name)
