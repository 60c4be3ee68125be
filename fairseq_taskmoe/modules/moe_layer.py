"""The mixture-of-experts layer: router, dispatcher, experts, combine."""

from typing import Optional, Tuple

import torch.nn as nn
from torch import Tensor

from .dispatchers import LocalDispatcher
from .experts import Experts
from .gate_losses import GateStats, gate_stats
from .routers import RoutingInputs


class MoELayer(nn.Module):
    """Takes the place of a feed-forward network: each token visits K of E experts.

    Args:
        router: module from (x, RoutingInputs) to RouterOutput
        experts: module from (rows sorted by expert, rows per expert) to rows
    """

    def __init__(self, router: nn.Module, experts: Experts, num_experts: int):
        super().__init__()
        self.router = router
        self.experts = experts
        self.dispatcher = LocalDispatcher(num_experts)

    def forward(
        self, x: Tensor, inputs: RoutingInputs, with_stats: bool = True
    ) -> Tuple[Tensor, Optional[GateStats]]:
        """Return the weighted sum of each token's experts (B, S, C), and the routing's statistics.

        Padding comes back as zeros, and so does a token whose choices were all dropped: the
        residual connection carries it on.
        """
        routing = self.router(x, inputs)
        rows, plan = self.dispatcher.dispatch(x, routing, inputs.token_mask)
        rows = self.experts(rows, plan.counts)
        stats = gate_stats(routing, inputs.token_mask) if with_stats else None
        return self.dispatcher.combine(rows, plan, x), stats
