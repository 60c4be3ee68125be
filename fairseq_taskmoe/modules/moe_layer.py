"""The mixture-of-experts layer: router, dispatcher, experts, combine."""

from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import torch.nn as nn
from torch import Tensor

from .dispatchers import LocalDispatcher
from .experts import Experts
from .gate_losses import GateStats, gate_stats
from .routers import RouterOutput, RoutingInputs


class Route(NamedTuple):
    """A layer's routing of a batch, and the dispatcher's plan for it."""

    routing: RouterOutput
    plan: Any


class MoELayer(nn.Module):
    """Takes the place of a feed-forward network: each token visits K of E experts.

    Args:
        router: module from (x, RoutingInputs) to RouterOutput
        experts: module from (rows sorted by expert, rows per expert) to rows
        dispatcher: moves rows to the experts and back (default: all experts are here)
    """

    def __init__(self, router: nn.Module, experts: Experts, dispatcher: Any = None):
        super().__init__()
        self.router = router
        self.experts = experts
        self.dispatcher = dispatcher or LocalDispatcher(experts.num_experts)

    def forward(
        self, x: Tensor, inputs: RoutingInputs, route: Optional[Route] = None,
        with_stats: bool = True,
    ) -> Tuple[Tensor, Optional[GateStats]]:
        """Return the weighted sum of each token's experts (B, S, C), and the routing's statistics.

        Routes x unless that was done ahead. Padding comes back as zeros, and so does a token whose
        choices were all dropped: the residual connection carries it on.
        """
        if route is None:
            routing = self.router(x, inputs)
            route = Route(routing, self.dispatcher.plan([routing], inputs.token_mask)[0])
        rows, counts = self.dispatcher.dispatch(x, route.plan)
        rows = self.experts(rows, counts)
        stats = None
        if with_stats:
            wire_bytes = self.dispatcher.wire_rows(route.plan) * x.size(2) * x.element_size()
            stats = gate_stats(route.routing, inputs.token_mask, wire_bytes)
        return self.dispatcher.combine(rows, route.plan, x), stats


def route_ahead(
    layers: Sequence[Optional[MoELayer]], x: Tensor, inputs: RoutingInputs
) -> List[Optional[Route]]:
    """Route the layers that need not see their own input, all at once; None for the others.

    A task's route, say, is known when the batch arrives: the plans of all layers then take one
    exchange between ranks, and one wait for the device. x (B, S, C) is the first layer's input.
    """
    ahead = [moe is not None and not moe.router.reads_input(inputs) for moe in layers]
    chosen = [moe for moe, is_ahead in zip(layers, ahead, strict=True) if moe and is_ahead]
    if not chosen:
        return [None] * len(layers)
    routings = [moe.router(x, inputs) for moe in chosen]
    plans = chosen[0].dispatcher.plan(routings, inputs.token_mask)
    routes = iter([Route(*pair) for pair in zip(routings, plans, strict=True)])
    return [next(routes) if is_ahead else None for is_ahead in ahead]
