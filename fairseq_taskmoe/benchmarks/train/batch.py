"""Random training batches.

Shapes: B sentences, S source and T target positions.
"""

from typing import Any, Dict, List, NamedTuple

import torch
from fairseq.data import Dictionary
from fairseq.data.data_utils import collate_tokens
from torch import Tensor


class BatchSize(NamedTuple):
    """The number and the lengths of the sentences in a batch."""

    tokens: int = 4096  # positions on each side, padding included
    length: int = 32  # of a sentence; with ragged, of the longest
    ragged: bool = False


def random_batch(
    size: BatchSize, dictionary: Dictionary, num_tasks: int, device: str
) -> Dict[str, Any]:
    """Return a batch as fairseq collates it, with sources padded on the left.

    Without ragged there is no padding, and the tasks alternate. With it, the lengths of both sides
    are drawn so that about an eighth is padding, as in batches of sentences of similar length, and
    the tasks are in random order.
    """
    generator = torch.Generator().manual_seed(1)
    num_sentences = size.tokens // size.length
    sources, targets = (
        [
            random_sentence(length, dictionary, generator)
            for length in lengths(num_sentences, size, generator)
        ]
        for _ in range(2)
    )
    task_ids = torch.arange(num_sentences) % num_tasks
    if size.ragged:
        task_ids = task_ids[torch.randperm(num_sentences, generator=generator)]
    pad, eos = dictionary.pad(), dictionary.eos()
    shifted = collate_tokens(targets, pad, eos, move_eos_to_beginning=True)
    net_input = {
        "src_tokens": collate_tokens(sources, pad, eos, left_pad=True),
        "src_lengths": torch.tensor([len(source) for source in sources]),
        "prev_output_tokens": shifted,
        "task_ids": task_ids,
    }
    return {
        "net_input": {name: tensor.to(device) for name, tensor in net_input.items()},
        "target": collate_tokens(targets, pad, eos).to(device),
        "ntokens": sum(len(target) for target in targets),
        "nsentences": num_sentences,
    }


def lengths(num_sentences: int, size: BatchSize, generator: torch.Generator) -> List[int]:
    """Return the lengths of one side's sentences; the first has the maximum length."""
    if not size.ragged:
        return [size.length] * num_sentences
    shortest = max(2, round(0.75 * size.length))
    drawn = torch.randint(shortest, size.length + 1, (num_sentences,), generator=generator)
    drawn[0] = size.length
    return drawn.tolist()


def random_sentence(length: int, dictionary: Dictionary, generator: torch.Generator) -> Tensor:
    """Return random words (length,) with the end of sentence as the last."""
    words = torch.randint(
        dictionary.nspecial, len(dictionary), (length,), generator=generator
    )
    words[-1] = dictionary.eos()
    return words
