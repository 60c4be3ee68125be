"""The training iterator, whose position in an epoch does not depend on the number of ranks.

fairseq shuffles the N batches of an epoch and assigns them in turn, one to each of W ranks in a
step. What has been trained on after n steps is thus a prefix of the list, of min(n * W, N) batches.
The state of fairseq's iterator holds n, which means something to W ranks alone. Ours holds the
length of the prefix, and a resumed run assigns the rest anew to as many ranks as it has.
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
    """Return whose turn it is, as in fairseq.

    Args:
        batches: N batches in the order of training.
        num_ranks: W.

    Returns:
        Position in batches of what each rank trains on in each step, -1 for nothing
        (ceil(N / W), W). Every step takes the next W batches: what was trained on is a prefix.
    """
    num_steps = -(-len(batches) // num_ranks)
    assigned = np.arange(num_steps * num_ranks).reshape(num_steps, num_ranks)
    assigned[assigned >= len(batches)] = -1
    return assigned


class EpochBatches(iterators.EpochBatchIterator):
    """fairseq's iterator, resumable at any number of ranks.

    An epoch that was not resumed in its middle is the stock iterator's, update for update. A state
    of the stock iterator is taken to be of the same number of ranks.
    """

    def __init__(
        self, *, update_freq: Sequence[int], assign: Assignment = assign_in_turn, **settings: Any
    ):
        """Make the iterator.

        Args:
            update_freq: steps in an update, for each epoch; the last holds for all epochs on.
            assign: who trains on what; see assign_in_turn. All ranks must get the same answer.
            **settings: what the stock iterator is made with.
        """
        super().__init__(**settings)
        self.update_freq = list(update_freq)
        self.assign = assign
        self._resumed_at = 0  # batches trained on by the state that was loaded
        self._num_before = 0  # batches trained on before the current iterator was made
        self._first_step = 0  # n of the current iterator when it was made

    @property
    def batches_trained(self) -> int:
        """Batches of the epoch that all ranks together have trained on."""
        num_steps = self.iterations_in_epoch - self._first_step
        return min(self._num_before + num_steps * self.num_shards, len(self.frozen_batches))

    def state_dict(self) -> Dict[str, Any]:
        """Return the stock iterator's state, with the position in numbers of batches."""
        trained = 0 if self.end_of_epoch() else self.batches_trained
        return {
            **super().state_dict(),
            "iterations_in_epoch": -(-trained // self.num_shards),
            "batches_trained": trained,
            "num_batches": len(self.frozen_batches),
        }

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """Go on behind the last batch that was trained on, refusing a position beyond the epoch."""
        self.epoch = state_dict["epoch"]
        num_steps = state_dict.get("iterations_in_epoch", 0)
        self._resumed_at = state_dict.get("batches_trained", num_steps * self.num_shards)
        if num_steps > 0:
            num_batches = len(self.frozen_batches)
            if self._resumed_at >= num_batches and state_dict.get("version", 1) > 1:
                refuse(
                    f"the checkpoint was saved after {self._resumed_at} batches of epoch "
                    f"{self.epoch}, which has only {num_batches}: the data or --max-tokens is not "
                    "the same, or stock fairseq saved it on another number of ranks; "
                    "--reset-dataloader starts over"
                )
            if state_dict.get("num_batches", num_batches) != num_batches:
                logger.warning(
                    "epoch %d has %d batches and had %d when the checkpoint was saved: some "
                    "sentences will be trained on twice in it or not at all",
                    self.epoch, num_batches, state_dict["num_batches"],
                )
        super().load_state_dict(state_dict)

    def ordered_batches(self, epoch: int, fix_batches_to_gpus: bool, shuffle: bool) -> List[Batch]:
        """Return this rank's batches of what is left, [] where others have one and it has none.

        As in fairseq, fix_batches_to_gpus means nothing to a dataset that does not prefetch.
        """
        batches = list(self.frozen_batches)
        if shuffle:
            with data_utils.numpy_seed(self.seed + epoch):
                np.random.shuffle(batches)
        left = batches[self._num_before :]
        own = self.assign(left, self.num_shards)[:, self.shard_id].tolist()
        # only the last step may have nothing for this rank. It comes first in its update then:
        # fairseq's trainer takes an update that ends with nothing for one that had no batch at all
        if own and own[-1] < 0:
            own.insert((len(own) - 1) // self._freq(epoch) * self._freq(epoch), own.pop())
        return [left[i] if i >= 0 else [] for i in own]

    def _freq(self, epoch: int) -> int:
        """Return the steps in an update of an epoch."""
        return self.update_freq[min(epoch, len(self.update_freq)) - 1]

    def _get_iterator_for_epoch(
        self, epoch: int, shuffle: bool, fix_batches_to_gpus: bool = False, offset: int = 0
    ) -> Optional[iterators.CountingIterator]:
        """As in fairseq, for what is left of the epoch after the loaded state where offset > 0."""
        self._num_before = self._resumed_at if offset > 0 else 0
        num_batches = len(self.frozen_batches)
        if 0 < num_batches <= self._num_before:
            return None
        itr = super()._get_iterator_for_epoch(epoch, shuffle, fix_batches_to_gpus)
        update_freq = self._freq(epoch)
        if offset > 0 and self.skip_remainder_batch and len(itr) < update_freq:
            refuse(
                f"epoch {epoch} has no full update left for {self.num_shards} ranks with "
                f"--update-freq {update_freq}: resume without --skip-remainder-batch"
            )
        # GroupedIterator divides position and length by update_freq, each rounded up: it drops the
        # last update, and the epoch starts over, unless the position is a multiple of update_freq
        whole, left = (
            -(-num // (self.num_shards * update_freq))
            for num in (num_batches, num_batches - self._num_before)
        )
        self._first_step = (whole - left) * update_freq
        itr.n += self._first_step
        itr.total += self._first_step
        return itr


def world_size_independent_batches(
    stock: iterators.EpochBatchIterator, update_freq: Sequence[int],
    assign: Assignment = assign_in_turn,
) -> EpochBatches:
    """Return a stock iterator that is still unused, made resumable at any number of ranks.

    Args:
        stock: what fairseq's task made for training.
        update_freq: --update-freq.
        assign: as in EpochBatches.
    """
    if stock.grouped_shuffling:
        refuse(
            "--grouped-shuffling: it orders batches by the number of ranks and drops the last "
            "ones, so that no other number of ranks could resume: leave it out"
        )
    assert not stock._supports_prefetch, "a sampled dataset does not prefetch"
    settings = {name: getattr(stock, name) for name in SETTINGS}
    return EpochBatches(update_freq=update_freq, assign=assign, **settings)


def redraw_virtual_epoch(dataset: FairseqDataset, epoch: int) -> None:
    """Give a dataset just loaded the sentences that a run never stopped has in an epoch.

    A pass through the data is several epochs of --virtual-epoch-size, drawn when the pass begins.
    fairseq draws anew when it resumes in the middle of a pass: other sentences, some a second time.
    Not for data in several folders, which fairseq draws at another moment.
    """
    if isinstance(dataset, SampledMultiEpochDataset):
        first = epoch - (epoch - 1) % dataset.num_virtual_epochs
        if first != epoch:
            # drawing again must not count as going on to the next folder
            dataset.load_next_shard = None
            dataset.set_epoch(first)
            dataset.set_epoch(epoch)
