"""Random training batches with the shapes of real ones.

Shapes: B sentences, S source and T target positions.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np
import torch
from fairseq.data import Dictionary
from fairseq.data.data_utils import batch_by_size, collate_tokens
from torch import Tensor

from ..lengths import Lengths, draw_lengths

SENTENCES_MULTIPLE = 8  # fairseq's --required-batch-size-multiple

Batch = Dict[str, Any]


class BatchSize(NamedTuple):
    """The size of batches, as --max-tokens, and the length of sentences."""

    tokens: int = 4096  # positions of the longer side, padding included
    fixed_length: Optional[int] = None  # of all sentences; None: drawn from the table of lengths


def random_batches(
    number: int, size: BatchSize, dictionary: Dictionary, num_tasks: int, seed: int = 1
) -> List[Batch]:
    """Return batches as a task of this project collates them, in random order.

    Sentences are sorted by length and divided into batches as fairseq does, so that each batch has
    its own shape.
    """
    generator = torch.Generator().manual_seed(seed)
    if size.fixed_length is not None:
        one = [Lengths(size.fixed_length, size.fixed_length)] * (size.tokens // size.fixed_length)
        groups = [one] * number
    else:
        groups = draw_groups(number, size.tokens, generator)
    return [collate(group, dictionary, num_tasks, generator) for group in groups]


def draw_groups(number: int, tokens: int, generator: torch.Generator) -> List[List[Lengths]]:
    """Return the lengths of the sentences of each batch, drawn from the table of lengths."""
    drawn: List[Lengths] = []
    batches: Sequence[np.ndarray] = []
    while len(batches) < number:
        drawn += draw_lengths(number * tokens // 4, generator)
        # fairseq sorts by the lengths of sources, and those that are equal by those of targets
        longest = np.array([max(pair) for pair in drawn])
        batches = batch_by_size(
            np.array(sorted(range(len(drawn)), key=drawn.__getitem__)), longest.__getitem__,
            num_tokens_vec=None, max_tokens=tokens,
            required_batch_size_multiple=SENTENCES_MULTIPLE,
        )
    chosen = torch.randperm(len(batches), generator=generator)[:number]
    return [[drawn[i] for i in batches[batch]] for batch in chosen]


def collate(
    lengths: Sequence[Lengths], dictionary: Dictionary, num_tasks: int, generator: torch.Generator
) -> Batch:
    """Return random sentences of these lengths, sorted by task, and sources padded on the left."""
    num_sentences = len(lengths)
    sources, targets = (
        [random_sentence(pair[side], dictionary, generator) for pair in lengths]
        for side in range(2)
    )
    task_ids = torch.randint(num_tasks, (num_sentences,), generator=generator).sort().values
    pad, eos = dictionary.pad(), dictionary.eos()
    return {
        "net_input": {
            "src_tokens": collate_tokens(sources, pad, eos, left_pad=True),
            "src_lengths": torch.tensor([len(source) for source in sources]),
            "prev_output_tokens": collate_tokens(targets, pad, eos, move_eos_to_beginning=True),
            "task_ids": task_ids,
        },
        "target": collate_tokens(targets, pad, eos),
        "ntokens": sum(len(target) for target in targets),
        "nsentences": num_sentences,
    }


def random_sentence(length: int, dictionary: Dictionary, generator: torch.Generator) -> Tensor:
    """Return random words (length,) with the end of sentence as the last."""
    words = torch.randint(
        dictionary.nspecial, len(dictionary), (length,), generator=generator
    )
    words[-1] = dictionary.eos()
    return words


def padding(batches: Sequence[Batch], pad: int) -> float:
    """Return the share of source and target positions that are padding."""
    sides = [
        side for batch in batches for side in (batch["net_input"]["src_tokens"], batch["target"])
    ]
    return sum(int(side.eq(pad).sum()) for side in sides) / sum(side.numel() for side in sides)
