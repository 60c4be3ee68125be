"""Validation and test sentences from applications of which nothing is trained on.

Split at random, such a corpus would be tested on its training text: programs say the same things
in nearly the same words. So whole applications are held out, and of their sentences those that no
training sentence of any language resembles.
"""

import hashlib
from collections import Counter, defaultdict
from typing import Dict, List, NamedTuple, Sequence, Tuple

from examples.software15.pairs import Pair
from examples.word_overlap import Neighbours

PROGRAMS = {"seahorse", "gnome-terminal", "shotwell", "epiphany", "file-roller", "rhythmbox"}
OFFICE_MODULES = {"dba", "sm", "rpt", "chart"}
OFFICE_HELP_FOLDERS = {"sdatabase", "smath", "schart"}
# one in this many pages of GNOME's help, beside those of the programs
GNOME_PAGES_SHARE = 10

HELD_OUT_WORDS = range(4, 41)
MAX_OVERLAP = 0.7  # a sentence with this much of its words in one training sentence is not tested
MIN_LANGUAGES_SHARE = 2 / 3  # of the languages have a held-out sentence, so that scores compare
NUM_TEST = 500
NUM_VALID = 500

# one split of one language: (English, translation) each
Sentences = List[Tuple[str, str]]


class Split(NamedTuple):
    """The sentences of all languages, by language's code."""

    train: Dict[str, Sentences]
    valid: Dict[str, Sentences]
    test: Dict[str, Sentences]
    counts: Counter[str]  # of the held-out English sentences, by what became of them


def hash_of(text: str) -> int:
    """A number that is the same for the same text on every machine, and random otherwise."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def is_held_out(application: str) -> bool:
    source, name, *page = application.split("/")
    if source == "programs":
        return name in PROGRAMS
    if source == "office":
        return name in OFFICE_MODULES
    if source == "help":
        return name in OFFICE_HELP_FOLDERS
    return name in PROGRAMS or hash_of("/".join([name, *page])) % GNOME_PAGES_SHARE == 0


def commonest(votes: Counter[str]) -> str:
    """The translation that most places have; of equals the first in code point order."""
    return min(votes, key=lambda text: (-votes[text], text))


def split_by_application(
    tables: Dict[str, Sequence[Pair]], num_valid: int = NUM_VALID, num_test: int = NUM_TEST
) -> Split:
    """Split the pairs of all languages; an English sentence is held out in all or in none.

    At most num_valid and num_test English sentences are drawn; the rest of the held-out
    applications is in no split.
    """
    train: Dict[str, Sentences] = {}
    votes: Dict[str, Dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for language, table in tables.items():
        # a dictionary: every pair once, in the order of the table
        pairs = {pair[1:]: None for pair in table if not is_held_out(pair.application)}
        train[language] = list(pairs)
        for application, english, translation in table:
            if is_held_out(application):
                votes[english][language][translation] += 1
    trained_on = {english for pairs in train.values() for english, _ in pairs}
    neighbours = Neighbours(sorted(trained_on))

    def fate(english: str) -> str:
        if len(english.split()) not in HELD_OUT_WORDS:
            return "too short or too long"
        if english in trained_on:
            return "in training"
        if len(votes[english]) < MIN_LANGUAGES_SHARE * len(tables):
            return "in few languages"
        return "near training" if neighbours.of(english, MAX_OVERLAP) else "fit"

    fates = {english: fate(english) for english in votes}
    fit = sorted((english for english in fates if fates[english] == "fit"), key=hash_of)
    test, valid = fit[:num_test], fit[num_test : num_test + num_valid]

    def translated(sentences: Sequence[str], language: str) -> Sentences:
        return [
            (english, commonest(votes[english][language]))
            for english in sentences
            if language in votes[english]
        ]

    return Split(
        train,
        {language: translated(valid, language) for language in tables},
        {language: translated(test, language) for language in tables},
        Counter(fates.values()),
    )
