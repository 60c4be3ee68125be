"""Dispatchers: how rows get to their experts and back.

Shapes: B sentences, S positions, C model width, K experts per token, E experts, R rows to compute.
"""

from typing import Any, List, NamedTuple, Tuple

import torch
from torch import Tensor

from .routers import RouterOutput


class DispatchPlan(NamedTuple):
    """Where rows come from, and with which weight they return."""

    positions: Tensor  # (R,) int64, row of the flattened batch (B * S), sorted by expert
    gates: Tensor  # (R, 1)
    counts: List[int]  # E numbers of rows


class LocalDispatcher:
    """All experts are on this device: sort the rows by expert, compute, add up.

    A row is a real token and one of its choices; padding and dropped choices are no rows. Memory
    is linear in tokens.
    """

    def __init__(self, num_experts: int):
        self.num_experts = num_experts

    def dispatch(
        self, x: Tensor, routing: RouterOutput, token_mask: Tensor
    ) -> Tuple[Tensor, DispatchPlan]:
        """Return the rows (R, C) of x (B, S, C), sorted by expert, and the plan to return them."""
        batch, length = token_mask.shape
        top_k = routing.gates.size(2)
        gates = routing.gates.expand(batch, length, top_k).flatten()
        experts = routing.expert_ids.expand(batch, length, top_k)
        kept = token_mask.unsqueeze(2) & (routing.gates > 0)
        # what stays out is sorted behind the last expert
        experts = experts.masked_fill(~kept, self.num_experts).flatten()
        counts = torch.bincount(experts, minlength=self.num_experts + 1).tolist()
        choices = experts.argsort(stable=True)[: experts.numel() - counts.pop()]
        positions = choices // top_k
        plan = DispatchPlan(positions, _GatherRows.apply(gates.unsqueeze(1), choices), counts)
        return _GatherRows.apply(x.flatten(0, 1), positions), plan

    def combine(self, rows: Tensor, plan: DispatchPlan, x: Tensor) -> Tensor:
        """Return the experts' outputs rows (R, C), weighted and added up in the shape of x."""
        weighted = rows * plan.gates
        return _AddRows.apply(weighted, plan.positions, x.size(0) * x.size(1)).view_as(x)


class _GatherRows(torch.autograd.Function):
    """source[positions], whose backward adds rows instead of sorting indices once more."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, positions: Tensor) -> Tensor:
        ctx.save_for_backward(positions)
        ctx.num_rows = source.size(0)
        return source[positions]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None]:
        (positions,) = ctx.saved_tensors
        return _AddRows.apply(grad, positions, ctx.num_rows), None


class _AddRows(torch.autograd.Function):
    """Rows added up at positions of an otherwise zero matrix: the adjoint of _GatherRows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, positions: Tensor, num_rows: int) -> Tensor:
        ctx.save_for_backward(positions)
        return rows.new_zeros(num_rows, rows.size(1)).index_add_(0, positions, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None, None]:
        (positions,) = ctx.saved_tensors
        return _GatherRows.apply(grad, positions), None, None
