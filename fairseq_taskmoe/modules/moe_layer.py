"""The mixture-of-experts layer: router, dispatcher, experts, combine."""

from typing import Any, Iterable, List, NamedTuple, Optional, Tuple

import torch.nn as nn
from torch import Tensor

from .dispatchers import LocalDispatcher
from .experts import Experts
from .gate_losses import GateStats, gate_stats
from .routers import RouterOutput, RoutingInputs, TaskRouter


class Route(NamedTuple):
    """A layer's routing of a batch, and the dispatcher's plan for it."""

    routing: RouterOutput
    plan: Any


class MoELayer(nn.Module):
    """Replaces a feed-forward network: each token is processed by K of E experts.

    Args:
        router: module from (x, RoutingInputs) to RouterOutput
        experts: module from (rows, ExpertAssignments) to the weighted sums of expert outputs
        dispatcher: sends rows to the experts and back (default: all experts are on this device)
    """

    def __init__(self, router: nn.Module, experts: Experts, dispatcher: Any = None):
        super().__init__()
        self.router = router
        self.experts = experts
        self.dispatcher = dispatcher or LocalDispatcher()

    def forward(
        self, x: Tensor, inputs: RoutingInputs, route: Optional[Route] = None,
        with_stats: bool = True,
    ) -> Tuple[Tensor, Optional[GateStats]]:
        """Return the weighted sum of each token's experts (B, S, C), and the routing's statistics.

        Routes x unless a route is given. The output is zero for padding and for tokens whose
        choices were all dropped, which the residual connection passes on unchanged.
        """
        if route is None:
            routing = self.router(x, inputs)
            route = Route(routing, self.dispatcher.plan([routing], inputs.token_mask)[0])
        rows = self.dispatcher.dispatch(x, route.plan)
        rows = self.experts(rows, route.plan.assignments)
        stats = None
        if with_stats:
            wire_bytes = self.dispatcher.wire_rows(route.plan) * x.size(2) * x.element_size()
            stats = gate_stats(route.routing, inputs.token_mask, wire_bytes)
            if inputs.task_tokens is not None and self.training:
                if isinstance(self.router, TaskRouter):
                    balance = self.router.balance_over_tasks(inputs.task_tokens)
                    stats = stats._replace(balance=balance)
        return self.dispatcher.combine(rows, route.plan, x), stats


def route_ahead(
    layers: Iterable[nn.Module], x: Tensor, inputs: RoutingInputs
) -> List[Optional[Route]]:
    """Route the layers whose routers do not depend on the layer's own input, all at once.

    The routes of tasks, for example, are known before the first layer: planning all layers together
    takes one exchange between ranks and one wait for the device. x (B, S, C) is the input of the
    first layer. Returns a route for each layer, None if it is dense or depends on its input.
    """
    moes: List[Any] = [layer.moe for layer in layers]
    chosen = [moe for moe in moes if moe is not None and not moe.router.reads_input(inputs)]
    if not chosen:
        return [None] * len(moes)
    routings = [moe.router(x, inputs) for moe in chosen]
    plans = chosen[0].dispatcher.plan(routings, inputs.token_mask)
    routes = {id(moe): Route(*pair) for moe, *pair in zip(chosen, routings, plans, strict=True)}
    return [routes.get(id(moe)) for moe in moes]
