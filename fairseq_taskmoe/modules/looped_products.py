"""Products of experts one by one: on CPU, and on GPUs without a grouped kernel.

The rows of an expert are copied only for its own products, so backward keeps little more than a
dense network of the same computation would. Autograd's own backward of weight[e] would allocate a
gradient of the whole stack for each expert; here each gradient is written once into its slice.

Where --float32-matmul-precision medium asks for products in bfloat16, the rows of an expert are
padded with zeros (bf16_products.py).

Shapes: T rows (tokens), R assignments (a row and one of its experts), P >= R with padding, C model
width, F width of an expert, E experts.
"""

from typing import Any, List, NamedTuple, Optional, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .bf16_products import padded_number
from .expert_assignments import ExpertAssignments


class Block(NamedTuple):
    """The assignments of one expert."""

    expert: int
    place: slice  # in the assignments sorted by expert
    padded: slice  # the same place in hidden units, with padding
    rows: Union[slice, Tensor]  # of the batch, one for each assignment


class ExpertLoop(NamedTuple):
    """The experts of a layer that have any rows."""

    blocks: List[Block]
    gates: Tensor  # (R, 1) of their assignments, without dropped choices
    num_padded: int  # P


def make_loop(assignments: ExpertAssignments, on_cpu: bool, pad: bool = False) -> ExpertLoop:
    """Return the blocks of the experts; on a GPU the host waits for the numbers of rows.

    on_cpu: adjacent rows are used without a copy. On a GPU, finding out whether rows are adjacent
    would cost more than the copy. pad: the rows of an expert are padded (bf16_products.py).
    """
    blocks: List[Block] = []
    start = padded_start = 0
    for expert, count in enumerate(assignments.counts()):
        if count:
            place = slice(start, start + count)
            rows = assignments.rows[place]
            padded = slice(padded_start, padded_start + (padded_number(count) if pad else count))
            blocks.append(Block(expert, place, padded, _as_slice(rows) if on_cpu else rows))
            padded_start = padded.stop
        start += count
    return ExpertLoop(blocks, assignments.gates[:start], padded_start)


def _as_slice(rows: Tensor) -> Union[slice, Tensor]:
    """Return ascending rows as a slice if they are adjacent, so that they need not be copied.

    The rows of one task are adjacent if the batch is sorted by task and has no padding.
    """
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first == len(rows) - 1 else rows


def up_project_looped(rows: Tensor, weight: Tensor, bias: Tensor, loop: ExpertLoop) -> Tensor:
    """Return hidden (P, F): each assigned row of rows (T, C) through its expert's first matrix.

    weight (E, F, C) and bias (E, 1, F) are stacked; products have the type of rows.
    """
    return _UpProject.apply(rows, weight, bias, loop)


def down_project_and_combine_looped(
    hidden: Tensor, weight: Tensor, bias: Tensor, loop: ExpertLoop, num_rows: int
) -> Tensor:
    """Return (T, C): hidden (P, F) through the second matrices, weighted by gates and summed.

    weight (E, C, F) and bias (E, 1, C) are stacked; products have the type of hidden; T is
    num_rows.
    """
    return _DownProjectAndCombine.apply(hidden, weight, bias, loop.gates, loop, num_rows)


class _UpProject(torch.autograd.Function):
    """rows (T, C) to hidden (P, F): each assignment through the first matrix of its expert."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, loop: ExpertLoop) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.loop = loop
        hidden = rows.new_empty(loop.num_padded, weight.size(1))
        for expert, _, padded, picked in loop.blocks:
            x = _pad(rows[picked], padded)
            _linear(x, weight[expert], bias[expert], out=hidden[padded])
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        rows, weight = ctx.saved_tensors
        grad_rows = torch.zeros_like(rows) if ctx.needs_input_grad[0] else None
        gradients = _empty_gradients(ctx, weight)
        for expert, place, padded, picked in ctx.loop.blocks:
            grad_output = grad[padded]
            _write_gradients(gradients, expert, grad_output, _pad(rows[picked], padded))
            if grad_rows is not None:
                products = grad_output @ weight[expert].to(grad_output.dtype)
                _add(grad_rows, picked, products[: place.stop - place.start])
        return grad_rows, *gradients, None


class _DownProjectAndCombine(torch.autograd.Function):
    """hidden (P, F) to rows (T, C): the second matrices, weighted by gates (R, 1) and summed."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, gates: Tensor, loop: ExpertLoop,
        num_rows: int,
    ) -> Tensor:
        ctx.loop = loop
        rows = hidden.new_zeros(num_rows, weight.size(1))
        expert_output = hidden.new_empty(hidden.size(0), weight.size(1))
        for expert, place, padded, picked in loop.blocks:
            out = expert_output[padded]
            _linear(hidden[padded], weight[expert], bias[expert], out=out)
            _add(rows, picked, out[: place.stop - place.start] * gates[place])
        ctx.save_for_backward(hidden, weight, gates, expert_output)
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        hidden, weight, gates, expert_output = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_gates = torch.empty_like(gates) if ctx.needs_input_grad[3] else None
        gradients = _empty_gradients(ctx, weight)
        for expert, place, padded, picked in ctx.loop.blocks:
            grad_output = grad[picked]
            if grad_gates is not None:
                products = grad_output * expert_output[padded][: len(grad_output)]
                torch.sum(products, dim=1, keepdim=True, out=grad_gates[place])
            # apply the gates here, where rows have C columns, and not to the F hidden units
            weighted = _pad(grad_output * gates[place], padded)
            torch.mm(weighted, weight[expert].to(weighted.dtype), out=grad_hidden[padded])
            _write_gradients(gradients, expert, weighted, hidden[padded])
        return grad_hidden, *gradients, grad_gates, None, None


def _pad(rows: Tensor, padded: slice) -> Tensor:
    """Return rows (n, C) followed by zeros up to the length of padded."""
    missing = padded.stop - padded.start - rows.size(0)
    return F.pad(rows, (0, 0, 0, missing)) if missing else rows


def _linear(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    """Write x (n, I) through one linear map to out (n, O), in the type of out."""
    torch.addmm(bias.to(out.dtype), x, weight.to(out.dtype).t(), out=out)


def _add(total: Tensor, rows: Union[slice, Tensor], values: Tensor) -> None:
    """Add values to rows of total (T, C)."""
    if isinstance(rows, slice):
        total[rows] += values
    else:  # += would count a row that occurs twice only once
        total.index_add_(0, rows, values)


Gradients = Tuple[Optional[Tensor], Optional[Tensor]]


def _empty_gradients(ctx: Any, weight: Tensor) -> Gradients:
    """Return gradients of weight and bias to fill if needed; experts without rows get zeros."""
    grad_weight = grad_bias = None
    if ctx.needs_input_grad[1]:
        grad_weight = torch.empty_like(weight)
        computed = {block.expert for block in ctx.loop.blocks}
        for expert in set(range(weight.size(0))) - computed:
            grad_weight[expert].zero_()
    if ctx.needs_input_grad[2]:
        grad_bias = weight.new_zeros(weight.size(0), 1, weight.size(1))
    return grad_weight, grad_bias


def _write_gradients(gradients: Gradients, expert: int, grad_output: Tensor, x: Tensor) -> None:
    """Write the gradients of one expert's linear map, given grad_output (n, O) and x (n, I)."""
    grad_weight, grad_bias = gradients
    if grad_weight is not None:
        into = grad_weight[expert]
        if into.dtype == x.dtype:
            torch.mm(grad_output.t(), x, out=into)
        else:
            into.copy_(grad_output.t() @ x)
    if grad_bias is not None:
        torch.sum(grad_output, dim=0, dtype=grad_bias.dtype, out=grad_bias[expert, 0])
