"""Dispatchers: how rows get to their experts and back.

A dispatcher plans (which rows go where, for several layers at once), dispatches and combines.
Shapes: L layers, B sentences, S positions, C model width, K experts per token, E experts, T rows to
choose from, R rows to compute (a real token and one of its choices; padding and dropped choices are
no rows).
"""

from typing import Any, List, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor

from .routers import RouterOutput


class DispatchPlan(NamedTuple):
    """Where one layer's rows come from, and with which weight they return."""

    positions: Tensor  # (R,) int64, which of the T rows, sorted by expert
    gates: Tensor  # (R, 1)
    counts: List[int]  # E numbers of rows


class LocalDispatcher:
    """All experts are on this device: sort the rows by expert, compute, add up.

    Memory is linear in tokens.
    """

    def __init__(self, num_experts: int):
        self.num_experts = num_experts

    def plan(self, routings: Sequence[RouterOutput], token_mask: Tensor) -> List[DispatchPlan]:
        """Return a plan for each of L layers that route the same batch, token_mask (B, S)."""
        experts, gates = [], []
        for routing in routings:
            top_k = routing.gates.size(2)
            expand = (*token_mask.shape, top_k)
            kept = token_mask.unsqueeze(2) & (routing.gates > 0)
            ids = routing.expert_ids.expand(expand).masked_fill(~kept, self.num_experts)
            experts.append(ids.flatten(0, 1))
            gates.append(routing.gates.expand(expand).flatten(0, 1))
        return sort_by_expert(experts, gates, self.num_experts)

    def dispatch(self, x: Tensor, plan: DispatchPlan) -> Tuple[Tensor, List[int]]:
        """Return the rows (R, C) of x (B, S, C), sorted by expert, and how many each expert has."""
        return GatherRows.apply(x.flatten(0, 1), plan.positions), plan.counts

    def combine(self, rows: Tensor, plan: DispatchPlan, x: Tensor) -> Tensor:
        """Return the experts' outputs rows (R, C), weighted and added up in the shape of x."""
        weighted = rows * plan.gates
        return AddRows.apply(weighted, plan.positions, x.size(0) * x.size(1)).view_as(x)

    def wire_rows(self, plan: DispatchPlan) -> int:
        """Return how many rows of one layer's forward pass leave this device: none."""
        return 0

    def fetch(self, weights: Tensor, expert_ids: Tensor) -> Tensor:
        """Return some experts' (K, ...) of a layer's stacked weights (E, ...)."""
        return weights[expert_ids.to(weights.device)]


def sort_by_expert(
    experts: Sequence[Tensor], gates: Sequence[Tensor], num_experts: int
) -> List[DispatchPlan]:
    """Return a plan for each layer's experts (T, K) and gates (T, K).

    An expert number of num_experts says that there is no such choice. All layers' counts come from
    the device at once.
    """
    flat = [ids.flatten() for ids in experts]
    counts = torch.stack([torch.bincount(ids, minlength=num_experts + 1) for ids in flat]).tolist()
    plans = []
    for ids, gate, count in zip(flat, gates, counts, strict=True):
        # what there is not is sorted behind the last expert
        choices = ids.argsort(stable=True)[: ids.numel() - count.pop()]
        sorted_gates = GatherRows.apply(gate.reshape(-1, 1), choices)
        plans.append(DispatchPlan(choices // gate.size(1), sorted_gates, count))
    return plans


class GatherRows(torch.autograd.Function):
    """source[positions], whose backward adds rows instead of sorting indices once more."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, positions: Tensor) -> Tensor:
        ctx.save_for_backward(positions)
        ctx.num_rows = source.size(0)
        return source[positions]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None]:
        (positions,) = ctx.saved_tensors
        return AddRows.apply(grad, positions, ctx.num_rows), None


class AddRows(torch.autograd.Function):
    """Rows added up at positions of an otherwise zero matrix: the adjoint of GatherRows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, positions: Tensor, num_rows: int) -> Tensor:
        ctx.save_for_backward(positions)
        return rows.new_zeros(num_rows, rows.size(1)).index_add_(0, positions, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None, None]:
        (positions,) = ctx.saved_tensors
        return GatherRows.apply(grad, positions), None, None
