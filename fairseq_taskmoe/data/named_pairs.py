"""Languages and language pairs, as people write them in flags and in files."""

import os
import re
from typing import List, NoReturn, Optional, Sequence

from ..errors import refuse
from ..read_files import read_text

LANGUAGE = re.compile(r"[^\s,:/\\-]+")  # part of a file's name, and of a tag
SUBTAG = re.compile(r"[A-Z]{2}|[A-Z][a-z]{3}|[0-9]{3}|[a-z0-9]{4,}")  # BR, Hans, 419, valencia


def split_list(text: str) -> List[str]:
    """Return the names in a list, separated by commas or line ends, without spaces around them."""
    return [name for part in re.split(r"[,\r\n]", text) if (name := part.strip())]


def named_pairs(text: Optional[str], flag: str = "--lang-pairs") -> List[str]:
    """Return the pairs in the value of a flag, or as in fairseq in a file of that name."""
    if text and os.path.isfile(text):
        text = read_text(text, flag)
    pairs = split_list(text or "")
    if text and not pairs:
        refuse(f"{flag}: names no language pair; write them as en-de,de-en")
    check_pairs(pairs, flag)
    return pairs


def named_languages(text: Optional[str], flag: str = "--langs") -> List[str]:
    """Return the languages that a flag names."""
    langs = split_list(text or "")
    for lang in langs:
        check_language(lang, flag)
    return langs


def check_pairs(lang_pairs: Sequence[str], flag: str = "--lang-pairs") -> None:
    """Refuse names that are not language pairs."""
    for pair in lang_pairs:
        parts = pair.split("-")
        if len(parts) > 2 and all(map(LANGUAGE.fullmatch, parts)):
            _refuse_hyphen(f"{flag} {pair}", parts)
        if len(parts) != 2 or not all(map(LANGUAGE.fullmatch, parts)):
            refuse(f"{flag} {pair}: {pair!r} is no language pair; write it as en-de")


def check_language(lang: str, flag: str) -> None:
    """Refuse a name that is not a language code."""
    parts = lang.split("-")
    if len(parts) > 1 and all(map(LANGUAGE.fullmatch, parts)):
        _refuse_hyphen(f"{flag} {lang}", parts)
    if not LANGUAGE.fullmatch(lang):
        refuse(f"{flag} {lang!r}: no code of a language, as en is")


def hyphen_hint(parts: Sequence[str]) -> str:
    """Return how to write a language, or a pair, whose codes were written with hyphens."""
    written = [parts[0]]
    for part in parts[1:]:
        joint = "_" if SUBTAG.fullmatch(part) else "-"
        written.append(joint + part)
    name = "".join(written)
    return (
        "a language code holds no hyphen, which joins the two languages of a pair: write it with "
        f"an underscore, {name if '_' in name else 'pt_BR'}, in the names of the data's files too"
    )


def _refuse_hyphen(where: str, parts: Sequence[str]) -> NoReturn:
    refuse(f"{where}: {hyphen_hint(parts)}")
