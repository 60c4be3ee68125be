"""Strings of user interfaces: plain text, and filters of sentence pairs."""

import re
import unicodedata
from collections import Counter
from typing import Optional

from preprocess import catalogs

MAX_WORDS = 80
MIN_SCRIPT_SHARE = 0.4
# the start of the Unicode names of a language's letters; Latin script is not checked
SCRIPT_NAMES = {
    "ru": "CYRILLIC",
    "kk": "CYRILLIC",
    "hi": "DEVANAGARI",
    "gu": "GUJARATI",
    "zh": "CJK",
}
# characters of the translation for each English character; checked from RATIO_MIN_CHARS up, as the
# ratio of short strings varies too much
LENGTH_RATIOS = {"zh": (0.12, 2.5)}
DEFAULT_LENGTH_RATIO = (0.4, 2.5)
RATIO_MIN_CHARS = 20


def plain_text(text: str) -> str:
    """Remove markup and keyboard accelerators."""
    text = catalogs.plain_text(text.replace("%PRODUCTNAME", "LibreOffice"))
    return " ".join(unicodedata.normalize("NFKC", text).split())


def most_frequent(votes: Counter[str]) -> str:
    """Return the most frequent text; among equals the first in code point order."""
    return min(votes, key=lambda text: (-votes[text], text))


def script_share(text: str, script: str) -> float:
    """Return the share of text's letters that belong to script."""
    letters = [char for char in text if char.isalpha()]
    own = sum(unicodedata.name(char, "").startswith(script) for char in letters)
    return own / max(1, len(letters))


def fold(text: str) -> str:
    """Return what is compared to find copies: case and digits are ignored."""
    return re.sub(r"\d", "0", text.lower())


def rejection(english: str, translation: str, language: str) -> Optional[str]:
    """Return the name of the filter that rejects a pair of plain texts, or None."""
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
