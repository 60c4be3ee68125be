"""Hold out validation and test sentences that no training sentence resembles.

Many interface strings are nearly equal: on a random split, returning the translation of the nearest
training string scores well. So training strings with half or more of the words of a held-out
sentence are dropped, and only sentences with few such strings are held out.
"""

import random
from collections import Counter
from typing import List, NamedTuple, Sequence, Set

from examples.word_overlap import Neighbours, split_words


class Split(NamedTuple):
    """English sentences of a corpus with translations into all languages."""

    train: List[str]
    valid: List[str]
    test: List[str]
    dropped: List[str]  # training strings near a validation or test sentence


def of_common_words(strings: Sequence[str], min_count: int) -> List[str]:
    """Keep the strings whose words are all in at least min_count of the kept strings."""
    while True:
        counts = Counter(word for string in strings for word in set(split_words(string)))
        kept = [
            string
            for string in strings
            if all(counts[word] >= min_count for word in split_words(string))
        ]
        if len(kept) == len(strings):
            return kept
        strings = kept  # count again: without the others, words are rarer


def split_strings(
    strings: Sequence[str],
    eligible: Set[str],
    num_valid: int,
    num_test: int,
    max_cost: int,
    seed: int,
) -> Split:
    """Draw held-out sentences from eligible, and drop their neighbours from training.

    A sentence is skipped if that would drop more than max_cost further training strings (itself and
    its neighbours).
    """
    neighbours = Neighbours(strings)
    candidates = sorted(eligible)
    random.Random(seed).shuffle(candidates)
    held_out: List[str] = []
    removed: Set[int] = set()
    for sentence in candidates:
        if len(held_out) == num_valid + num_test:
            break
        near = neighbours.of(sentence)
        if len(near - removed) <= max_cost:
            held_out.append(sentence)
            removed |= near
    # the candidates are shuffled, so valid and test have the same distribution
    valid, test = held_out[:num_valid], held_out[num_valid:]
    removed_strings = {strings[index] for index in removed}.union(held_out)
    train = [string for string in strings if string not in removed_strings]
    dropped = sorted(removed_strings.difference(held_out))
    return Split(train, valid, test, dropped)
