"""Sentence pairs of LibreOffice's help: paragraphs and headings of a page with the same id."""

import html
import re
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Tuple

from examples.interface_text import TAG, plain_text
from examples.software15.languages import Language
from examples.software15.pairs import Pair
from fairseq_taskmoe.errors import refuse

HELP = Path("usr/share/libreoffice/help")
PARAGRAPH = re.compile(
    r'<(?P<tag>p|h[1-6]) id="(?P<id>(?:par|hd)_id\w+)"[^>]*>(?P<content>.*?)</(?P=tag)>', re.DOTALL
)
# what a Mac shows in the place of what stands beside it
MAC_VARIANT = re.compile(
    r'<span hidden="true" id="MAC[^"]*"[^>]*>(?:<span[^>]*>[^<]*</span>|[^<])*</span>'
)


def read_help_page(path: Path) -> Dict[str, str]:
    """Map the ids of a page's paragraphs and headings to their text."""
    try:
        page = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        refuse(f"{path}: no page of help ({error})")
    texts: Dict[str, str] = {}
    for match in PARAGRAPH.finditer(page):
        content = TAG.sub("", MAC_VARIANT.sub("", match["content"]))
        # an id that is there twice stands for its first text, in every language
        texts.setdefault(match["id"], html.unescape(content))
    return texts


def help_pages(packages: Iterable[Path], folder: str) -> List[Tuple[str, Path]]:
    """List (name below folder, path) of all pages of help in unpacked packages."""
    pages = []
    for package in packages:
        top = package / HELP / folder / "text"
        pages += [(str(path.relative_to(top)), path) for path in top.glob("**/*.html")]
    return sorted(pages)


def pairs_of_office_help(packages: Iterable[Path], language: Language) -> Iterator[Pair]:
    """Yield the pairs of all pages; the application is the page's first folder: help/schart.

    Paragraphs that nobody translated are English in the translation as well.
    """
    packages = list(packages)
    english_pages = dict(help_pages(packages, "en-US"))
    for name, path in help_pages(packages, language.help_folder):
        if name not in english_pages:
            continue
        english, translated = read_help_page(english_pages[name]), read_help_page(path)
        application = f"help/{Path(name).parts[0]}"
        for paragraph, text in english.items():
            if paragraph in translated:
                yield Pair(application, plain_text(text), plain_text(translated[paragraph]))
