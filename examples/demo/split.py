"""Hold out validation and test sentences that no training sentence resembles.

Interface strings repeat themselves: on a random split a look-up of the nearest training string
translates well. So a training string that shares half of the words of a held-out sentence, or
more, is dropped, and sentences are held out of which few training strings do.
"""

import random
import re
from collections import Counter, defaultdict
from typing import Dict, List, NamedTuple, Sequence, Set


class Split(NamedTuple):
    """English sentences of a corpus that is parallel in all languages."""

    train: List[str]
    valid: List[str]
    test: List[str]
    dropped: List[str]  # too close to valid or test


def split_words(sentence: str) -> List[str]:
    return re.findall(r"\w+", sentence.lower())


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


def overlap(sentence: str, other: str) -> float:
    """The share of sentence's words that are also in other.

    Of the two ways to count a repeated word, once or each time, the one that gives more.
    """
    own, others = split_words(sentence), set(split_words(other))
    shared = [word for word in own if word in others]
    return max(len(shared) / len(own), len(set(shared)) / len(set(own)))


class Neighbours:
    """Finds the strings with which a sentence has an overlap of half or more."""

    def __init__(self, strings: Sequence[str]):
        self.strings_with: Dict[str, List[int]] = defaultdict(list)
        for index, string in enumerate(strings):
            for word in set(split_words(string)):
                self.strings_with[word].append(index)

    def of(self, sentence: str, threshold: float = 0.5) -> Set[int]:
        own = Counter(split_words(sentence))
        once: Counter[int] = Counter()
        each_time: Counter[int] = Counter()
        for word, count in own.items():
            for index in self.strings_with.get(word, ()):
                once[index] += 1
                each_time[index] += count
        return {
            index
            for index in once
            if once[index] >= threshold * len(own) or each_time[index] >= threshold * own.total()
        }


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
