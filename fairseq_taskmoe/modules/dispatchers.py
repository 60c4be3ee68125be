"""Dispatchers send rows to the devices of their experts, and return the results.

A dispatcher plans (for several layers at once), dispatches and combines. This one is for a device
that holds all experts; distributed/all_to_all_dispatcher.py has the other one. Shapes: B
sentences, S positions, T = B S rows, C model width, K experts per token, E experts.
"""

from typing import List, NamedTuple, Sequence

from torch import Tensor

from .expert_assignments import ExpertAssignments, sort_by_expert
from .routers import RouterOutput


class LocalPlan(NamedTuple):
    """One layer's plan where all experts are on this device."""

    assignments: ExpertAssignments


class LocalDispatcher:
    """The dispatcher of a device that holds all experts. Memory is linear in tokens."""

    def plan(self, routings: Sequence[RouterOutput], token_mask: Tensor) -> List[LocalPlan]:
        """Return a plan for each of L layers that route the same batch, token_mask (B, S).

        Padding and dropped choices are assigned to no expert.
        """
        experts, gates = [], []
        num_experts = [routing.probs.size(2) for routing in routings]
        for routing, n in zip(routings, num_experts, strict=True):
            expand = (*token_mask.shape, routing.gates.size(2))
            kept = token_mask.unsqueeze(2) & (routing.gates > 0)
            ids = routing.expert_ids.expand(expand).masked_fill(~kept, n)
            experts.append(ids.flatten(0, 1))
            gates.append(routing.gates.expand(expand).flatten(0, 1))
        return [LocalPlan(layer) for layer in sort_by_expert(experts, gates, num_experts)]

    def dispatch(self, x: Tensor, plan: LocalPlan) -> Tensor:
        """Return the rows (T, C) of x (B, S, C)."""
        return x.flatten(0, 1)

    def combine(self, rows: Tensor, plan: LocalPlan, x: Tensor) -> Tensor:
        """Return rows (T, C) in the shape of x."""
        return rows.view_as(x)

    def wire_rows(self, plan: LocalPlan) -> int:
        """Return the number of rows that one layer's forward pass sends to other devices: none."""
        return 0

    def fetch(self, weights: Tensor, expert_ids: Tensor) -> Tensor:
        """Return the weights (K, ...) of some experts, given a layer's stacked weights (E, ...)."""
        return weights[expert_ids.to(weights.device)]
