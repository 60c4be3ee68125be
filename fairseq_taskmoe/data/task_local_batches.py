"""Batches of one task each, for ranks that hold the task's experts (--moe-task-local-batches).

Every sentence of an epoch is still in exactly one batch, and every step still trains on the next W
batches of the shuffled list: only which rank computes which of them is chosen, so that fewer tokens
travel to experts on other ranks.

A batch of one task does not show how tasks share the experts: each batch therefore carries the
number of tokens that every task has in the epoch, for the balance loss of routers by task.

Shapes: N batches, W ranks, P places of an expert-parallel group (rank r has place r % P).
"""

from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
import torch
from fairseq.data import (
    BaseWrapperDataset,
    ConcatDataset,
    FairseqDataset,
    SampledMultiDataset,
    SampledMultiEpochDataset,
)
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .epoch_batches import Batch, assign_in_turn
from .task_pair_dataset import TaskPairDataset


def sentence_tasks(dataset: FairseqDataset, indices: np.ndarray) -> np.ndarray:
    """Return the task ids (S,) of sentences with these indices (S,) in a dataset of task pairs."""
    if isinstance(dataset, TaskPairDataset):
        return np.full(len(indices), dataset.task_id)
    if isinstance(dataset, BaseWrapperDataset):
        return sentence_tasks(dataset.dataset, indices)
    if isinstance(dataset, SampledMultiEpochDataset):
        indices = dataset._map_epoch_index_to_global(indices)
    if isinstance(dataset, SampledMultiDataset):
        ends = dataset.cumulated_sizes
    else:
        assert isinstance(dataset, ConcatDataset), f"no task pairs in a {type(dataset).__name__}"
        ends = np.asarray(dataset.cumulative_sizes)
    task_ids = np.array([pair.task_id for pair in dataset.datasets])
    return task_ids[np.searchsorted(ends, indices, side="right")]


def sentence_lengths(dataset: FairseqDataset, indices: np.ndarray) -> np.ndarray:
    """Return the tokens (S,) that sentences with these indices (S,) have on both sides."""
    return dataset.sizes[indices].reshape(len(indices), -1).sum(axis=1)


class OneTaskBatches(BaseWrapperDataset):
    """A dataset of task pairs whose batches hold sentences of one task each."""

    def __init__(self, dataset: FairseqDataset):
        super().__init__(dataset)
        self.task_tokens = torch.zeros(0, dtype=torch.long)  # (N,), once there are batches

    def batch_by_size(
        self,
        indices: np.ndarray,
        max_tokens: Optional[int] = None,
        max_sentences: Optional[int] = None,
        required_batch_size_multiple: int = 1,
    ) -> List[Batch]:
        """As in fairseq, for the sentences of each task by themselves."""
        tasks = sentence_tasks(self.dataset, indices)
        lengths = sentence_lengths(self.dataset, indices)
        self.task_tokens = torch.from_numpy(np.bincount(tasks, lengths).astype(np.int64))
        by_task = np.argsort(tasks, kind="stable")  # within a task the order by length stays
        first_of_task = np.flatnonzero(np.diff(tasks[by_task])) + 1
        return [
            batch
            for own in np.split(np.asarray(indices)[by_task], first_of_task)
            for batch in self.dataset.batch_by_size(
                own, max_tokens, max_sentences, required_batch_size_multiple
            )
        ]

    def collater(self, samples: List[Any], **options: Any) -> Dict[str, Any]:
        """As in fairseq, with the tokens (N,) that each task has in all batches, in net_input."""
        batch = self.dataset.collater(samples, **options)
        if batch:
            batch["net_input"]["task_tokens"] = self.task_tokens
        return batch


class AffinityAssignment:
    """Deals the batches of each step so that most routed tokens stay on their rank."""

    def __init__(self, dataset: FairseqDataset, affinity: Callable[[], Tensor]):
        """Make the dealer of a training dataset.

        Args:
            dataset: the dataset that batches are of, with OneTaskBatches around it or not.
            affinity: called once whenever batches are assigned, by all ranks; returns the share of
                each task's routed gates whose experts live on each place (number of tasks, P). It
                must be the same on all ranks to the last bit: else they assign differently, and a
                batch is computed twice or by nobody.
        """
        self.dataset = dataset
        self.affinity = affinity

    def __call__(self, batches: Sequence[Batch], num_ranks: int) -> np.ndarray:
        """Return what each rank trains on in each step (ceil(N / W), W), as assign_in_turn does.

        Each step's assignment maximises the tokens that stay, sum of tokens * affinity.
        """
        kept = self.tokens_kept(batches)
        places = np.arange(num_ranks) % kept.shape[1]
        assigned = assign_in_turn(batches, num_ranks)
        for step in assigned:
            taken = step[step >= 0]
            rows, ranks = linear_sum_assignment(kept[taken][:, places], maximize=True)
            step[:] = -1
            step[ranks] = taken[rows]
        return assigned

    def tokens_kept(self, batches: Sequence[Batch]) -> np.ndarray:
        """Return how many tokens of each batch meet their experts on each place (N, P)."""
        affinity = self.affinity().detach().double().cpu().numpy()
        sentences = np.concatenate(batches)
        first_of_batch = np.cumsum([0, *map(len, batches)])[:-1]
        lengths = sentence_lengths(self.dataset, sentences)
        num_tokens = np.add.reduceat(lengths, first_of_batch)  # of both sides
        tasks = sentence_tasks(self.dataset, sentences[first_of_batch])
        return num_tokens[:, None] * affinity[tasks]
