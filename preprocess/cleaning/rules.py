"""The rules of cleaning: each decides whether to drop a pair of sentences.

They run in the order of `rule_chain`, the fast ones first. The limits are wide, to drop only pairs
that are certainly wrong: an unusual pair may still be useful for training.
"""

import re
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Callable, List, NamedTuple, Tuple

from .identify import (
    density_of,
    has_spaces,
    letters_of,
    other_language,
    scripts_of,
)

Predicate = Callable[[str, str], bool]  # of the source and the target of a pair
ANY_LETTERS = re.compile(r"[^\W\d_]+")
DIGIT = re.compile(r"\d")
# %s, %2$d, %(name)s, {0}; not 5%discount, nor %5, the Turkish way to write 5 %
PLACEHOLDER = re.compile(
    r"(?<![0-9%])%(?:\d+\$)?[-+#0]?(?:\.\d+)?l{0,2}[sdiufxc]|%\(\w+\)[sd]|\{\d*\}"
)
MARKUP = re.compile(
    r"</?[A-Za-z][^<>]{0,200}>|<!--|&(?:amp|apos|gt|lt|nbsp|quot|#\d{2,5}|#x[0-9A-Fa-f]{2,5});"
)
REPEATED = re.compile(r"([^\s\d])\1{9}")


class Rule(NamedTuple):
    """A reason to drop a pair."""

    name: str
    drops: Predicate


@dataclass(frozen=True)
class Limits:
    """The limits of the rules; 0 switches a rule off."""

    max_words: int = 250
    max_chars: int = 2000  # for scripts without spaces between words
    max_word_chars: int = 100  # for scripts with spaces between words
    max_length_ratio: float = 4.0  # in characters, if one side has 30 or more
    drop_copies: bool = True
    min_script_share: float = 0.4  # share of the letters that are of the language's script
    min_letter_share: float = 0.3  # share of the characters that are letters
    min_digit_overlap: float = 0.5  # share of digits that both sides have, if one has four or more
    same_placeholders: bool = True
    drop_markup: bool = True
    drop_repeated: bool = True  # ten times the same character, or four times the same words
    identify_language: bool = True


def empty(source: str, target: str) -> bool:
    return not source or not target


def over_long(max_words: int, max_chars: int, source: str, target: str) -> bool:
    longer = source if len(source) > len(target) else target
    if 0 < max_chars < len(longer):
        return True
    # n words have at least 2n - 1 characters
    return 0 < 2 * max_words <= len(longer) and (
        max(source.count(" "), target.count(" ")) >= max_words
    )


def copies(source: str, target: str) -> bool:
    return source == target or source.lower() == target.lower()


def long_word(max_chars: int, spaced: Tuple[bool, bool], *pair: str) -> bool:
    """A very long word: an address, encoded data, or a table that lost its spaces."""
    return any(
        is_spaced and len(text) > max_chars and max(map(len, text.split())) > max_chars
        for is_spaced, text in zip(spaced, pair, strict=True)
    )


def length_ratio(
    max_ratio: float, densities: Tuple[float, float], source: str, target: str
) -> bool:
    """One side much longer than the other, in letters of an alphabet."""
    lengths = len(source) * densities[0], len(target) * densities[1]
    longer = max(lengths)
    return longer >= 30 and longer > max_ratio * min(lengths)


def different_numbers(min_overlap: float, source: str, target: str) -> bool:
    """Mostly different digits; up to three on a side are ignored, as in "five" and "5"."""
    digits = DIGIT.findall(source), DIGIT.findall(target)
    if digits[0] == digits[1] or max(map(len, digits)) <= 3:
        return False
    # counted, in any order: 3.12.2020 is 12/3/2020; int() reads digits of any script
    left, right = (Counter(map(int, side)) for side in digits)
    shared = (left & right).total()
    return 2 * shared < min_overlap * (left.total() + right.total())


def different_placeholders(source: str, target: str) -> bool:
    if not any(sign in text for text in (source, target) for sign in "%{"):
        return False
    return set(PLACEHOLDER.findall(source)) != set(PLACEHOLDER.findall(target))


def markup(source: str, target: str) -> bool:
    return any(
        ("<" in text or "&" in text) and MARKUP.search(text) is not None
        for text in (source, target)
    )


class WrongScript:
    """Too few letters of the language's script, among the letters or among all characters.

    A side whose script is unknown passes.
    """

    def __init__(
        self, languages: Tuple[str, str], min_script_share: float, min_letter_share: float
    ):
        # a Han character counts as the number of letters that it stands for
        self.checks = [
            (side, letters_of(scripts), density_of(scripts))
            for side, scripts in enumerate(map(scripts_of, languages))
            if scripts
        ]
        self.min_script_share = min_script_share
        self.min_letter_share = min_letter_share

    def __call__(self, *pair: str) -> bool:
        for side, letters, weight in self.checks:
            text = pair[side]
            own = sum(map(len, letters.findall(text)))
            weighted = weight * own
            if weighted < self.min_letter_share * (len(text) - text.count(" ")):
                return True
            if weighted >= self.min_script_share * len(text):  # enough, even if all are letters
                continue
            others = sum(map(len, ANY_LETTERS.findall(text))) - own
            if weighted < self.min_script_share * (weighted + others):
                return True
        return False


def repeated(source: str, target: str) -> bool:
    """Ten times the same character in a row, or each word four times on average."""
    for text in (source, target):
        if len(text) >= 10 and REPEATED.search(text):
            return True
        words = text.split()
        if len(words) >= 8 and len(words) >= 4 * len(set(words)):
            return True
    return False


def rule_chain(languages: Tuple[str, str], limits: Limits) -> List[Rule]:
    """Return the rules for a pair of languages, in the order in which they are applied."""
    source, target = map(scripts_of, languages)
    spaced = has_spaces(source), has_spaces(target)
    densities = density_of(source), density_of(target)

    def in_other_language(*pair: str) -> bool:
        return any(map(other_language, pair, languages))

    rules: List[Tuple[object, str, Predicate]] = [
        (True, "empty", empty),
        (True, "over-long", partial(over_long, limits.max_words, limits.max_chars)),
        (limits.drop_copies, "copies", copies),
        (limits.max_word_chars, "long word", partial(long_word, limits.max_word_chars, spaced)),
        (
            limits.max_length_ratio,
            "length ratio",
            partial(length_ratio, limits.max_length_ratio, densities),
        ),
        (limits.drop_markup, "markup", markup),
        (limits.same_placeholders, "placeholders", different_placeholders),
        (
            limits.min_digit_overlap,
            "numbers",
            partial(different_numbers, limits.min_digit_overlap),
        ),
        (
            limits.min_script_share or limits.min_letter_share,
            "script",
            WrongScript(languages, limits.min_script_share, limits.min_letter_share),
        ),
        (limits.drop_repeated, "repeated", repeated),
        (limits.identify_language, "language", in_other_language),
    ]
    return [Rule(name, drops) for enabled, name, drops in rules if enabled]


def normalise(text: str) -> str:
    """Replace control characters and runs of white space by a space; drop invisible characters."""
    if not text.isprintable():
        # such as a carriage return inside a sentence: fairseq, which reads in Python's text mode,
        # would end the line there
        text = text.translate(INVISIBLE)
    return " ".join(text.split())


# drops byte order mark, soft hyphen, zero width space; not the joiners that Indic scripts need
INVISIBLE = {**dict.fromkeys([*range(32), *range(127, 160)], " "), 0xFEFF: "", 0xAD: "", 0x200B: ""}
