"""Reading text, JSON and YAML that anyone may have written: what cannot be read is refused.

Only a line feed ends a line, as in `wc -l`: str.splitlines and text mode also split at carriage
returns, form feeds, U+0085 and U+2028, which may stand in a sentence. A carriage return before the
line feed and a byte order mark at the start, both of Windows, are not part of the text.

Where a flag names the file, messages can name the flag.
"""

import json
from os import PathLike
from pathlib import Path
from typing import Any, Iterator, List, Type, Union

from .errors import refuse

File = Union[str, "PathLike[str]"]
BOM = b"\xef\xbb\xbf"  # the byte order mark in UTF-8


def read_bytes(path: File, flag: str = "") -> bytes:
    """Return what a file holds."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        refuse(f"{flag or 'cannot read'} {path}: {error.strerror or error}")


def read_text(path: File, flag: str = "") -> str:
    """Return the text of a file in UTF-8."""
    content = read_bytes(path, flag).removeprefix(BOM)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(10) + 1
        refuse(f"{_with(flag)}{path}: line {line} is not UTF-8")


def iterate_lines(path: File, flag: str = "") -> Iterator[str]:
    """Yield the lines of a text file, which may be large; the last need not have a line end."""
    number = 0
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    line = line.removeprefix(BOM)
                yield line.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        refuse(f"{_with(flag)}{path}: line {number} is not UTF-8")
    except OSError as error:
        refuse(f"{flag or 'cannot read'} {path}: {error.strerror or error}")


def read_lines(path: File) -> List[str]:
    """Return the lines of a text file."""
    return list(iterate_lines(path))


def read_json(path: File, kind: str = "") -> Any:
    """Return what a JSON file holds; kind can say what it should be."""
    try:
        return json.loads(read_bytes(path).decode())
    except (ValueError, RecursionError) as error:  # ValueError also where it is not UTF-8
        what = f" is not a {kind}" if kind else ": not JSON"
        refuse(f"{path}{what}: {' '.join(str(error).split())}")


def read_yaml(path: File, loader: Type[Any], flag: str = "") -> Any:
    """Return what a YAML file holds, read by one of PyYAML's loaders that execute nothing."""
    import yaml  # not above: most commands read none

    try:
        return yaml.load(read_text(path, flag), loader)
    # ValueError: an invalid date
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        refuse(f"{_with(flag)}{path}: {' '.join(str(error).split())}, so it is not YAML")


def _with(flag: str) -> str:
    return f"{flag} " if flag else ""
