"""The overlap of two sentences in words, and a fast search for sentences with a large overlap."""

import re
from collections import Counter, defaultdict
from typing import Dict, Iterable, List, Set


def split_words(sentence: str) -> List[str]:
    return re.findall(r"\w+", sentence.lower())


def overlap(sentence: str, other: str) -> float:
    """Return the share of sentence's words that are also in other.

    The larger of two shares: with repeated words counted once, and each time.
    """
    own, others = split_words(sentence), set(split_words(other))
    shared = [word for word in own if word in others]
    return max(len(shared) / len(own), len(set(shared)) / len(set(own)))


class Neighbours:
    """Finds the strings with which a sentence has an overlap of at least a threshold."""

    def __init__(self, strings: Iterable[str]):
        self.word_sets = [set(split_words(string)) for string in strings]
        self.strings_with: Dict[str, List[int]] = defaultdict(list)
        for index, words in enumerate(self.word_sets):
            for word in words:
                self.strings_with[word].append(index)

    def of(self, sentence: str, threshold: float = 0.5) -> Set[int]:
        """Return the indices of the strings near sentence, which must not be empty."""
        own = Counter(split_words(sentence))
        candidates = {
            index
            for word in self._rarest_words(own, threshold)
            for index in self.strings_with.get(word, ())
        }
        return {index for index in candidates if self._share(own, index) >= threshold}

    def _rarest_words(self, own: Counter[str], threshold: float) -> List[str]:
        """Return the fewest, rarest words of which a near string must have at least one.

        The remaining words alone are too few to reach the threshold.
        """
        rarest_first = sorted(own, key=lambda word: (len(self.strings_with.get(word, ())), word))
        others, num_others = len(own), own.total()
        chosen = []
        for word in rarest_first:
            if max(others / len(own), num_others / own.total()) < threshold:
                break
            chosen.append(word)
            others -= 1
            num_others -= own[word]
        return chosen

    def _share(self, own: Counter[str], index: int) -> float:
        shared = own.keys() & self.word_sets[index]
        return max(len(shared) / len(own), sum(own[word] for word in shared) / own.total())
