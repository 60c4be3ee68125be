"""Parsing languages and language pairs in flags and files."""

import os
import re
from typing import List, NoReturn, Optional, Sequence

from ..errors import refuse
from ..read_files import read_text

LANGUAGE = re.compile(r"[^\s,:/\\-]+")  # it is part of file names and of tags
SUBTAG = re.compile(r"[A-Z]{2}|[A-Z][a-z]{3}|[0-9]{3}|[a-z0-9]{4,}")  # BR, Hans, 419, valencia


def split_list(text: str) -> List[str]:
    """Return the names in a list that is separated by commas or line ends."""
    return [name for part in re.split(r"[,\r\n]", text) if (name := part.strip())]


def named_pairs(text: Optional[str], flag: str = "--lang-pairs") -> List[str]:
    """Return the pairs in the value of a flag, or in the file that it names."""
    if text and os.path.isfile(text):
        text = read_text(text, flag)
    pairs = split_list(text or "")
    if text and not pairs:
        refuse(f"{flag}: has no language pair; write them as en-de,de-en")
    check_pairs(pairs, flag)
    return pairs


def named_languages(text: Optional[str], flag: str = "--langs") -> List[str]:
    """Return the languages in the value of a flag."""
    langs = split_list(text or "")
    for lang in langs:
        check_language(lang, flag)
    return langs


def check_pairs(lang_pairs: Sequence[str], flag: str = "--lang-pairs") -> None:
    """Refuse invalid language pairs."""
    for pair in lang_pairs:
        parts = pair.split("-")
        if len(parts) > 2 and all(map(LANGUAGE.fullmatch, parts)):
            _refuse_hyphen(f"{flag} {pair}", parts)
        if len(parts) != 2 or not all(map(LANGUAGE.fullmatch, parts)):
            refuse(f"{flag} {pair}: {pair!r} is not a language pair; write it as en-de")


def check_language(lang: str, flag: str) -> None:
    """Refuse an invalid language code."""
    parts = lang.split("-")
    if len(parts) > 1 and all(map(LANGUAGE.fullmatch, parts)):
        _refuse_hyphen(f"{flag} {lang}", parts)
    if not LANGUAGE.fullmatch(lang):
        refuse(f"{flag} {lang!r}: not a language code such as en")


def hyphen_hint(parts: Sequence[str]) -> str:
    """Return how to write a language or a pair whose codes have hyphens."""
    written = [parts[0]]
    for part in parts[1:]:
        joint = "_" if SUBTAG.fullmatch(part) else "-"
        written.append(joint + part)
    name = "".join(written)
    return (
        "a hyphen separates the two languages of a pair; write a language code with an underscore, "
        f"{name if '_' in name else 'pt_BR'}, also in the names of data files"
    )


def _refuse_hyphen(where: str, parts: Sequence[str]) -> NoReturn:
    refuse(f"{where}: {hyphen_hint(parts)}")
