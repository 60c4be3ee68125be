"""Names of directions, as in --lang-pairs: "en-de" is English to German."""

from typing import Iterable, List, Tuple

from ..errors import refuse

ENGLISH = ("en", "eng")


def split_pair(lang_pair: str) -> Tuple[str, str]:
    """Return (source, target) of "en-de"; refuses what is not two codes around one hyphen."""
    languages = lang_pair.split("-")
    if len(languages) != 2 or not all(languages):
        refuse(f"not a language pair: {lang_pair!r}, expected a form such as en-de")
    return languages[0], languages[1]


def languages_of(lang_pairs: Iterable[str]) -> List[str]:
    """Return the languages of pairs, sorted."""
    return sorted({lang for pair in lang_pairs for lang in split_pair(pair)})


def base_code(language: str) -> str:
    """Return a language code without region and script, in lower case: zh of zh_CN."""
    return language.split("_")[0].lower()


def is_english(language: str) -> bool:
    """Tell whether a language code is English, whatever its region or script (en, en_XX)."""
    return base_code(language) in ENGLISH
