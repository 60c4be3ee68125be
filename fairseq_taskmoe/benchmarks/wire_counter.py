"""Count what a rank really sends, and what the routing at hand needs at the least.

The first is counted where tensors are handed to torch.distributed; the second follows from the
routers' decisions alone. Nothing of the dispatcher that is measured takes part in either.

Shapes: B sentences, S positions, C model width, K choices, E experts.
"""

import math
from collections import Counter
from contextlib import contextmanager
from typing import Any, Iterator, List, NamedTuple, Optional
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor

from ..distributed.layout import ExpertLayout
from ..modules.moe_layer import MoELayer
from ..modules.routers import RouterOutput

CROSSINGS = 4  # to the experts and back, and the gradients of both
CAPACITY_FACTOR = 2.0  # GShard's for two experts a token


class Sent(NamedTuple):
    """What one rank handed to collectives: rows, facts, counts, all_reduce.

    `rows` are tokens and their gradients, `facts` say which experts and gates they have, `counts`
    how many are to come. `all_reduce` is the size of the tensors: gradients, and a few sums.
    """

    num_bytes: "Counter[str]"  # for other ranks alone, but for all_reduce
    calls: "Counter[str]"

    def clear(self) -> None:
        self.num_bytes.clear()
        self.calls.clear()


@contextmanager
def counting_collectives(facts_width: int) -> Iterator[Sent]:
    """Give what this process sends from now on.

    facts_width tells facts from rows: the numbers of a unit's facts, 1 + 2 K.
    """
    sent = Sent(Counter(), Counter())
    exchange, reduce = dist.all_to_all_single, dist.all_reduce

    def counted_exchange(
        output: Tensor, source: Tensor, output_sizes: Optional[List[int]] = None,
        input_sizes: Optional[List[int]] = None, group: Any = None, async_op: bool = False,
    ) -> Any:
        kind = "counts"
        if source.is_floating_point():
            kind = "facts" if source.size(1) == facts_width else "rows"
        size, place = dist.get_world_size(group), dist.get_rank(group)
        sizes = input_sizes or [source.size(0) // size] * size
        row_bytes = math.prod(source.shape[1:]) * source.element_size()
        sent.num_bytes[kind] += (sum(sizes) - sizes[place]) * row_bytes
        sent.calls[kind] += 1
        return exchange(output, source, output_sizes, input_sizes, group, async_op)

    def counted_reduce(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        sent.num_bytes["all_reduce"] += tensor.numel() * tensor.element_size()
        sent.calls["all_reduce"] += 1
        return reduce(tensor, *args, **kwargs)

    with (
        patch.object(dist, "all_to_all_single", counted_exchange),
        patch.object(dist, "all_reduce", counted_reduce),
    ):
        yield sent


def rows_needed(
    routing: RouterOutput, token_mask: Tensor, layout: ExpertLayout, place: int
) -> "Counter[str]":
    """Return how many rows a rank sends for one layer's routing on the way to the experts.

    - minimum: each token once to each other rank with at least one of its experts
    - stay: tokens with an expert on this rank, which need not be sent
    - each_choice: each token once for each of its experts on other ranks
    - unsorted: each token once for each of its experts, this rank's included
    - capacity: all-to-all of equal parts, CAPACITY_FACTOR * tokens / E for each expert elsewhere
    - dropped: of unsorted, what finds no room there
    - capacity_for_all: equal parts as large as this rank's most wanted expert needs
    """
    kept = (routing.gates > 0) & token_mask.unsqueeze(2)  # (B, S, K), of whole sentences as well
    experts = routing.expert_ids.expand(kept.shape)[kept]
    tokens = torch.arange(token_mask.numel(), device=kept.device).view(*token_mask.shape, 1)
    places = experts // layout.experts_per_rank
    visits = torch.unique(tokens.expand(kept.shape)[kept] * layout.size + places) % layout.size
    loads = torch.bincount(experts, minlength=layout.num_experts)
    capacity = math.ceil(CAPACITY_FACTOR * int(token_mask.sum()) / layout.num_experts)
    elsewhere = layout.num_experts - layout.experts_per_rank
    return Counter({
        "minimum": int((visits != place).sum()),
        "stay": int((visits == place).sum()),
        "each_choice": int((places != place).sum()),
        "unsorted": experts.numel(),
        "capacity": elsewhere * capacity,
        "dropped": int((loads - capacity).clamp(min=0).sum()),
        "capacity_for_all": elsewhere * int(loads.max()),
    })


@contextmanager
def counting_needs(model: nn.Module, layout: ExpertLayout, place: int) -> Iterator["Counter[str]"]:
    """Give the bytes of a training step that what `rows_needed` counts takes, all layers together.

    Routers are listened to; one that is run again, by --checkpoint-activations, counts again.
    """
    needed: "Counter[str]" = Counter()

    def listen(router: nn.Module, args: Any, routing: RouterOutput) -> None:
        x, inputs = args  # x (B, S, C)
        crossing = CROSSINGS * x.size(2) * x.element_size()
        for name, rows in rows_needed(routing, inputs.token_mask, layout, place).items():
            needed[name] += crossing * rows

    layers = [module for module in model.modules() if isinstance(module, MoELayer)]
    handles = [layer.router.register_forward_hook(listen) for layer in layers]
    try:
        yield needed
    finally:
        for handle in handles:
            handle.remove()
