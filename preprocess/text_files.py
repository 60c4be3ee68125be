r"""Read and write text files with one sentence per line, so that no line is lost or shifted.

Only "\n" ends a line. Python's text mode also splits at "\r", and str.splitlines at U+2028 and
others: such a character inside a sentence would shift one side of a parallel corpus. A carriage
return before the line feed and a byte order mark at the start, both of Windows, are not part of the
text. A file name that ends in .gz is read through gzip.
"""

import gzip
import os
import zlib
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Iterable, Iterator, List, NamedTuple, Sequence, Tuple

from fairseq_taskmoe.errors import refuse
from fairseq_taskmoe.read_files import BOM


class Chunk(NamedTuple):
    """Some lines of a parallel text."""

    text: int  # index of the text, among several
    first_line: int  # counted from 0 over all texts
    num_lines: int
    sides: Tuple[bytes, ...]  # the same lines in each language, each line with its line end
    bytes_read: int  # of the files of the first side, with this chunk
    paths: Tuple[Path, ...] = ()  # of the sides

    def decoded(self) -> List[List[str]]:
        """Return the lines of each side, refusing a file that is not UTF-8."""
        try:
            return [side.decode().split("\n")[:-1] for side in self.sides]
        except UnicodeDecodeError as error:
            refuse(f"{self.paths[self.sides.index(error.object)]}: not valid UTF-8")


@contextmanager
def opened(path: Path) -> Iterator[Tuple[Iterator[bytes], BinaryIO]]:
    """Open a text; give its lines with their ends, and the file, whose position shows the progress.

    Refuses a file that cannot be read, and gzip that is damaged or truncated.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
        except OSError as error:
            refuse(f"{path}: {error.strerror or error}")
        lines = stack.enter_context(gzip.open(file)) if path.suffix == ".gz" else file
        yield _readable_lines(path, lines), file


def _readable_lines(path: Path, lines: Iterable[bytes]) -> Iterator[bytes]:
    try:
        for number, line in enumerate(lines):
            yield line if number else line.removeprefix(BOM)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        refuse(f"{path}: truncated or damaged gzip file ({error})")
    except OSError as error:
        refuse(f"{path}: {error.strerror or error}")


def iterate_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of path without their line ends; refuses a file that cannot be read."""
    with opened(path) as (lines, _):
        for line in lines:
            yield line.removesuffix(b"\n").removesuffix(b"\r")


def count_lines(path: Path) -> int:
    return sum(1 for _ in iterate_lines(path))


def decoded_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text; refuses invalid UTF-8."""
    for number, line in enumerate(iterate_lines(path), start=1):
        try:
            yield line.decode()
        except UnicodeDecodeError:
            refuse(f"{path}, line {number}: not valid UTF-8")


def read_lines(path: Path) -> List[str]:
    return list(decoded_lines(path))


def refuse_unequal_lengths(source: Path, target: Path) -> int:
    """Return the number of lines of a parallel text; refuses files of different length."""
    counts = count_lines(source), count_lines(target)
    if counts[0] != counts[1]:
        _refuse_counts((source, target), counts)
    return counts[0]


def _refuse_counts(paths: Sequence[Path], counts: Sequence[int]) -> None:
    refuse(
        f"{paths[0]} has {counts[0]} lines, {paths[1]} has {counts[1]}: "
        "source and target must have one line per sentence pair"
    )


def parallel_chunks(texts: Sequence[Sequence[Path]], max_lines: int) -> Iterator[Chunk]:
    """Yield parallel texts one after the other, in chunks of at most max_lines lines.

    A text whose sides have different lengths is refused when the end of one is reached.
    """
    first_line = bytes_before = 0
    for number, paths in enumerate(texts):
        start = first_line
        with ExitStack() as stack:
            streams = [stack.enter_context(opened(path)) for path in paths]
            while True:
                sides = [list(islice(lines, max_lines)) for lines, _ in streams]
                if len({len(side) for side in sides}) > 1:
                    before = first_line - start
                    rest = [sum(1 for _ in lines) for lines, _ in streams]
                    counts = [before + len(side) + n for side, n in zip(sides, rest, strict=True)]
                    _refuse_counts(paths, counts)
                if not sides[0]:
                    break
                for side in sides:  # the last line of a file may lack its end
                    side[-1] = side[-1].rstrip(b"\n") + b"\n"
                blobs = tuple(b"".join(side) for side in sides)
                bytes_read = bytes_before + streams[0][1].tell()
                yield Chunk(
                    number, first_line, len(sides[0]), blobs, bytes_read, tuple(paths)
                )
                first_line += len(sides[0])
        bytes_before += paths[0].stat().st_size


def refuse_existing(outputs: Iterable[Path], overwrite: bool) -> None:
    for path in outputs:
        if path.exists() and not overwrite:
            refuse(f"{path} exists: name another output, or give --overwrite")


@contextmanager
def refusing_write_errors(path: Path) -> Iterator[None]:
    """Refuse errors of writing, such as a full disk; Python's own errors do not name the file."""
    try:
        yield
    except OSError as error:
        refuse(f"{path}: {error.strerror or error}")


def partial_name(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


@contextmanager
def atomic_output(path: Path) -> Iterator[BinaryIO]:
    """Open path for writing; it appears under its name when it is complete, or not at all."""
    partial = partial_name(path)
    with refusing_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
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
    """Parse LANGUAGE=FILE."""
    language, separator, name = text.partition("=")
    if not (language and separator and name):
        refuse(f"{text}: expected LANGUAGE=FILE, as in de=train.en-de.de")
    return language, Path(name)
