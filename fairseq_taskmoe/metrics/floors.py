"""Floors: the scores of two baselines that do not learn, which a trained model must exceed.

The first baseline copies the source, which may contain names, numbers and cognates. The second
returns the translation of the nearest training sentence, which this module finds.
"""

import re
from typing import Dict, List, Sequence

import numpy as np

# Han, kana and Thai have no spaces: each character counts as a word
_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def split_words(sentence: str) -> List[str]:
    """Return the lower-cased words of a sentence; characters for scripts without spaces."""
    return _WORD.findall(sentence.lower())


class NearestSentence:
    """Finds the training sentence that is most similar to a query.

    Similarity is the Jaccard index of the word sets (intersection over union), with words weighted
    by their inverse document frequency.
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
        # summed in sorted order, since the order of a set differs between processes
        self.weights = np.array(
            [sum(self._idf(word) for word in sorted(words)) for words in word_sets]
        )

    def _idf(self, word: str) -> float:
        num_with_word = len(self.postings.get(word, ()))
        return float(np.log((1 + self.num_sentences) / (1 + num_with_word)) + 1)

    def find(self, query: str) -> int:
        """Return the index of the first nearest sentence, or -1 if no word occurs in training."""
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
        # rounded, so that ties do not depend on the order of additions
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
