"""The two sides of a binarized set as text."""

from typing import List, NamedTuple

import torch
from fairseq.data import Dictionary
from torch import Tensor

from ..data.languages import LanguageTags
from ..data.task_pair_dataset import TaskPairDataset
from ..tasks.translation_task_moe import TranslationTaskMoeTask


class TestSet(NamedTuple):
    """Both sides of a set, in the order of its file."""

    sources: List[str]
    references: List[str]
    num_unknown: int  # unknown words in the references: the dictionary lost their spelling


def read_test_set(task: TranslationTaskMoeTask, dataset: TaskPairDataset) -> TestSet:
    """Return a direction's set as text, detokenized from its binarized form."""
    text = TextOf(task.dictionary, task.tags)
    sources, targets = (
        [side[i] for i in range(len(dataset))] for side in (dataset.src, dataset.tgt)
    )
    num_unknown = sum(int(target.eq(task.dictionary.unk()).sum()) for target in targets)
    return TestSet(list(map(text, sources)), list(map(text, targets)), num_unknown)


class TextOf:
    """Turns token ids into text: without tags, padding and the marks of subword pieces."""

    def __init__(self, dictionary: Dictionary, tags: LanguageTags):
        self.dictionary = dictionary
        self.left_out = {dictionary.index(tags.tag(lang)) for lang in tags.langs}
        self.left_out |= {dictionary.pad(), dictionary.bos(), dictionary.eos()}
        has_pieces = any(word.startswith("\u2581") for word in dictionary.symbols)
        self.post_process = "sentencepiece" if has_pieces else None

    def __call__(self, tokens: Tensor) -> str:
        kept = [token for token in tokens.tolist() if token not in self.left_out]
        return self.dictionary.string(torch.tensor(kept), self.post_process).strip()
