"""Products of all experts at once, in one kernel: for bfloat16 on GPUs that have one.

Nothing here asks the device for a number: sizes are those of the batch, and where one expert's rows
end is known to the device alone. So the host never waits.

Shapes: T rows (tokens), R visits (a row and one of its experts), C model width, F width of an
expert, E experts, I inputs and O outputs of a matrix.
"""

from typing import Any, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .visits import AddRows, GatherRows, Visits

ALIGNED = 8  # bfloat16 numbers in the 16 bytes that rows must be a multiple of


def groups_products(weight: Tensor, dtype: torch.dtype) -> bool:
    """Say whether products with stacked weight (E, O, I) in a type are best done by grouped_mm.

    It is one kernel for bfloat16 from compute capability 9.0 on (Hopper), and elsewhere a loop
    that first fetches the sizes from the device.
    """
    if weight.device.type != "cuda" or dtype != torch.bfloat16:
        return False
    if not hasattr(F, "grouped_mm") or weight.size(1) % ALIGNED or weight.size(2) % ALIGNED:
        return False
    return torch.cuda.get_device_capability(weight.device) >= (9, 0)


def visit_grouped(rows: Tensor, weight: Tensor, bias: Tensor, visits: Visits) -> Tensor:
    """Return hidden (R, F): each visit of rows (T, C) through its expert's first matrix.

    weight (E, F, C) and bias (E, 1, F) are stacked.
    """
    return _grouped_linear(GatherRows.apply(rows, visits.rows), weight, bias, visits)


def answer_grouped(
    hidden: Tensor, weight: Tensor, bias: Tensor, visits: Visits, num_rows: int
) -> Tensor:
    """Return (T, C): hidden (R, F) through the second matrices, weighted by gates, added up.

    weight (E, C, F) and bias (E, 1, C) are stacked; T is num_rows.
    """
    said = _grouped_linear(hidden, weight, bias, visits)
    return AddRows.apply(said * visits.gates, visits.rows, num_rows)


def _grouped_linear(x: Tensor, weight: Tensor, bias: Tensor, visits: Visits) -> Tensor:
    return _GroupedLinear.apply(x, weight.to(x.dtype), bias.to(x.dtype), visits)


class _GroupedLinear(torch.autograd.Function):
    """x (R, I), sorted by expert, to (R, O), each row through the linear map of its expert."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, visits: Visits) -> Tensor:
        ctx.save_for_backward(x, weight, visits.ends)
        out = F.grouped_mm(x, weight.transpose(1, 2), offs=visits.ends)
        places = torch.arange(out.size(0), device=out.device)
        experts = torch.searchsorted(visits.ends, places, right=True)
        return out.add_(bias.squeeze(1)[experts])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, weight, ends = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = F.grouped_mm(grad, weight, offs=ends)
        if ctx.needs_input_grad[1]:
            grad_weight = F.grouped_mm(grad.t(), x, offs=ends)
        if ctx.needs_input_grad[2]:
            # each expert's sum over its rows, as a product: adding them up by index would be slow,
            # with all rows waiting for a few places, and would round each sum to bfloat16
            ones = grad.new_ones(grad.size(0), ALIGNED)
            grad_bias = F.grouped_mm(ones.t(), grad, offs=ends)[:, :1]
        return grad_x, grad_weight, grad_bias, None
