"""Word ciphers: made-up translation tasks that compete for the capacity of a model.

A sentence has S of W source words. A language replaces each of them by another word, by a random
permutation of its own. The languages use the same W target words, so a model can share nothing
between them but attention. The source begins with the tag of the target language, as in real text.
"""

from typing import Iterator, List, NamedTuple

import torch
from fairseq.data import Dictionary
from torch import Tensor

from fairseq_taskmoe.data.languages import NUM_SPECIAL, LanguageTags, make_dictionary
from fairseq_taskmoe.data.task_table import TaskTable

NUM_WORDS, LENGTH = 64, 6  # W and S
PERMUTATIONS_SEED, TEST_SEED = 7, 99
EOS = 2


class Batch(NamedTuple):
    """Sentences of all languages, with their translations."""

    src_tokens: Tensor  # (B, S + 2): tag, words, end
    prev_output_tokens: Tensor  # (B, S + 1): the target, delayed by one
    target: Tensor  # (B, S + 1): words, end
    task_ids: Tensor  # (B,)


class Ciphers(NamedTuple):
    """N languages to translate into from English, in the order of their task ids."""

    permutations: Tensor  # (N, W): the number of the target word of each source word
    table: TaskTable
    tags: LanguageTags
    words: List[str]  # of the dictionary, special ones first and without tags

    @classmethod
    def make(cls, number: int) -> "Ciphers":
        """Return the first N of always the same languages."""
        generator = torch.Generator().manual_seed(PERMUTATIONS_SEED)
        permutations = [torch.randperm(NUM_WORDS, generator=generator) for _ in range(number)]
        langs = [f"c{n:02d}" for n in range(number)]
        table = TaskTable.from_pairs([f"en-{lang}" for lang in langs])
        special = Dictionary().symbols[:NUM_SPECIAL]
        words = [f"{side}{n}" for side in ("s", "t") for n in range(NUM_WORDS)]
        tags = LanguageTags((*langs, "en"), "tgt", False, "multilingual")
        return cls(torch.stack(permutations), table, tags, [*special, *words])

    @property
    def dictionary(self) -> Dictionary:
        return make_dictionary(self.words, self.tags)

    def batches(self, seed: int, num_sentences: int) -> Iterator[Batch]:
        """Yield batches without end; frequent words, and all languages, are drawn as in text."""
        generator = torch.Generator().manual_seed(seed)
        frequency = torch.arange(1, NUM_WORDS + 1).float().rsqrt()
        dictionary = self.dictionary
        tags = torch.tensor([
            dictionary.index(self.tags.of_pair(pair)[0][0]) for pair in self.table.trained
        ])
        while True:
            words = torch.multinomial(
                frequency.expand(num_sentences, -1), LENGTH, replacement=False, generator=generator
            )
            task_ids = torch.randint(len(tags), (num_sentences,), generator=generator)
            translated = self.permutations[task_ids].gather(1, words)
            end = torch.full((num_sentences, 1), EOS)
            first_source, first_target = NUM_SPECIAL, NUM_SPECIAL + NUM_WORDS
            yield Batch(
                torch.cat([tags[task_ids].unsqueeze(1), first_source + words, end], dim=1),
                torch.cat([end, first_target + translated], dim=1),
                torch.cat([first_target + translated, end], dim=1),
                task_ids,
            )
