"""Encoder outputs that are shared by the hypotheses of a sentence in beam search.

A beam search has H hypotheses for each of B sentences. fairseq first repeats each row H times,
to R = H B rows, then reorders rows by beam, and removes all hypotheses of a finished sentence.
What is the same for all hypotheses of a sentence is stored once, which saves memory and copies, and
attention computes H queries at once.
"""

import torch
from torch import Tensor


def begins_search(new_order: Tensor, num_sentences: int) -> bool:
    """Return whether new_order (R,) repeats each sentence, as at the start of a beam search."""
    num_hypotheses, rest = divmod(new_order.numel(), max(1, num_sentences))
    if num_hypotheses < 2 or rest:
        return False
    sentences = torch.arange(num_sentences, device=new_order.device).unsqueeze(1)
    return bool((new_order.view(num_sentences, num_hypotheses) == sentences).all())


def reorder_sentences(
    value: Tensor, new_order: Tensor, num_hypotheses: int = 1, dim: int = 0
) -> Tensor:
    """Return value for the rows new_order (R',); it has one entry for num_hypotheses rows.

    Entries are along dim. With several hypotheses, those of a sentence are adjacent rows.
    """
    if num_hypotheses > 1:
        if new_order.numel() == value.size(dim) * num_hypotheses:
            return value  # no sentence is finished
        new_order = new_order.view(-1, num_hypotheses)[:, 0] // num_hypotheses
    return value.index_select(dim, new_order)
