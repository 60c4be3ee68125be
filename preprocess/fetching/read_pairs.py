"""Read the sentence pairs of a downloaded archive, as bytes: clean.py checks the encoding.

Only a line feed ends a line: a carriage return inside a sentence would shift a side.
"""

import bz2
import fnmatch
import gzip
import html
import itertools
import lzma
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, Callable, Dict, Iterator, List, Optional, Tuple
from xml.etree import ElementTree

from .sources import Archive

RawPair = Tuple[bytes, bytes]
OPENERS: Dict[str, Callable[..., Any]] = {
    ".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open,
}
# sacreBLEU unpacks whole archives: reject links and names that lead outside the folder
tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
MAX_BROKEN_ROWS = 0.01  # share of all rows


class BadArchive(Exception):
    """An archive does not have the content that the configuration describes."""


# raised by the libraries for truncated files and wrong formats; BadGzipFile is an OSError
DAMAGE_ERRORS = (
    EOFError, ElementTree.ParseError, gzip.BadGzipFile, lzma.LZMAError,
    tarfile.TarError, zipfile.BadZipFile, zlib.error,
)


def read_pairs(path: Path, archive: Archive, languages: Tuple[str, str]) -> Iterator[RawPair]:
    """Yield the sentence pairs, with the sides in the order of languages.

    White space at the ends is stripped, tabs and carriage returns inside become spaces; sides may
    be empty. Raises BadArchive if the archive cannot be read or the sides do not match.
    """
    try:
        for first, second in open_pairs(path, archive, languages):
            yield one_line(first), one_line(second)
    except DAMAGE_ERRORS as error:
        raise BadArchive(f"damaged: {error}") from error


def open_pairs(path: Path, archive: Archive, languages: Tuple[str, str]) -> Iterator[RawPair]:
    parts = [archive.parts[code] for code in languages]
    if archive.kind == "text":
        members = [str(part) for part in parts]
        first, second = (open_members(path, member) for member in members)
        return read_text(first, second, members)
    if archive.kind == "tsv":
        columns = [int(part) for part in parts]
        streams = open_members(path, archive.member)
        return read_table(streams, columns, archive.separator.encode())
    (stream,) = open_members(path, archive.member)
    return read_tmx(stream, [str(part) for part in parts])


def one_line(sentence: bytes) -> bytes:
    return sentence.replace(b"\r", b" ").replace(b"\t", b" ").strip()


def open_members(path: Path, pattern: Optional[str]) -> List[IO[bytes]]:
    """Open the files of an archive that match pattern, sorted by name."""
    if zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        names = sorted(fnmatch.filter(archive.namelist(), pattern or "*"))
        if not names:
            raise BadArchive(f"it has no {pattern}")
        return [archive.open(name) for name in names]
    if pattern is None:
        return [unzipped(path.name, path.open("rb"))]
    if not tarfile.is_tarfile(path):
        raise BadArchive("not a zip or tar archive, or truncated")
    # opened for each side: reading two members of one archive in turn would go back and forth
    for member in (tar := tarfile.open(path)):
        content = tar.extractfile(member)
        if content and fnmatch.fnmatch(member.name.removeprefix("./"), pattern):
            return [unzipped(member.name, content)]
    raise BadArchive(f"it has no {pattern}")


def unzipped(name: str, file: IO[bytes]) -> IO[bytes]:
    opener = OPENERS.get(Path(name).suffix)
    return opener(file) if opener else file


def read_text(
    first: List[IO[bytes]], second: List[IO[bytes]], names: List[str]
) -> Iterator[RawPair]:
    if len(first) != len(second):
        raise BadArchive(f"{names[0]} matches {len(first)} files, {names[1]} {len(second)}")
    # file by file: with unequal lines in two files, the pairs between them would be shifted
    for sides in zip(first, second, strict=True):
        count = 0
        for pair in itertools.zip_longest(*sides):
            if None in pair:
                longer = count + 1 + sum(1 for _ in sides[pair.index(None) ^ 1])
                counts = [count, longer] if pair[0] is None else [longer, count]
                raise BadArchive(
                    f"{names[0]} has {counts[0]} lines, {names[1]} has {counts[1]}: "
                    "the two sides must have one line per sentence pair"
                )
            count += 1
            yield pair


def read_table(streams: List[IO[bytes]], columns: List[int], separator: bytes) -> Iterator[RawPair]:
    """Yield two columns of a table; a row without one of them gives a pair of empty sides."""
    rows = broken = 0
    for line in itertools.chain.from_iterable(streams):
        rows += 1
        cells = line.rstrip(b"\n").split(separator)
        if max(columns) < len(cells):
            yield cells[columns[0]], cells[columns[1]]
        else:
            broken += 1
            yield b"", b""
    if broken > MAX_BROKEN_ROWS * rows or rows == 0:
        raise BadArchive(f"{broken} of {rows} rows lack column {max(columns) + 1}")


def read_tmx(file: IO[bytes], codes: List[str]) -> Iterator[RawPair]:
    """Yield the segments of the units that have both languages, given by their codes."""
    body, num_pairs = None, 0
    for event, element in ElementTree.iterparse(file, ("start", "end")):
        if element.tag == "body":
            body = element
        if event == "start" or element.tag != "tu":
            continue
        segments = {_language(one): one.findtext("seg") or "" for one in element.findall("tuv")}
        pair = [html.unescape(segments.get(code, "")).replace("\n", " ") for code in codes]
        if all(map(str.strip, pair)):
            num_pairs += 1
            yield pair[0].encode(), pair[1].encode()
        if body is not None:
            body.clear()  # or all units would stay in memory
    if num_pairs == 0:
        raise BadArchive(f"it has no units in {' and '.join(codes)}")


def _language(variant: ElementTree.Element) -> str:
    """Return the language of a translation unit variant without its region: en of EN-GB."""
    codes = [value for name, value in variant.attrib.items() if name.endswith("lang")]
    return codes[0].lower().partition("-")[0] if codes else ""
