"""Products of all experts in one kernel, for bfloat16 on GPUs that support it.

The host never waits for the device: sizes are those of the batch, and only the device knows where
the rows of an expert end.

Shapes: T rows (tokens), R assignments (a row and one of its experts), C model width, F width of an
expert, E experts, I inputs and O outputs of a matrix.
"""

from typing import Any, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .expert_assignments import AddRows, ExpertAssignments, GatherRows
from .expert_execution import ALIGNED


def with_dropped(assignments: ExpertAssignments) -> ExpertAssignments:
    """Return the assignments with dropped choices given to the last expert, with a gate of 0.

    They cannot be left out, since the host does not know their number.
    """
    ends = assignments.ends.clone()
    ends[-1] = assignments.rows.numel()
    return assignments._replace(ends=ends)


def up_project_grouped(
    rows: Tensor, weight: Tensor, bias: Tensor, assignments: ExpertAssignments
) -> Tensor:
    """Return hidden (R, F): each assigned row of rows (T, C) through its expert's first matrix.

    weight (E, F, C) and bias (E, 1, F) are stacked. The inputs of dropped choices are
    zeros, since rows of padding may hold anything.
    """
    places = torch.arange(assignments.rows.numel(), device=rows.device)
    dropped = (places >= assignments.ends[-1]).unsqueeze(1)
    inputs = GatherRows.apply(rows, assignments.rows).masked_fill(dropped, 0)
    return _grouped_linear(inputs, weight, bias, with_dropped(assignments).ends)


def down_project_and_combine_grouped(
    hidden: Tensor, weight: Tensor, bias: Tensor, assignments: ExpertAssignments, num_rows: int
) -> Tensor:
    """Return (T, C): hidden (R, F) through the second matrices, weighted by gates and summed.

    weight (E, C, F) and bias (E, 1, C) are stacked; T is num_rows.
    """
    expert_output = _grouped_linear(hidden, weight, bias, with_dropped(assignments).ends)
    return AddRows.apply(expert_output * assignments.gates, assignments.rows, num_rows)


def _grouped_linear(x: Tensor, weight: Tensor, bias: Tensor, ends: Tensor) -> Tensor:
    return _GroupedLinear.apply(x, weight.to(x.dtype), bias.to(x.dtype), ends)


class _GroupedLinear(torch.autograd.Function):
    """x (R, I), sorted by expert, to (R, O), each row through the linear map of its expert."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, ends: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, ends)
        out = F.grouped_mm(x, weight.transpose(1, 2), offs=ends)
        places = torch.arange(out.size(0), device=out.device)
        experts = torch.searchsorted(ends, places, right=True)
        return out.add_(bias.squeeze(1)[experts])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, weight, ends = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = grad_weight = grad_bias = None
        # a kernel may write anything for groups without rows (PyTorch issue 172439)
        empty = (ends.diff(prepend=ends.new_zeros(1)) == 0).view(-1, 1, 1)
        if ctx.needs_input_grad[0]:
            grad_x = F.grouped_mm(grad, weight, offs=ends)
        if ctx.needs_input_grad[1]:
            grad_weight = F.grouped_mm(grad.t(), x, offs=ends).masked_fill_(empty, 0)
        if ctx.needs_input_grad[2]:
            # each expert's sum over its rows as a product: index_add would be slow, with many rows
            # added to a few places, and would round intermediate sums to bfloat16
            ones = grad.new_ones(grad.size(0), ALIGNED)
            grad_bias = F.grouped_mm(ones.t(), grad, offs=ends)[:, :1].masked_fill(empty, 0)
        return grad_x, grad_weight, grad_bias, None
