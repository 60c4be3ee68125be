"""The training iterator, whose position in an epoch does not depend on the number of ranks.

fairseq shuffles the N batches of an epoch, and in each step assigns the next batch to each of W
ranks. After n steps the ranks have trained on the first min(n * W, N) batches. fairseq's state
contains n, which is only valid for W ranks. This state contains the number of batches instead, and
a resumed run assigns the remaining batches to its own number of ranks.
"""

import logging
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
from fairseq.data import FairseqDataset, SampledMultiEpochDataset, data_utils, iterators

from ..errors import refuse

logger = logging.getLogger(__name__)

Batch = Sequence[int]  # indices of the sentences
Assignment = Callable[[Sequence[Batch], int], np.ndarray]

SETTINGS = (
    "dataset", "collate_fn", "batch_sampler", "seed", "num_shards", "shard_id", "num_workers",
    "epoch", "buffer_size", "timeout", "disable_shuffling", "skip_remainder_batch",
    "grouped_shuffling", "reuse_dataloader", "persistent_workers",
)


def assign_in_turn(batches: Sequence[Batch], num_ranks: int) -> np.ndarray:
    """Assign batches to ranks in turn, as fairseq does.

    Args:
        batches: N batches in the order of training.
        num_ranks: W.

    Returns:
        Index of the batch of each rank in each step, -1 for none (ceil(N / W), W). Each step takes
        the next W batches.
    """
    num_steps = -(-len(batches) // num_ranks)
    assigned = np.arange(num_steps * num_ranks).reshape(num_steps, num_ranks)
    assigned[assigned >= len(batches)] = -1
    return assigned


class EpochBatches(iterators.EpochBatchIterator):
    """fairseq's iterator, resumable with another number of ranks.

    Epochs are those of fairseq's iterator, unless they were resumed in the middle. A state of
    fairseq's iterator is assumed to be of the same number of ranks.
    """

    def __init__(
        self, *, update_freq: Sequence[int], assign: Assignment = assign_in_turn, **settings: Any
    ):
        """Create the iterator.

        Args:
            update_freq: steps per update in each epoch; the last value is for all later epochs.
            assign: assigns batches to ranks, as assign_in_turn does, with the same result on all
                ranks.
            **settings: arguments of fairseq's iterator.
        """
        super().__init__(**settings)
        self.update_freq = list(update_freq)
        self.assign = assign
        self._resumed_at = 0  # batches trained on, according to the loaded state
        self._num_before = 0  # batches trained on before the current iterator was created
        self._first_step = 0  # n of the current iterator when it was created

    @property
    def batches_trained(self) -> int:
        """Number of batches of the epoch that all ranks together have trained on."""
        num_steps = self.iterations_in_epoch - self._first_step
        return min(self._num_before + num_steps * self.num_shards, len(self.frozen_batches))

    def state_dict(self) -> Dict[str, Any]:
        """Return the state of fairseq's iterator, plus the position as a number of batches."""
        trained = 0 if self.end_of_epoch() else self.batches_trained
        return {
            **super().state_dict(),
            "iterations_in_epoch": -(-trained // self.num_shards),
            "batches_trained": trained,
            "num_batches": len(self.frozen_batches),
        }

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """Continue after the last trained batch, refusing a position beyond the epoch."""
        self.epoch = state_dict["epoch"]
        num_steps = state_dict.get("iterations_in_epoch", 0)
        self._resumed_at = state_dict.get("batches_trained", num_steps * self.num_shards)
        if num_steps > 0:
            num_batches = len(self.frozen_batches)
            if self._resumed_at >= num_batches and state_dict.get("version", 1) > 1:
                refuse(
                    f"the checkpoint was saved after {self._resumed_at} batches of epoch "
                    f"{self.epoch}, which has only {num_batches}: the data or --max-tokens "
                    "differs, or stock fairseq saved it on another number of ranks; "
                    "--reset-dataloader restarts the epoch"
                )
            if state_dict.get("num_batches", num_batches) != num_batches:
                logger.warning(
                    "epoch %d has %d batches and had %d when the checkpoint was saved: some "
                    "sentences will be trained on twice or not at all in this epoch",
                    self.epoch, num_batches, state_dict["num_batches"],
                )
        super().load_state_dict(state_dict)

    def ordered_batches(self, epoch: int, fix_batches_to_gpus: bool, shuffle: bool) -> List[Batch]:
        """Return this rank's remaining batches, [] in a step where only other ranks have one.

        As in fairseq, fix_batches_to_gpus has no effect on a dataset without prefetching.
        """
        batches = list(self.frozen_batches)
        if shuffle:
            with data_utils.numpy_seed(self.seed + epoch):
                np.random.shuffle(batches)
        remaining = batches[self._num_before :]
        own = self.assign(remaining, self.num_shards)[:, self.shard_id].tolist()
        # only the last step can have no batch for this rank; it is moved to the start of its update
        # because fairseq's trainer takes an update that ends with an empty batch for an empty one
        if own and own[-1] < 0:
            own.insert((len(own) - 1) // self._freq(epoch) * self._freq(epoch), own.pop())
        return [remaining[i] if i >= 0 else [] for i in own]

    def _freq(self, epoch: int) -> int:
        """Return the number of steps per update in an epoch."""
        return self.update_freq[min(epoch, len(self.update_freq)) - 1]

    def _get_iterator_for_epoch(
        self, epoch: int, shuffle: bool, fix_batches_to_gpus: bool = False, offset: int = 0
    ) -> Optional[iterators.CountingIterator]:
        """As in fairseq; with offset > 0, for the rest of the epoch after the loaded state."""
        self._num_before = self._resumed_at if offset > 0 else 0
        num_batches = len(self.frozen_batches)
        if 0 < num_batches <= self._num_before:
            return None
        itr = super()._get_iterator_for_epoch(epoch, shuffle, fix_batches_to_gpus)
        update_freq = self._freq(epoch)
        if offset > 0 and self.skip_remainder_batch and len(itr) < update_freq:
            refuse(
                f"epoch {epoch} has less than an update left for {self.num_shards} ranks with "
                f"--update-freq {update_freq}: resume without --skip-remainder-batch"
            )
        # GroupedIterator divides position and length by update_freq, each rounded up. Unless the
        # position is a multiple of update_freq, it would drop the last update and repeat the epoch
        all_updates, updates_left = (
            -(-num // (self.num_shards * update_freq))
            for num in (num_batches, num_batches - self._num_before)
        )
        self._first_step = (all_updates - updates_left) * update_freq
        itr.n += self._first_step
        itr.total += self._first_step
        return itr


def world_size_independent_batches(
    stock: iterators.EpochBatchIterator, update_freq: Sequence[int],
    assign: Assignment = assign_in_turn,
) -> EpochBatches:
    """Return EpochBatches with the settings of fairseq's iterator.

    Args:
        stock: unused training iterator of fairseq's task.
        update_freq: --update-freq.
        assign: as in EpochBatches.
    """
    if stock.grouped_shuffling:
        refuse(
            "--grouped-shuffling: its order depends on the number of ranks, so a run could not "
            "resume with another number of ranks; leave it out"
        )
    assert not stock._supports_prefetch, "a sampled dataset does not prefetch"
    settings = {name: getattr(stock, name) for name in SETTINGS}
    return EpochBatches(update_freq=update_freq, assign=assign, **settings)


def redraw_virtual_epoch(dataset: FairseqDataset, epoch: int) -> None:
    """Give a newly loaded dataset the same sentences in an epoch as in an uninterrupted run.

    A pass through the data takes several epochs of --virtual-epoch-size, whose sentences are drawn
    at the start of the pass. When fairseq resumes in the middle of a pass, it draws them again,
    which repeats some sentences. Not for data in several folders, where fairseq draws at other
    times.
    """
    if isinstance(dataset, SampledMultiEpochDataset):
        first = epoch - (epoch - 1) % dataset.num_virtual_epochs
        if first != epoch:
            # drawing again must not load the next folder
            dataset.load_next_shard = None
            dataset.set_epoch(first)
            dataset.set_epoch(epoch)
