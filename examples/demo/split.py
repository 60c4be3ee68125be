"""Hold out validation and test sentences that no training sentence resembles.

Interface strings repeat themselves: on a random split a look-up of the nearest training string
translates well. So a training string that shares half of the words of a held-out sentence, or
more, is dropped, and sentences are held out of which few training strings do.
"""

import random
import re
from collections import Counter, defaultdict
from typing import Dict, FrozenSet, List, NamedTuple, Sequence, Set


class Split(NamedTuple):
    """English sentences of a corpus that is parallel in all languages."""

    train: List[str]
    valid: List[str]
    test: List[str]
    dropped: List[str]  # too close to valid or test


def words(sentence: str) -> FrozenSet[str]:
    return frozenset(re.findall(r"\w+", sentence.lower()))


def overlap(sentence: str, other: str) -> float:
    """The share of sentence's words that are also in other."""
    own = words(sentence)
    return len(own & words(other)) / len(own)


class Neighbours:
    """Finds the strings that share half of a sentence's words or more."""

    def __init__(self, strings: Sequence[str]):
        self.strings_with: Dict[str, List[int]] = defaultdict(list)
        for index, string in enumerate(strings):
            for word in words(string):
                self.strings_with[word].append(index)

    def of(self, sentence: str, threshold: float = 0.5) -> Set[int]:
        own = words(sentence)
        shared = Counter(index for word in own for index in self.strings_with.get(word, ()))
        return {index for index, count in shared.items() if count >= threshold * len(own)}


def split_strings(
    strings: Sequence[str],
    eligible: Set[str],
    num_valid: int,
    num_test: int,
    max_neighbours: int,
    seed: int,
) -> Split:
    """Draw held-out sentences from eligible and drop their neighbours from training.

    A sentence is passed over where holding it out would cost more than max_neighbours training
    strings that are not dropped already.
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
        if len(near - lost) <= max_neighbours:
            held_out.append(sentence)
            lost |= near
    # shuffled above: valid and test are alike
    valid, test = held_out[:num_valid], held_out[num_valid:]
    dropped = [strings[index] for index in sorted(lost) if strings[index] not in set(held_out)]
    train = [s for index, s in enumerate(strings) if index not in lost and s not in set(held_out)]
    return Split(train, valid, test, dropped)
