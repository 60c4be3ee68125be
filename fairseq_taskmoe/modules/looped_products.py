"""Products of experts one by one: on CPU, and on GPUs that have nothing better.

An expert's rows are copied for its own products alone: what is kept for backward is little more
than what a dense network of the same computation keeps. Autograd's own backward of weight[e] would
allocate a gradient of the whole stack for each expert; here each is written once into its slice.

Shapes: T rows (tokens), R assignments (a row and one of its experts), C model width, F width of an
expert, E experts.
"""

from typing import Any, Callable, List, NamedTuple, Optional, Tuple, Union

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .expert_assignments import ExpertAssignments
from .expert_threads import Block, each_expert


class ExpertLoop(NamedTuple):
    """The work of those of a layer's experts that have any."""

    blocks: List[Block]
    gates: Tensor  # (R, 1) of their assignments, without dropped choices
    threads: int  # that may work on experts at the same time


def make_loop(assignments: ExpertAssignments, on_cpu: bool) -> ExpertLoop:
    """Return the work of each expert; the host waits for a GPU to give the numbers of rows.

    on_cpu: several threads may compute experts, and adjacent rows are used without a copy. On a GPU
    finding out whether rows are adjacent would cost more than the copy.
    """
    blocks, start = [], 0
    for expert, count in enumerate(assignments.counts()):
        if count:
            place = slice(start, start + count)
            rows = assignments.rows[place]
            blocks.append(Block(expert, place, _as_slice(rows) if on_cpu else rows))
        start += count
    threads = torch.get_num_threads() if on_cpu else 1
    return ExpertLoop(blocks, assignments.gates[:start], threads)


def _as_slice(rows: Tensor) -> Union[slice, Tensor]:
    """Return ascending rows as a slice where they are adjacent: no copy is made of them.

    The rows of one task are adjacent where a batch is sorted by task and has no padding.
    """
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first == len(rows) - 1 else rows


def up_project_looped(rows: Tensor, weight: Tensor, bias: Tensor, loop: ExpertLoop) -> Tensor:
    """Return hidden (R, F): each assigned row of rows (T, C) through its expert's first matrix.

    weight (E, F, C) and bias (E, 1, F) are stacked; products are of the type of rows.
    """
    return _UpProject.apply(rows, weight, bias, loop)


def down_project_and_combine_looped(
    hidden: Tensor, weight: Tensor, bias: Tensor, loop: ExpertLoop, num_rows: int
) -> Tensor:
    """Return (T, C): hidden (R, F) through the second matrices, weighted by gates, added up.

    weight (E, C, F) and bias (E, 1, C) are stacked; products are of the type of hidden, and T is
    num_rows.
    """
    return _DownProjectAndCombine.apply(
        hidden, weight, bias, loop.gates, loop, num_rows
    )


class _UpProject(torch.autograd.Function):
    """rows (T, C) to hidden (R, F): each assignment through the first matrix of its expert."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, loop: ExpertLoop) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.loop = loop
        hidden = rows.new_empty(loop.gates.size(0), weight.size(1))

        def project(block: Block) -> None:
            expert, out = block.expert, hidden[block.place]
            matrix, constant = weight[expert].to(out.dtype), bias[expert].to(out.dtype)
            torch.addmm(constant, rows[block.rows], matrix.t(), out=out)

        _run_each(project, loop, weight)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        rows, weight = ctx.saved_tensors
        grad_rows = torch.zeros_like(rows) if ctx.needs_input_grad[0] else None
        grad_weight, grad_bias = _empty_gradients(ctx, weight)

        def go_back(block: Block) -> Optional[Tensor]:
            expert, grad_output = block.expert, grad[block.place]
            if grad_weight is not None:
                _multiply(grad_output.t(), rows[block.rows], into=grad_weight[expert])
            if grad_bias is not None:
                torch.sum(grad_output, dim=0, dtype=grad_bias.dtype, out=grad_bias[expert, 0])
            if grad_rows is None:
                return None
            return grad_output @ weight[expert].to(grad_output.dtype)

        _run_each(go_back, ctx.loop, weight, add_to=grad_rows)
        return grad_rows, grad_weight, grad_bias, None


class _DownProjectAndCombine(torch.autograd.Function):
    """hidden (R, F) to rows (T, C): the second matrices, weighted by gates (R, 1), added up."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, gates: Tensor, loop: ExpertLoop,
        num_rows: int,
    ) -> Tensor:
        ctx.loop = loop
        rows = hidden.new_zeros(num_rows, weight.size(1))
        expert_output = hidden.new_empty(hidden.size(0), weight.size(1))

        def project(block: Block) -> Tensor:
            expert, out = block.expert, expert_output[block.place]
            matrix, constant = weight[expert].to(out.dtype), bias[expert].to(out.dtype)
            torch.addmm(constant, hidden[block.place], matrix.t(), out=out)
            return out * gates[block.place]

        _run_each(project, loop, weight, add_to=rows)
        ctx.save_for_backward(hidden, weight, gates, expert_output)
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        hidden, weight, gates, expert_output = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_gates = torch.empty_like(gates) if ctx.needs_input_grad[3] else None
        grad_weight, grad_bias = _empty_gradients(ctx, weight)

        def go_back(block: Block) -> None:
            expert, place, grad_output = block.expert, block.place, grad[block.rows]
            if grad_gates is not None:
                products = grad_output * expert_output[place]
                torch.sum(products, dim=1, keepdim=True, out=grad_gates[place])
            # weighted here, where rows are narrow, and not as a gradient of the hidden units
            weighted = grad_output * gates[place]
            torch.mm(weighted, weight[expert].to(weighted.dtype), out=grad_hidden[place])
            if grad_weight is not None:
                _multiply(weighted.t(), hidden[place], into=grad_weight[expert])
            if grad_bias is not None:
                torch.sum(weighted, dim=0, dtype=grad_bias.dtype, out=grad_bias[expert, 0])

        _run_each(go_back, ctx.loop, weight)
        return grad_hidden, grad_weight, grad_bias, grad_gates, None, None


def _run_each(
    work: Callable[[Block], Any], loop: ExpertLoop, weight: Tensor,
    add_to: Optional[Tensor] = None,
) -> None:
    """Do the work of all experts; what it returns is added to their rows of add_to (T, C)."""
    for block, result in each_expert(work, loop.blocks, loop.threads, weight[0].numel()):
        if add_to is None:
            continue
        if isinstance(block.rows, slice):
            add_to[block.rows] += result
        else:  # a row that came twice would count once with +=
            add_to.index_add_(0, block.rows, result)


def _empty_gradients(ctx: Any, weight: Tensor) -> Tuple[Optional[Tensor], Optional[Tensor]]:
    """Return gradients to fill of weight and bias where wanted, zeros where no row came."""
    grad_weight = grad_bias = None
    if ctx.needs_input_grad[1]:
        grad_weight = torch.empty_like(weight)
        computed = {block.expert for block in ctx.loop.blocks}
        for expert in set(range(weight.size(0))) - computed:
            grad_weight[expert].zero_()
    if ctx.needs_input_grad[2]:
        grad_bias = weight.new_zeros(weight.size(0), 1, weight.size(1))
    return grad_weight, grad_bias


def _multiply(left: Tensor, right: Tensor, into: Tensor) -> None:
    """Write a product into a tensor, which may be of a wider type."""
    if into.dtype == left.dtype:
        torch.mm(left, right, out=into)
    else:
        into.copy_(left @ right)
