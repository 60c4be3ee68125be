"""Validation and test sentences from whole applications that are held out from training.

Programs have many nearly equal sentences, so after a random split test sentences would resemble
training sentences. Of the held-out applications, only sentences that no training sentence of any
language resembles are used.
"""

import hashlib
from collections import Counter, defaultdict
from typing import Dict, List, NamedTuple, Sequence, Tuple

from examples.software15.interface_text import most_frequent
from examples.software15.pairs import Pair
from examples.software15.word_overlap import Neighbours

PROGRAMS = {"seahorse", "gnome-terminal", "shotwell", "epiphany", "file-roller", "rhythmbox"}
OFFICE_MODULES = {"dba", "sm", "rpt", "chart"}
OFFICE_HELP_FOLDERS = {"sdatabase", "smath", "schart"}
# one of this many pages of GNOME's help is held out, besides those of the programs
GNOME_PAGES_PER_HELD_OUT = 10

HELD_OUT_WORDS = range(4, 41)
MAX_OVERLAP = 0.7  # share of words in one training sentence from which a sentence is not used
MIN_LANGUAGES_SHARE = 2 / 3  # of the languages must have a sentence, so that scores compare
NUM_TEST = 500
NUM_VALID = 500

# of one split and language: (English, translation)
Sentences = List[Tuple[str, str]]


class Split(NamedTuple):
    """The sentences of all languages by language code."""

    train: Dict[str, Sentences]
    valid: Dict[str, Sentences]
    test: Dict[str, Sentences]
    counts: Counter[str]  # of the held-out English sentences by reason of use or rejection


def hash_of(text: str) -> int:
    """Return a pseudo-random number that is a function of the text, on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def is_held_out(application: str) -> bool:
    source, name, *page = application.split("/")
    if source == "programs":
        return name in PROGRAMS
    if source == "office":
        return name in OFFICE_MODULES
    if source == "help":
        return name in OFFICE_HELP_FOLDERS
    return name in PROGRAMS or hash_of("/".join([name, *page])) % GNOME_PAGES_PER_HELD_OUT == 0


def split_by_application(
    tables: Dict[str, Sequence[Pair]], num_valid: int = NUM_VALID, num_test: int = NUM_TEST
) -> Split:
    """Split the pairs of all languages; an English sentence is held out in all languages or none.

    At most num_valid and num_test English sentences are drawn; the rest of the held-out
    applications is not used.
    """
    train: Dict[str, Sentences] = {}
    votes: Dict[str, Dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for language, table in tables.items():
        # a dictionary, to keep each pair once in the order of the table
        pairs = {pair[1:]: None for pair in table if not is_held_out(pair.application)}
        train[language] = list(pairs)
        for application, english, translation in table:
            if is_held_out(application):
                votes[english][language][translation] += 1
    trained_on = {english for pairs in train.values() for english, _ in pairs}
    neighbours = Neighbours(sorted(trained_on))

    def reason(english: str) -> str:
        if len(english.split()) not in HELD_OUT_WORDS:
            return "too short or too long"
        if english in trained_on:
            return "in training"
        if len(votes[english]) < MIN_LANGUAGES_SHARE * len(tables):
            return "in few languages"
        return "near training" if neighbours.of(english, MAX_OVERLAP) else "fit"

    reasons = {english: reason(english) for english in votes}
    fit = sorted((english for english in reasons if reasons[english] == "fit"), key=hash_of)
    test, valid = fit[:num_test], fit[num_test : num_test + num_valid]

    def translated(sentences: Sequence[str], language: str) -> Sentences:
        return [
            (english, most_frequent(votes[english][language]))
            for english in sentences
            if language in votes[english]
        ]

    return Split(
        train,
        {language: translated(valid, language) for language in tables},
        {language: translated(test, language) for language in tables},
        Counter(reasons.values()),
    )
