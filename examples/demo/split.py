"""Hold out validation and test sentences that no training sentence resembles.

Interface strings repeat themselves: on a random split a look-up of the nearest training string
translates well. So a training string that shares half of the words of a held-out sentence, or
more, is dropped, and sentences are held out of which few training strings do.
"""

import random
from collections import Counter
from typing import List, NamedTuple, Sequence, Set

from examples.word_overlap import Neighbours, split_words


class Split(NamedTuple):
    """English sentences of a corpus that is parallel in all languages."""

    train: List[str]
    valid: List[str]
    test: List[str]
    dropped: List[str]  # too close to valid or test


def of_common_words(strings: Sequence[str], min_count: int) -> List[str]:
    """Keep the strings all of whose words are in at least min_count of the strings kept."""
    while True:
        counts = Counter(word for string in strings for word in set(split_words(string)))
        kept = [
            string
            for string in strings
            if all(counts[word] >= min_count for word in split_words(string))
        ]
        if len(kept) == len(strings):
            return kept
        strings = kept  # words have become rarer: count again


def split_strings(
    strings: Sequence[str],
    eligible: Set[str],
    num_valid: int,
    num_test: int,
    max_cost: int,
    seed: int,
) -> Split:
    """Draw held-out sentences from eligible and drop their neighbours from training.

    A sentence is passed over where holding it out would cost more than max_cost training strings
    (itself and its neighbours) that are not lost already.
    """
    neighbours = Neighbours(strings)
    candidates = sorted(eligible)
    random.Random(seed).shuffle(candidates)
    held_out: List[str] = []
    lost: Set[int] = set()
    for sentence in candidates:
        if len(held_out) == num_valid + num_test:
            break
        near = neighbours.of(sentence)
        if len(near - lost) <= max_cost:
            held_out.append(sentence)
            lost |= near
    # shuffled above: valid and test are alike
    valid, test = held_out[:num_valid], held_out[num_valid:]
    lost_strings = {strings[index] for index in lost}.union(held_out)
    train = [string for string in strings if string not in lost_strings]
    dropped = sorted(lost_strings.difference(held_out))
    return Split(train, valid, test, dropped)
