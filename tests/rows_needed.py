"""The least that a rank must send for a routing, from the routers' decisions alone.

Nothing of the dispatcher under test takes part. Shapes: B sentences, S positions, C model width,
K choices, E experts.
"""

from collections import Counter
from contextlib import contextmanager
from typing import Any, Iterator

import torch
import torch.nn as nn
from torch import Tensor

from fairseq_taskmoe.distributed.layout import ExpertLayout
from fairseq_taskmoe.modules.moe_layer import MoELayer
from fairseq_taskmoe.modules.routers import RouterOutput

CROSSINGS = 4  # to the experts and back, and the gradients of both


def rows_needed(
    routing: RouterOutput, token_mask: Tensor, layout: ExpertLayout, place: int
) -> "Counter[str]":
    """Return how many rows a rank sends for one layer's routing on the way to the experts.

    - minimum: each token once to each other rank with at least one of its experts
    - stay: tokens with an expert on this rank, which need not be sent
    """
    kept = (routing.gates > 0) & token_mask.unsqueeze(2)  # (B, S, K), of whole sentences as well
    experts = routing.expert_ids.expand(kept.shape)[kept]
    tokens = torch.arange(token_mask.numel()).view(*token_mask.shape, 1).expand(kept.shape)[kept]
    ranks = experts // layout.experts_per_rank
    destinations = torch.unique(tokens * layout.size + ranks) % layout.size
    return Counter({
        "minimum": int((destinations != place).sum()),
        "stay": int((destinations == place).sum()),
    })


@contextmanager
def counting_needs(model: nn.Module, layout: ExpertLayout, place: int) -> Iterator["Counter[str]"]:
    """Give the bytes that a training step needs for the rows of `rows_needed`, over all layers.

    A router that is run again, by --checkpoint-activations, counts again.
    """
    needed: "Counter[str]" = Counter()

    def count(router: nn.Module, args: Any, routing: RouterOutput) -> None:
        x, inputs = args  # x (B, S, C)
        crossing = CROSSINGS * x.size(2) * x.element_size()
        for name, rows in rows_needed(routing, inputs.token_mask, layout, place).items():
            needed[name] += crossing * rows

    layers = [module for module in model.modules() if isinstance(module, MoELayer)]
    handles = [layer.router.register_forward_hook(count) for layer in layers]
    try:
        yield needed
    finally:
        for handle in handles:
            handle.remove()
