"""The assignment of rows to experts, sorted by expert.

Shapes: T rows (tokens), K choices, R assignments (a row and one of its experts), E experts.
"""

from typing import Any, List, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor


class ExpertAssignments(NamedTuple):
    """The assignments of one layer, sorted by expert; dropped choices come last."""

    rows: Tensor  # (R,) int64, indices of rows (0 to T - 1), ascending within an expert
    gates: Tensor  # (R, 1), weights of the experts' outputs; 0 for dropped choices
    ends: Tensor  # (E,) int32, end of each expert's assignments; the dropped ones follow

    def counts(self) -> List[int]:
        """Return the number of assignments of each expert; with a GPU, the host waits for it."""
        ends = [0, *self.ends.tolist()]
        return [end - start for start, end in zip(ends, ends[1:], strict=False)]


def sort_by_expert(
    experts: Sequence[Tensor], gates: Sequence[Tensor], num_experts: Sequence[int],
    leave_out: bool = False,
) -> List[ExpertAssignments]:
    """Return the assignments of each layer, given its experts (T, K), gates (T, K) and num_experts.

    The expert number num_experts marks a dropped choice. leave_out removes dropped choices from
    the result, for which the host has to wait for a GPU to count them.
    """
    counts = [ids.numel() for ids in experts]
    if leave_out:
        present = [(ids < n).sum() for ids, n in zip(experts, num_experts, strict=True)]
        counts = torch.stack(present).tolist()
    numbers = torch.arange(max(num_experts), device=experts[0].device)
    layers = []
    for ids, gate, n, count in zip(experts, gates, num_experts, counts, strict=True):
        gate = gate.masked_fill(ids == n, 0)
        order, choices = ids.flatten().sort(stable=True)
        order, choices = order[:count], choices[:count]
        ends = torch.searchsorted(order, numbers[:n], right=True, out_int32=True)
        sorted_gates = GatherRows.apply(gate.reshape(-1, 1), choices)
        layers.append(ExpertAssignments(choices // gate.size(1), sorted_gates, ends))
    return layers


class GatherRows(torch.autograd.Function):
    """source[rows], with a backward that adds rows and sorts no indices."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.num_rows = source.size(0)
        return source[rows]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return AddRows.apply(grad, rows, ctx.num_rows), None


class AddRows(torch.autograd.Function):
    """The adjoint of GatherRows: rows are added to a matrix of zeros."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, rows: Tensor, num_rows: int) -> Tensor:
        ctx.save_for_backward(rows)
        return source.new_zeros(num_rows, source.size(1)).index_add_(0, rows, source)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return GatherRows.apply(grad, rows), None, None
