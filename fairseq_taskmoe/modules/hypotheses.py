"""Hypotheses of one sentence: they share what belongs to the sentence, and stand side by side.

A beam search has H hypotheses for each of B sentences. It asks for rows to be repeated, so that
there are R = H B, and then to be put in the order of its beams; a sentence that is finished leaves
with all of its hypotheses. What is the same for all H is kept once: less memory, less copying, and
attention of H queries at once.
"""

import torch
from torch import Tensor


def begins_search(new_order: Tensor, num_sentences: int) -> bool:
    """Say whether new_order (R,) repeats each sentence in its place, as a beam search begins."""
    num_hypotheses, rest = divmod(new_order.numel(), max(1, num_sentences))
    if num_hypotheses < 2 or rest:
        return False
    sentences = torch.arange(num_sentences, device=new_order.device).unsqueeze(1)
    return bool((new_order.view(num_sentences, num_hypotheses) == sentences).all())


def reorder_sentences(
    value: Tensor, new_order: Tensor, num_hypotheses: int = 1, dim: int = 0
) -> Tensor:
    """Return value for the rows new_order (R',), where it has one place for num_hypotheses rows.

    Places are along dim. Rows keep to their sentence's side where there are several.
    """
    if num_hypotheses > 1:
        if new_order.numel() == value.size(dim) * num_hypotheses:
            return value  # no sentence is finished
        new_order = new_order.view(-1, num_hypotheses)[:, 0] // num_hypotheses
    return value.index_select(dim, new_order)
