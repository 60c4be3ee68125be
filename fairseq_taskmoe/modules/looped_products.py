"""Products of experts one by one: on CPU, and on GPUs that have nothing better.

An expert's rows are copied for its own products alone: what is kept for backward is little more
than what a dense network of the same computation keeps. Autograd's own backward of weight[e] would
allocate a gradient of the whole stack for each expert; here each is written once into its slice.

Shapes: T rows (tokens), R visits (a row and one of its experts), C model width, F width of an
expert, E experts.
"""

from typing import Any, Callable, List, Optional, Tuple, Union

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .expert_threads import Block, each_expert
from .visits import Visits


def visit_looped(rows: Tensor, weight: Tensor, bias: Tensor, visits: Visits) -> Tensor:
    """Return hidden (R, F): each visit of rows (T, C) through its expert's first matrix.

    weight (E, F, C) and bias (E, 1, F) are stacked; products are of the type of rows.
    """
    return _Visit.apply(rows, weight, bias, visits)


def answer_looped(
    hidden: Tensor, weight: Tensor, bias: Tensor, visits: Visits, num_rows: int
) -> Tensor:
    """Return (T, C): hidden (R, F) through the second matrices, weighted by gates, added up.

    weight (E, C, F) and bias (E, 1, C) are stacked; products are of the type of hidden, and T is
    num_rows.
    """
    return _Answer.apply(hidden, weight, bias, visits.gates, visits, num_rows)


class _Visit(torch.autograd.Function):
    """rows (T, C) to hidden (R, F): each visit through the first matrix of its expert."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, visits: Visits) -> Tensor:
        ctx.save_for_backward(rows, weight, visits.rows)
        ctx.counts = visits.counts()
        hidden = rows.new_empty(visits.rows.numel(), weight.size(1))

        def visit(block: Block) -> None:
            expert, here = block.expert, hidden[block.visits]
            matrix, constant = weight[expert].to(here.dtype), bias[expert].to(here.dtype)
            torch.addmm(constant, rows[block.rows], matrix.t(), out=here)

        _run_each(visit, ctx.counts, visits.rows, weight)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        rows, weight, visited = ctx.saved_tensors
        grad_rows = torch.zeros_like(rows) if ctx.needs_input_grad[0] else None
        grad_weight, grad_bias = _empty_gradients(ctx, weight)

        def go_back(block: Block) -> Optional[Tensor]:
            expert, heard = block.expert, grad[block.visits]
            if grad_weight is not None:
                _multiply(heard.t(), rows[block.rows], into=grad_weight[expert])
            if grad_bias is not None:
                torch.sum(heard, dim=0, dtype=grad_bias.dtype, out=grad_bias[expert, 0])
            return None if grad_rows is None else heard @ weight[expert].to(heard.dtype)

        _run_each(go_back, ctx.counts, visited, weight, add_to=grad_rows)
        return grad_rows, grad_weight, grad_bias, None


class _Answer(torch.autograd.Function):
    """hidden (R, F) to rows (T, C): the second matrices, weighted by gates (R, 1), added up."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, gates: Tensor, visits: Visits,
        num_rows: int,
    ) -> Tensor:
        ctx.counts = visits.counts()
        rows = hidden.new_zeros(num_rows, weight.size(1))
        said = hidden.new_empty(hidden.size(0), weight.size(1))

        def answer(block: Block) -> Tensor:
            expert, here = block.expert, said[block.visits]
            matrix, constant = weight[expert].to(here.dtype), bias[expert].to(here.dtype)
            torch.addmm(constant, hidden[block.visits], matrix.t(), out=here)
            return here * gates[block.visits]

        _run_each(answer, ctx.counts, visits.rows, weight, add_to=rows)
        ctx.save_for_backward(hidden, weight, gates, said, visits.rows)
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        hidden, weight, gates, said, visited = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_gates = torch.empty_like(gates) if ctx.needs_input_grad[3] else None
        grad_weight, grad_bias = _empty_gradients(ctx, weight)

        def go_back(block: Block) -> None:
            expert, here, heard = block.expert, block.visits, grad[block.rows]
            if grad_gates is not None:
                torch.sum(heard * said[here], dim=1, keepdim=True, out=grad_gates[here])
            # weighted here, where rows are narrow, and not as a gradient of the hidden units
            weighted = heard * gates[here]
            torch.mm(weighted, weight[expert].to(weighted.dtype), out=grad_hidden[here])
            if grad_weight is not None:
                _multiply(weighted.t(), hidden[here], into=grad_weight[expert])
            if grad_bias is not None:
                torch.sum(weighted, dim=0, dtype=grad_bias.dtype, out=grad_bias[expert, 0])

        _run_each(go_back, ctx.counts, visited, weight)
        return grad_hidden, grad_weight, grad_bias, grad_gates, None, None


def _run_each(
    work: Callable[[Block], Any], counts: List[int], visited: Tensor, weight: Tensor,
    add_to: Optional[Tensor] = None,
) -> None:
    """Do the work of all experts; what it returns is added to their rows of add_to (T, C)."""
    blocks = _blocks(counts, visited)
    results = each_expert(work, blocks, weight.device, weight[0].numel())
    for block, result in results:
        if add_to is not None:
            add_to[block.rows] += result  # a row visits an expert once


def _empty_gradients(ctx: Any, weight: Tensor) -> Tuple[Optional[Tensor], Optional[Tensor]]:
    """Return gradients to fill of weight and bias where wanted, zeros where no row came."""
    grad_weight = grad_bias = None
    if ctx.needs_input_grad[1]:
        grad_weight = torch.empty_like(weight)
        for expert, count in enumerate(ctx.counts):
            if count == 0:
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


def _blocks(counts: List[int], rows: Tensor) -> List[Block]:
    """Return the work of every expert that has any."""
    blocks, start = [], 0
    for expert, count in enumerate(counts):
        if count:
            visits = slice(start, start + count)
            blocks.append(Block(expert, visits, _as_slice(rows[visits])))
        start += count
    return blocks


def _as_slice(rows: Tensor) -> Union[slice, Tensor]:
    """Return ascending rows as a slice where they lie side by side: no copy is made of them.

    So do those of sentences of one task, where a batch is sorted by task and has no padding. On a
    GPU the question would cost more than the copy.
    """
    if rows.device.type == "cpu":
        first, last = int(rows[0]), int(rows[-1])
        if last - first == len(rows) - 1:
            return slice(first, last + 1)
    return rows
