"""Sentence pairs of software: what belongs to the interface and not to the language, and filters.

Shared by the demo's corpus and by software15.
"""

import gettext
import html
import re
import unicodedata
from pathlib import Path
from typing import Iterator, Optional, Tuple

MAX_WORDS = 80
MIN_SCRIPT_SHARE = 0.4
# the name that Unicode gives to a language's letters; languages in Latin script are not checked
SCRIPT_NAMES = {
    "ru": "CYRILLIC",
    "kk": "CYRILLIC",
    "hi": "DEVANAGARI",
    "gu": "GUJARATI",
    "zh": "CJK",
}
# characters of the translation per English character; only from RATIO_MIN_CHARS up, as short
# strings differ wildly
LENGTH_RATIOS = {"zh": (0.12, 2.5)}
DEFAULT_LENGTH_RATIO = (0.4, 2.5)
RATIO_MIN_CHARS = 20

BRACKETED_ACCELERATOR = re.compile(r"\s*\([_~&]\w\)")  # as Chinese has them: 打印(_P)
ACCELERATOR = re.compile(r"[~_&](?=\w)")
TAG = re.compile(r"</?[A-Za-z][^<>]*>")


def read_catalog(path: Path) -> Iterator[Tuple[str, str]]:
    """Yield (English, translation) of a gettext .mo file, the first of plural forms.

    A file that is none raises OSError, UnicodeDecodeError or struct.error.
    """
    with path.open("rb") as stream:
        # gettext offers look-ups only: the table behind them is the way to list a catalog
        catalog = gettext.GNUTranslations(stream)._catalog  # type: ignore[attr-defined]
    for key, translation in catalog.items():
        if isinstance(key, tuple):
            key, plural_form = key
            if plural_form != 0:
                continue
        if key:  # the empty key holds the catalog's header
            yield key.rsplit("\x04", 1)[-1], translation


def plain_text(text: str) -> str:
    """Strip what belongs to the interface and not to the language."""
    text = text.replace("%PRODUCTNAME", "LibreOffice")
    text = html.unescape(TAG.sub("", BRACKETED_ACCELERATOR.sub("", text)))
    if len(ACCELERATOR.findall(text)) == 1:  # more of them are names: use_default_size
        text = ACCELERATOR.sub("", text)
    return " ".join(unicodedata.normalize("NFKC", text).split())


def script_share(text: str, script: str) -> float:
    """The share of text's letters that belong to script."""
    letters = [char for char in text if char.isalpha()]
    own = sum(unicodedata.name(char, "").startswith(script) for char in letters)
    return own / max(1, len(letters))


def fold(text: str) -> str:
    """What must differ between a string and its translation."""
    return re.sub(r"\d", "0", text.lower())


def rejection(english: str, translation: str, language: str) -> Optional[str]:
    """Name the filter that this pair of plain texts fails, or return None."""
    if len(re.findall("[A-Za-z]", english)) < 2 or not translation:
        return "no text"
    if fold(english) == fold(translation):
        return "copy"
    if max(len(english.split()), len(translation.split())) > MAX_WORDS:
        return "too long"
    lowest, highest = LENGTH_RATIOS.get(language, DEFAULT_LENGTH_RATIO)
    if len(english) >= RATIO_MIN_CHARS and not (
        lowest <= len(translation) / len(english) <= highest
    ):
        return "length ratio"
    script = SCRIPT_NAMES.get(language)
    if script and script_share(translation, script) < MIN_SCRIPT_SHARE:
        return "script"
    return None
