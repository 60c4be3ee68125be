"""Read the YAML files of a user, with messages that name the file and the key."""

import re
from pathlib import Path
from typing import Any, Dict, Iterable, NoReturn, Sequence

import yaml

from fairseq_taskmoe.data.named_pairs import hyphen_hint
from fairseq_taskmoe.errors import refuse
from fairseq_taskmoe.read_files import read_yaml

PAIR = re.compile(r"([^\s/-]+)-([^\s/-]+)")


def read_mapping(path: Path, expected: str) -> Dict[Any, Any]:
    """Read a file that is a mapping; another one is refused, with expected in the message."""
    content = read_yaml(path, yaml.SafeLoader)
    if not isinstance(content, dict):
        refuse(f"{path}: expected {expected}")
    return content


def is_pair(name: object) -> bool:
    """Return whether name is a pair of two languages, as en-de; YAML reads a plain no as false."""
    match = PAIR.fullmatch(name) if isinstance(name, str) else None
    return match is not None and match[1] != match[2]


def check_pair(name: object, where: str, expected: str) -> None:
    """Refuse a name that is not a pair, with expected in the message."""
    if isinstance(name, str) and name.count("-") > 1 and not re.search(r"[\s/]", name):
        refuse(f"{where}: {name}: {hyphen_hint(name.split('-'))}")
    if not is_pair(name):
        refuse(f"{where}: {expected}")


def refuse_type(where: str, value: object, expected: str) -> NoReturn:
    refuse(f"{where}: {value!r} is not {expected}")


def refuse_unknown(where: str, given: Iterable[object], known: Sequence[str]) -> None:
    for key in given:
        if key not in known:
            refuse(f"{where}: unknown key {key!r}; known are {', '.join(known)}")


def mapping_in(content: Dict[Any, Any], key: str, where: str) -> Dict[str, Any]:
    """Return the mapping under a key, which may be missing."""
    found = content.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        refuse_type(f"{where}: {key}", found, "a mapping")
    for name in found:
        if not isinstance(name, str):
            refuse_type(f"{where}: {key}", name, 'a name; quote numbers and "no"')
    return found
