"""The dataset of one language pair, with the task id in each example."""

import copy
from typing import Any, Dict, List, Optional

import numpy as np
import torch
from fairseq.data import BaseWrapperDataset, LanguagePairDataset
from torch import Tensor

Example = Dict[str, Any]
# entries of a batch with a row for each sentence
PER_SENTENCE = {"id", "src_tokens", "src_lengths", "prev_output_tokens", "target", "task_ids"}


class TaskPairDataset(BaseWrapperDataset):
    """A LanguagePairDataset whose batches contain the task id of each sentence.

    The id is in each example, since fairseq collates a batch of several pairs with the collater of
    the first. `first` is the number of the first sentence in the input, for messages.
    """

    def __init__(self, dataset: LanguagePairDataset, task_id: int, first: int = 0):
        super().__init__(dataset)
        self.task_id = task_id
        self.first = first

    def __getitem__(self, index: int) -> Example:
        return {**self.dataset[index], "task_id": self.task_id}

    def collater(
        self, samples: List[Example], pad_to_length: Optional[Dict[str, int]] = None
    ) -> Dict[str, Any]:
        """Return the base class's batch, with task_ids (B,) in net_input, sorted by task.

        The rows of a task's experts are then adjacent in every layer. Sentences of a task stay in
        the base class's order, by length.
        """
        # the base collater sorts by length: pass positions as ids to get its order
        numbered = [{**sample, "id": i} for i, sample in enumerate(samples)]
        batch = self.dataset.collater(numbered, pad_to_length)
        if batch:
            places = batch["id"]
            batch["id"] = torch.tensor([sample["id"] for sample in samples])[places]
            task_ids = torch.tensor([sample["task_id"] for sample in samples])[places]
            batch["net_input"]["task_ids"] = task_ids
            order = task_ids.argsort(stable=True)
            for part in (batch, batch["net_input"]):
                for name in PER_SENTENCE & part.keys():
                    part[name] = None if part[name] is None else part[name][order]
        return batch

    def with_empty_sources(self, indices: np.ndarray) -> "TaskPairDataset":
        """Return the dataset with empty sources for the examples at indices."""
        pair = copy.copy(self.dataset)
        pair.src = _EmptiedDataset(pair.src, indices)
        pair.src_sizes = pair.src_sizes.copy()
        pair.src_sizes[indices] = 1
        pair.sizes = pair.src_sizes
        if pair.tgt_sizes is not None:
            pair.sizes = np.stack([pair.src_sizes, pair.tgt_sizes], axis=1)
        return TaskPairDataset(pair, self.task_id, self.first)

    # fairseq's commands read the two sides of a pair to print original text
    @property
    def src(self) -> Any:
        return self.dataset.src

    @property
    def src_sizes(self) -> np.ndarray:
        """Source lengths in tokens, including tag and end of sentence."""
        return self.dataset.src_sizes

    @property
    def tgt(self) -> Any:
        return self.dataset.tgt


class _EmptiedDataset(BaseWrapperDataset):
    """Sentences of which some consist only of the end of sentence."""

    def __init__(self, dataset: Any, emptied: np.ndarray):
        super().__init__(dataset)
        self.emptied = frozenset(emptied.tolist())

    def __getitem__(self, index: int) -> Tensor:
        tokens = self.dataset[index]
        return tokens[-1:] if index in self.emptied else tokens
