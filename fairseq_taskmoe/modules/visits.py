"""Visits: which rows go to which experts, sorted by expert.

Shapes: T rows (tokens), K choices, R visits (a row and one of its experts), E experts.
"""

from typing import Any, List, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor


class Visits(NamedTuple):
    """The visits of one layer, sorted by expert."""

    rows: Tensor  # (R,) int64, of T rows; ascending within an expert
    gates: Tensor  # (R, 1), weight of what the expert says
    counts: List[int]  # E numbers of visits


def sort_by_expert(
    experts: Sequence[Tensor], gates: Sequence[Tensor], num_experts: int
) -> List[Visits]:
    """Return the visits for each layer's experts (T, K) and gates (T, K).

    An expert number of num_experts says that there is no such choice. All layers' counts come from
    the device at once.
    """
    flat = [ids.flatten() for ids in experts]
    counts = torch.stack([torch.bincount(ids, minlength=num_experts + 1) for ids in flat]).tolist()
    layers = []
    for ids, gate, count in zip(flat, gates, counts, strict=True):
        # what there is not is sorted behind the last expert
        choices = ids.argsort(stable=True)[: ids.numel() - count.pop()]
        sorted_gates = GatherRows.apply(gate.reshape(-1, 1), choices)
        layers.append(Visits(choices // gate.size(1), sorted_gates, count))
    return layers


class GatherRows(torch.autograd.Function):
    """source[rows], whose backward adds rows instead of sorting indices once more."""

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
    """Rows added up at places of an otherwise zero matrix: the adjoint of GatherRows."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, rows: Tensor, num_rows: int) -> Tensor:
        ctx.save_for_backward(rows)
        return source.new_zeros(num_rows, source.size(1)).index_add_(0, rows, source)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return GatherRows.apply(grad, rows), None, None
