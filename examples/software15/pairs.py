"""Sentence pairs with the application that they come from: filters, and a table per language."""

import re
from pathlib import Path
from typing import Counter, Iterable, Iterator, List, NamedTuple, Set

from examples.software15 import interface_text
from preprocess.text_files import read_lines, write_lines

# placeholders: %s, %2$d, %1, %FILE%, $name, $(ARG1), ${name}, {name}, #count#, [NAME]
PLACEHOLDER = re.compile(
    r"%[-+#0'.]*\w+|\$\w+|\$\(\w+\)|\$\{\w+\}|\$\[\w+\]|\{\w*\}|#\w+#|\[[A-Z]+\]|\\n"
)
POSITION = re.compile(r"%\d+\$")  # a translation may change the order: %2$s


class Pair(NamedTuple):
    application: str  # the unit of holding out: office/chart, help/smath, gnome/seahorse/key-sign
    english: str
    translation: str


def placeholders(text: str) -> Set[str]:
    return set(PLACEHOLDER.findall(POSITION.sub("%", text)))


def filter_pairs(pairs: Iterable[Pair], language: str, counts: Counter[str]) -> Iterator[Pair]:
    """Yield the pairs that pass the filters, each once, and count the others by reason."""
    seen = set()
    for pair in pairs:
        counts["read"] += 1
        reason = interface_text.rejection(pair.english, pair.translation, language)
        if reason is None and placeholders(pair.english) != placeholders(pair.translation):
            reason = "placeholders differ"
        if reason is None and pair in seen:
            reason = "duplicate"
        if reason:
            counts[reason] += 1
        else:
            seen.add(pair)
            counts["kept"] += 1
            yield pair


def write_pairs(path: Path, pairs: Iterable[Pair]) -> None:
    """Write a table of pairs; plain_text() has removed tabs and line ends."""
    write_lines(path, ("\t".join(pair) for pair in pairs))


def read_pairs(path: Path) -> List[Pair]:
    return [Pair(*line.split("\t")) for line in read_lines(path)]
