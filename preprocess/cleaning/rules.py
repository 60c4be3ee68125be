"""The rules that training pairs must pass: each says of a pair of sentences whether to drop it.

They run in the order of `rule_chain`, the cheap ones first. Their limits are wide: they are meant
for what is surely wrong, as a pair that is merely odd may still teach.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Callable, List, NamedTuple, Tuple

from preprocess.cleaning.language_id import other_language
from preprocess.cleaning.scripts import DENSE, UNSPACED, letters_of, scripts_of

Drops = Callable[[str, str], bool]  # of the source and the target of a pair
ANY_LETTERS = re.compile(r"[^\W\d_]+")
DIGIT = re.compile(r"\d")
# %s, %2$d, %(name)s, {0}; not 5%discount, nor %5, which is how Turkish writes 5 %
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
    drops: Drops


@dataclass(frozen=True)
class Limits:
    """The limits of the rules; 0 switches a rule off."""

    max_words: int = 250
    max_chars: int = 2000  # for scripts without spaces between words
    max_word_chars: int = 100  # for scripts with spaces between words
    max_length_ratio: float = 4.0  # in characters, where one side has 30 or more
    drop_copies: bool = True
    min_script_share: float = 0.4  # of the letters that are of the language's script
    min_letter_share: float = 0.3  # of the characters that are letters at all
    min_digit_overlap: float = 0.5  # share of digits that both sides have, where they have many
    same_placeholders: bool = True
    drop_markup: bool = True
    drop_repeated: bool = True  # ten times the same character, or four times the same words
    identify_language: bool = True


def empty(source: str, target: str) -> bool:
    return not source or not target


@dataclass(frozen=True)
class OverLong:
    max_words: int
    max_chars: int

    def __call__(self, source: str, target: str) -> bool:
        longer = source if len(source) > len(target) else target
        if 0 < self.max_chars < len(longer):
            return True
        # n words have at least 2n - 1 characters
        return 0 < 2 * self.max_words <= len(longer) and (
            max(source.count(" "), target.count(" ")) >= self.max_words
        )


def copies(source: str, target: str) -> bool:
    return source == target or source.lower() == target.lower()


@dataclass(frozen=True)
class LongWord:
    """A word without end: an address, encoded data, a table that lost its spaces."""

    max_chars: int
    spaced: Tuple[bool, bool]

    def __call__(self, source: str, target: str) -> bool:
        return any(
            spaced and len(text) > self.max_chars and max(map(len, text.split())) > self.max_chars
            for spaced, text in zip(self.spaced, (source, target), strict=True)
        )


@dataclass(frozen=True)
class LengthRatio:
    """One side far longer than the other, in characters of an alphabet."""

    max_ratio: float
    densities: Tuple[float, float]

    def __call__(self, source: str, target: str) -> bool:
        lengths = len(source) * self.densities[0], len(target) * self.densities[1]
        longer = max(lengths)
        return longer >= 30 and longer > self.max_ratio * min(lengths)


@dataclass(frozen=True)
class DifferentNumbers:
    """Digits that are mostly other ones; three more are allowed, as in "five" and "5"."""

    min_overlap: float

    def __call__(self, source: str, target: str) -> bool:
        digits = DIGIT.findall(source), DIGIT.findall(target)
        if digits[0] == digits[1] or max(map(len, digits)) <= 3:
            return False
        # counted, not in order: 3.12.2020 is 12/3/2020; int() reads digits of any script
        left, right = (Counter(map(int, side)) for side in digits)
        shared = (left & right).total()
        return 2 * shared < self.min_overlap * (left.total() + right.total())


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

    A side whose script is not known passes.
    """

    def __init__(
        self, languages: Tuple[str, str], min_script_share: float, min_letter_share: float
    ):
        # a Han character counts as much as the letters that it stands for
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
            if weighted >= self.min_script_share * len(text):  # whatever the others are
                continue
            others = sum(map(len, ANY_LETTERS.findall(text))) - own
            if weighted < self.min_script_share * (weighted + others):
                return True
        return False


def density_of(scripts: Tuple[str, ...]) -> float:
    return max((DENSE.get(script, 1.0) for script in scripts), default=1.0)


def has_spaces(scripts: Tuple[str, ...]) -> bool:
    """Say whether spaces surely stand between words."""
    return bool(scripts) and not any(script in UNSPACED for script in scripts)


def repeated(source: str, target: str) -> bool:
    """Ten times the same character, or words of which each stands there four times."""
    for text in (source, target):
        if len(text) >= 10 and REPEATED.search(text):
            return True
        words = text.split()
        if len(words) >= 8 and len(words) >= 4 * len(set(words)):
            return True
    return False


@dataclass(frozen=True)
class OtherLanguage:
    languages: Tuple[str, str]

    def __call__(self, source: str, target: str) -> bool:
        return other_language(source, self.languages[0]) or other_language(
            target, self.languages[1]
        )


def rule_chain(languages: Tuple[str, str], limits: Limits) -> List[Rule]:
    """Return the rules for a pair of languages, in the order in which they are to run."""
    source, target = map(scripts_of, languages)
    spaced = has_spaces(source), has_spaces(target)
    densities = density_of(source), density_of(target)
    rules: List[Tuple[object, str, Drops]] = [
        (True, "empty", empty),
        (True, "over-long", OverLong(limits.max_words, limits.max_chars)),
        (limits.drop_copies, "copies", copies),
        (limits.max_word_chars, "long word", LongWord(limits.max_word_chars, spaced)),
        (limits.max_length_ratio, "length ratio", LengthRatio(limits.max_length_ratio, densities)),
        (limits.drop_markup, "markup", markup),
        (limits.same_placeholders, "placeholders", different_placeholders),
        (limits.min_digit_overlap, "numbers", DifferentNumbers(limits.min_digit_overlap)),
        (
            limits.min_script_share or limits.min_letter_share,
            "script",
            WrongScript(languages, limits.min_script_share, limits.min_letter_share),
        ),
        (limits.drop_repeated, "repeated", repeated),
        (limits.identify_language, "language", OtherLanguage(languages)),
    ]
    return [Rule(name, drops) for wanted, name, drops in rules if wanted]


def normalise(text: str) -> str:
    """Turn control characters into spaces, join white space, drop what has no width and no use."""
    if not text.isprintable():
        # beside tabs and the like: a carriage return inside a sentence, which Python's text mode,
        # and so fairseq, would take for a line end
        text = text.translate(INVISIBLE)
    return " ".join(text.split())


# byte order mark, soft hyphen, zero width space; not the joiners, which Indic scripts need
INVISIBLE = {**dict.fromkeys([*range(32), *range(127, 160)], " "), 0xFEFF: "", 0xAD: "", 0x200B: ""}
