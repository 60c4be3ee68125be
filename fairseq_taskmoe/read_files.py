"""Reading text, JSON and YAML files of users; refuses unreadable ones.

Only a line feed ends a line, as in `wc -l`: str.splitlines and text mode also split at carriage
returns, form feeds, U+0085 and U+2028, which can be in a sentence. A carriage return before the
line feed and a byte order mark at the start, as on Windows, are removed.

`flag` is the flag that gives the path, for messages.
"""

import json
from os import PathLike
from pathlib import Path
from typing import Any, Iterator, List, Type, Union

from .errors import refuse

File = Union[str, "PathLike[str]"]
BOM = b"\xef\xbb\xbf"  # the byte order mark in UTF-8


def read_bytes(path: File, flag: str = "") -> bytes:
    """Return the content of a file."""
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
    """Yield the lines of a text file without reading all of it."""
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
    """Return the content of a JSON file; kind is what it should be, for the message."""
    try:
        return json.loads(read_bytes(path).decode())
    except (ValueError, RecursionError) as error:  # ValueError also where it is not UTF-8
        what = f" is not a {kind}" if kind else ": not JSON"
        refuse(f"{path}{what}: {' '.join(str(error).split())}")


def read_yaml(path: File, loader: Type[Any], flag: str = "") -> Any:
    """Return the content of a YAML file, read with one of PyYAML's safe loaders."""
    import yaml  # here, since most commands do not need it

    try:
        return yaml.load(read_text(path, flag), loader)
    # ValueError: an invalid date
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        refuse(f"{_with(flag)}{path}: {' '.join(str(error).split())}, so it is not YAML")


def _with(flag: str) -> str:
    return f"{flag} " if flag else ""
