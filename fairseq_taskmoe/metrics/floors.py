"""Floors: what a system scores that has learned nothing.

Copying the source scores by names, numbers and cognates; the translation of the nearest training
sentence scores by repetition in the data. A trained model must beat both. A floor is
scored like any system: the first by the sources themselves, the second by what is here.
"""

import re
from typing import Dict, List, Sequence

import numpy as np

# Han, kana and Thai are written without spaces: each of their characters counts as a word
_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def split_words(sentence: str) -> List[str]:
    """The lower-cased words of a sentence; characters where the script has no spaces."""
    return _WORD.findall(sentence.lower())


class NearestSentence:
    """Finds the training sentence that shares the most, and the rarest, words with a query.

    Similarity is the Jaccard index of the word sets, each word weighted by its inverse document
    frequency: what is shared, as a share of what either sentence has.
    """

    def __init__(self, sentences: Sequence[str]):
        if not sentences:
            raise ValueError("no sentences to look up")
        postings: Dict[str, List[int]] = {}
        word_sets = [set(split_words(sentence)) for sentence in sentences]
        for index, sentence_words in enumerate(word_sets):
            for word in sentence_words:
                postings.setdefault(word, []).append(index)
        self.num_sentences = len(sentences)
        self.postings = {word: np.array(indices) for word, indices in postings.items()}
        # summed in sorted order: the order of a set differs from process to process
        self.weights = np.array(
            [sum(self._idf(word) for word in sorted(words)) for words in word_sets]
        )

    def _idf(self, word: str) -> float:
        num_with_word = len(self.postings.get(word, ()))
        return float(np.log((1 + self.num_sentences) / (1 + num_with_word)) + 1)

    def find(self, query: str) -> int:
        """Return the index of the nearest sentence, the first of equals; -1 if no word is known."""
        words = sorted(set(split_words(query)))
        known = [word for word in words if word in self.postings]
        if not known:
            return -1
        hits = [self.postings[word] for word in known]
        shared = np.bincount(
            np.concatenate(hits),
            weights=np.repeat([self._idf(word) for word in known], [len(hit) for hit in hits]),
            minlength=self.num_sentences,
        )
        union = self.weights + sum(self._idf(word) for word in words) - shared
        # rounded, so that equal similarities are equal whatever the order of the additions
        return int(np.round(shared / union, 12).argmax())


def nearest_neighbour_translations(
    train_sources: Sequence[str], train_targets: Sequence[str], test_sources: Sequence[str]
) -> List[str]:
    """Translate each test sentence by the translation of the nearest training source.

    A sentence that shares no word with any training source gets an empty translation.
    """
    if len(train_sources) != len(train_targets):
        raise ValueError(
            f"{len(train_sources)} training sources, {len(train_targets)} training targets"
        )
    nearest = NearestSentence(train_sources)
    found = (nearest.find(source) for source in test_sources)
    return [train_targets[index] if index >= 0 else "" for index in found]
