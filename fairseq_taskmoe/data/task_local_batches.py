"""Batches of one task each, for ranks that hold the task's experts (--moe-task-local-batches).

Each sentence of an epoch is in exactly one batch, and each step trains on the next W batches of the
shuffled list. Only the assignment of these batches to ranks is chosen, to send fewer tokens to
experts on other ranks.

The balance loss of task routers needs all tasks, so each batch contains the number of tokens of
each task in the epoch.

Shapes: N batches, W ranks, P places of an expert-parallel group (rank r has place r % P).
"""

from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
import torch
import torch.nn as nn
from fairseq.data import (
    BaseWrapperDataset,
    ConcatDataset,
    FairseqDataset,
    SampledMultiDataset,
    SampledMultiEpochDataset,
)
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..distributed.layout import ExpertLayout
from ..errors import refuse
from ..modules.folding import task_route
from ..modules.moe_layer import MoELayer
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
    """Return the numbers of source and target tokens (S,) of sentences with these indices (S,)."""
    return dataset.sizes[indices].reshape(len(indices), -1).sum(axis=1)


class OneTaskBatches(BaseWrapperDataset):
    """A dataset of task pairs whose batches contain sentences of one task each."""

    def __init__(self, dataset: FairseqDataset):
        super().__init__(dataset)
        self.task_tokens = torch.zeros(0, dtype=torch.long)  # (N,), set with the batches

    def batch_by_size(
        self,
        indices: np.ndarray,
        max_tokens: Optional[int] = None,
        max_sentences: Optional[int] = None,
        required_batch_size_multiple: int = 1,
    ) -> List[Batch]:
        """As in fairseq, separately for the sentences of each task."""
        tasks = sentence_tasks(self.dataset, indices)
        lengths = sentence_lengths(self.dataset, indices)
        self.task_tokens = torch.from_numpy(np.bincount(tasks, lengths).astype(np.int64))
        by_task = np.argsort(tasks, kind="stable")  # keeps the order by length within a task
        first_of_task = np.flatnonzero(np.diff(tasks[by_task])) + 1
        return [
            batch
            for own in np.split(np.asarray(indices)[by_task], first_of_task)
            for batch in self.dataset.batch_by_size(
                own, max_tokens, max_sentences, required_batch_size_multiple
            )
        ]

    def collater(self, samples: List[Any], **options: Any) -> Dict[str, Any]:
        """As in fairseq, plus the number of tokens (N,) of each task in the epoch in net_input."""
        batch = self.dataset.collater(samples, **options)
        if batch:
            batch["net_input"]["task_tokens"] = self.task_tokens
        return batch


class AffinityAssignment:
    """Assigns the batches of each step so that most tokens stay on their rank."""

    def __init__(self, dataset: FairseqDataset, affinity: Callable[[], Tensor]):
        """Create the assignment for a training dataset.

        Args:
            dataset: the dataset of the batches, possibly in OneTaskBatches.
            affinity: called once for each assignment, by all ranks; returns the fraction of each
                task's gates whose experts each place holds (number of tasks, P). It must be
                bitwise equal on all ranks; otherwise their assignments differ.
        """
        self.dataset = dataset
        self.affinity = affinity

    def __call__(self, batches: Sequence[Batch], num_ranks: int) -> np.ndarray:
        """Return the batch of each rank in each step (ceil(N / W), W), as assign_in_turn does.

        The assignment of each step maximises the number of tokens that stay on their rank, the sum
        of tokens * affinity.
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
        """Return the number of tokens of each batch whose experts each place holds (N, P)."""
        affinity = self.affinity().detach().double().cpu().numpy()
        sentences = np.concatenate(batches)
        first_of_batch = np.cumsum([0, *map(len, batches)])[:-1]
        lengths = sentence_lengths(self.dataset, sentences)
        num_tokens = np.add.reduceat(lengths, first_of_batch)  # of both sides
        tasks = sentence_tasks(self.dataset, sentences[first_of_batch])
        return num_tokens[:, None] * affinity[tasks]


def task_affinity(model: nn.Module, num_tasks: int, layout: ExpertLayout) -> Tensor:
    """Return the fraction of each task's gates whose experts each rank holds (N, P), float64.

    N tasks, P ranks of an expert-parallel group. It is the mean over the layers that route by task;
    refuses a model without such layers.
    """
    routers = [module.router for module in model.modules() if isinstance(module, MoELayer)]
    fractions = torch.zeros(num_tasks, layout.size, dtype=torch.float64)
    for task_id in range(num_tasks):
        for route in (task_route(router, task_id) for router in routers):
            if route is not None:
                places = route.expert_ids.cpu() // layout.experts_per_rank
                fractions[task_id].index_add_(0, places, route.gates.double().cpu())
    total = fractions.sum(dim=1, keepdim=True)
    if not (total > 0).all():
        refuse(
            "--moe-task-local-batches: no layer routes by task, so no rank holds a task's experts"
        )
    return fractions / total
