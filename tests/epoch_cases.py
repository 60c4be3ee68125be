"""Epochs of made-up datasets, and of a task's real ones, at any number of ranks."""

import io

import torch
from console import TRAIN
from fairseq import options, tasks
from fairseq.data import iterators
from fairseq.dataclass.utils import convert_namespace_to_omegaconf


def go(ranks, update_freq, num_updates=None, skip_remainder_batch=False, **flags):
    """Train updates, or all that are left of the epoch: the batches in the order of the list."""
    grouped = [
        iterators.GroupedIterator(rank.next_epoch_itr(**flags), update_freq, skip_remainder_batch)
        for rank in ranks
    ]
    trained = []
    while grouped[0].has_next() and num_updates != 0:
        chunks = [next(group) for group in grouped]
        assert len({len(chunk) for chunk in chunks}) == 1  # else ranks would wait for one another
        # a rank that has nothing in the last step is idle in the update's first one instead
        chunks = [sorted(chunk, key=lambda batch: not batch) for chunk in chunks]
        trained += [batch for step in zip(*chunks, strict=True) for batch in step if batch]
        num_updates = None if num_updates is None else num_updates - 1
    assert len({group.has_next() for group in grouped}) == 1
    assert all(group.has_next() != rank.end_of_epoch() for group, rank in
               zip(grouped, ranks, strict=True))
    return trained


def state_of(ranks):
    """Return the one state that all ranks are in, as it comes out of a file."""
    states = [rank.state_dict() for rank in ranks]
    assert all(state == states[0] for state in states)
    file = io.BytesIO()
    torch.save(states[0], file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def load_task(corpus, *flags):
    """Return the real task with the corpus loaded to train on."""
    words = [str(word) for word in (corpus.data, *TRAIN, *flags)]
    args = options.parse_args_and_arch(options.get_training_parser(), words)
    task = tasks.setup_task(convert_namespace_to_omegaconf(args).task)
    task.load_dataset("train", epoch=1)
    return task


def sentences(batch):
    """Return the sentences of a collated batch: their task ids and numbers in their pairs."""
    return list(zip(batch["net_input"]["task_ids"].tolist(), batch["id"].tolist(), strict=True))
