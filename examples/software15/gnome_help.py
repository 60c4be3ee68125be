"""Sentence pairs of GNOME's help: the blocks in the same places of a page (of Mallard, an XML)."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Iterable, Iterator, List, Optional, Tuple

from examples.interface_text import plain_text
from examples.software15.languages import Language
from examples.software15.pairs import Pair

HELP = Path("usr/share/help")
MALLARD = "{http://projectmallard.org/1.0/}"
BLOCKS = {MALLARD + name for name in ("title", "p", "desc")}
KEYS = MALLARD + "keyseq"
LEFT_OUT = MALLARD + "comment"


def block_text(element: ElementTree.Element) -> str:
    """The text of an element; keys that are pressed together are joined as readers see them."""
    if element.tag == KEYS:
        return "+".join(block_text(key) for key in element)
    parts = [element.text or ""]
    for child in element:
        if child.tag != LEFT_OUT:
            parts.append(block_text(child))
        parts.append(child.tail or "")
    return "".join(parts)


def find_blocks(element: ElementTree.Element, place: str = "") -> Iterator[Tuple[str, str]]:
    """Yield (path of tags, text) of all blocks in an element, in the order of the page."""
    for child in element:
        if child.tag == LEFT_OUT:
            continue
        child_place = f"{place}/{child.tag}"
        if child.tag in BLOCKS:
            yield child_place, block_text(child)
        else:
            yield from find_blocks(child, child_place)


def read_page(path: Path) -> Optional[List[Tuple[str, str]]]:
    """List the blocks of a page; None where it is no well-formed XML, as upstream has some."""
    try:
        return list(find_blocks(ElementTree.parse(path).getroot()))
    except ElementTree.ParseError:
        return None


def pairs_of_gnome_help(packages: Iterable[Path], language: Language) -> Iterator[Pair]:
    """Yield the pairs of pages whose blocks are in the same places.

    The application is the page: gnome/seahorse/key-sign.
    """
    for package in packages:
        for english_path in sorted((package / HELP / "C").glob("*/*.page")):
            program, name = english_path.parts[-2:]
            path = package / HELP / language.catalog / program / name
            english = read_page(english_path)
            translated = read_page(path) if path.exists() else None
            if not english or not translated:
                continue
            if [place for place, _ in english] != [place for place, _ in translated]:
                continue
            application = f"gnome/{program}/{english_path.stem}"
            for (_, text), (_, translation) in zip(english, translated, strict=True):
                yield Pair(application, plain_text(text), plain_text(translation))
