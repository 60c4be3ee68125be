"""Sentence pairs of gettext catalogs, of LibreOffice's help and of GNOME's help."""

import html
import re
import xml.etree.ElementTree as ElementTree
from itertools import chain
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from examples.software15.interface_text import plain_text
from examples.software15.languages import Language
from examples.software15.pairs import Pair
from fairseq_taskmoe.errors import refuse
from preprocess.catalogs import TAG, read_catalog

CATALOGS = {
    "programs": "usr/share/locale/{}/LC_MESSAGES/*.mo",
    "office": "usr/lib/libreoffice/program/resource/{}/LC_MESSAGES/*.mo",
}
# thousands of names of countries, languages and currencies
SKIPPED_CATALOGS = "iso_"
OFFICE_HELP = Path("usr/share/libreoffice/help")
PARAGRAPH = re.compile(
    r'<(?P<tag>p|h[1-6]) id="(?P<id>(?:par|hd)_id\w+)"[^>]*>(?P<content>.*?)</(?P=tag)>', re.DOTALL
)
# text that is shown on a Mac instead of the text beside it
MAC_VARIANT = re.compile(
    r'<span hidden="true" id="MAC[^"]*"[^>]*>(?:<span[^>]*>[^<]*</span>|[^<])*</span>'
)
GNOME_HELP = Path("usr/share/help")
MALLARD = "{http://projectmallard.org/1.0/}"  # GNOME's XML format of help
BLOCKS = {MALLARD + name for name in ("title", "p", "desc")}
KEY_SEQUENCE = MALLARD + "keyseq"
COMMENT = MALLARD + "comment"


def all_pairs(packages: Sequence[Path], language: Language) -> Iterator[Pair]:
    """Yield the pairs of all sources in unpacked packages, in a fixed order."""
    return chain(
        pairs_of_catalogs(packages, "office", language),
        pairs_of_office_help(packages, language),
        pairs_of_gnome_help(packages, language),
        pairs_of_catalogs(packages, "programs", language),
    )


def pairs_of_catalogs(packages: Sequence[Path], source: str, language: Language) -> Iterator[Pair]:
    """Yield the pairs of the catalogs of a source.

    The application of a pair is the catalog's name: office/chart.
    """
    for package in packages:
        for path in sorted(package.glob(CATALOGS[source].format(language.catalog))):
            if path.name.startswith(SKIPPED_CATALOGS):
                continue
            for english, translation in read_catalog(path):
                yield Pair(f"{source}/{path.stem}", plain_text(english), plain_text(translation))


def pairs_of_office_help(packages: Sequence[Path], language: Language) -> Iterator[Pair]:
    """Yield the paragraphs and headings of LibreOffice's help with the same id.

    The application is the page's first folder: help/schart. Untranslated paragraphs are English on
    both sides.
    """
    english_pages = dict(_office_pages(packages, "en-US"))
    for name, path in _office_pages(packages, language.help_folder):
        if name not in english_pages:
            continue
        english, translated = _read_office_page(english_pages[name]), _read_office_page(path)
        application = f"help/{Path(name).parts[0]}"
        for paragraph, text in english.items():
            if paragraph in translated:
                yield Pair(application, plain_text(text), plain_text(translated[paragraph]))


def _office_pages(packages: Sequence[Path], folder: str) -> List[Tuple[str, Path]]:
    """Return (name below folder, path) of all help pages."""
    pages = []
    for package in packages:
        top = package / OFFICE_HELP / folder / "text"
        pages += [(str(path.relative_to(top)), path) for path in top.glob("**/*.html")]
    return sorted(pages)


def _read_office_page(path: Path) -> Dict[str, str]:
    """Return the text of a page's paragraphs and headings by id."""
    try:
        page = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        refuse(f"{path}: not a help page ({error})")
    texts: Dict[str, str] = {}
    for match in PARAGRAPH.finditer(page):
        content = TAG.sub("", MAC_VARIANT.sub("", match["content"]))
        # the first text of an id that occurs twice, in every language
        texts.setdefault(match["id"], html.unescape(content))
    return texts


def pairs_of_gnome_help(packages: Sequence[Path], language: Language) -> Iterator[Pair]:
    """Yield the blocks of pages that have the same structure in both languages.

    The application is the page: gnome/seahorse/key-sign.
    """
    for package in packages:
        for english_path in sorted((package / GNOME_HELP / "C").glob("*/*.page")):
            program, name = english_path.parts[-2:]
            path = package / GNOME_HELP / language.catalog / program / name
            english = _read_gnome_page(english_path)
            translated = _read_gnome_page(path) if path.exists() else None
            if not english or not translated:
                continue
            if [place for place, _ in english] != [place for place, _ in translated]:
                continue
            application = f"gnome/{program}/{english_path.stem}"
            for (_, text), (_, translation) in zip(english, translated, strict=True):
                yield Pair(application, plain_text(text), plain_text(translation))


def _read_gnome_page(path: Path) -> Optional[List[Tuple[str, str]]]:
    """Return the blocks of a page; None if it is not well-formed XML, as a few pages are not."""
    try:
        return list(_find_blocks(ElementTree.parse(path).getroot()))
    except ElementTree.ParseError:
        return None


def _find_blocks(element: ElementTree.Element, place: str = "") -> Iterator[Tuple[str, str]]:
    """Yield (path of tags, text) of all blocks in an element, in the order of the page."""
    for child in element:
        if child.tag == COMMENT:
            continue
        child_place = f"{place}/{child.tag}"
        if child.tag in BLOCKS:
            yield child_place, _block_text(child)
        else:
            yield from _find_blocks(child, child_place)


def _block_text(element: ElementTree.Element) -> str:
    """Return the text of an element; keys of a shortcut are joined by plus signs."""
    if element.tag == KEY_SEQUENCE:
        return "+".join(_block_text(key) for key in element)
    parts = [element.text or ""]
    for child in element:
        if child.tag != COMMENT:
            parts.append(_block_text(child))
        parts.append(child.tail or "")
    return "".join(parts)
