"""Experts: E feed-forward networks of equal shape, stacked into 3-D parameters.

Shapes: T rows (tokens), R visits (a row and one of its experts), C model width, F width of an
expert, E experts. Stacked on the first dimension, experts are gathered by concatenation and spread
over devices by slicing.
"""

import math
from typing import Any, Callable, List, Optional, Tuple, Union

import torch
import torch.nn as nn
from fairseq import utils
from torch import Tensor
from torch.autograd.function import once_differentiable

from .dropout import Dropout
from .expert_threads import Block, each_expert
from .visits import Visits

Index = Union[slice, Tensor]


class Experts(nn.Module):
    """The feed-forward networks of one MoE layer: fc2(activation(fc1(x))) for each expert."""

    def __init__(
        self,
        num_experts: int,
        embed_dim: int,
        ffn_dim: int,
        activation_fn: str = "relu",
        activation_dropout: float = 0.0,
        first_expert: int = 0,
    ):
        """Make the experts first_expert, first_expert + 1, ... of a layer, num_experts of them."""
        super().__init__()
        self.num_experts = num_experts
        self.fc1 = StackedLinear(num_experts, embed_dim, ffn_dim, first_expert)
        self.fc2 = StackedLinear(num_experts, ffn_dim, embed_dim, first_expert)
        self.activation_fn = utils.get_activation_fn(activation_fn)
        self.dropout = Dropout(activation_dropout)

    def forward(self, rows: Tensor, visits: Visits) -> Tensor:
        """Return for each of rows (T, C) what its experts say, weighted and added up (T, C)."""
        dtype = rows.dtype
        if torch.is_autocast_enabled(rows.device.type):
            dtype = torch.get_autocast_dtype(rows.device.type)
        hidden = _Visit.apply(rows.to(dtype), *self.fc1.parameters_as(dtype), visits)
        hidden = self.dropout(self.activation_fn(hidden))
        weights = self.fc2.parameters_as(dtype)
        return _Return.apply(hidden, *weights, visits.gates.to(dtype), visits, rows.size(0))


class StackedLinear(nn.Module):
    """E linear maps with weight (E, O, I) and bias (E, 1, O).

    The bias has a row dimension of its own, so that an optimizer that factors the last two
    dimensions (Adafactor) keeps one expert's state apart from another's.
    """

    def __init__(
        self, num_experts: int, in_features: int, out_features: int, first_expert: int = 0
    ):
        super().__init__()
        self.first_expert = first_expert
        self.weight = nn.Parameter(torch.empty(num_experts, out_features, in_features))
        self.bias = nn.Parameter(torch.empty(num_experts, 1, out_features))
        if not self.weight.is_meta:
            self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise every expert as nn.Linear would, each from a random stream of its own.

        Then an expert's first weights depend on its number, and not on which others are here.
        """
        seed = int(torch.randint(2**31, ()))
        bound = 1 / math.sqrt(self.weight.size(2))
        for here, (weight, bias) in enumerate(zip(self.weight, self.bias, strict=True)):
            generator = torch.Generator(weight.device)
            generator.manual_seed(seed + self.first_expert + here)
            weight.uniform_(-bound, bound, generator=generator)
            bias.uniform_(-bound, bound, generator=generator)

    def parameters_as(self, dtype: torch.dtype) -> Tuple[Tensor, Tensor]:
        """Return weight and bias in the type to compute in."""
        return self.weight.to(dtype), self.bias.to(dtype)


# Both functions work expert by expert, with temporary copies of one expert's rows at a time: what
# is kept for backward is little more than what a dense network of the same computation keeps.
# Autograd's own backward of weight[e] would allocate a gradient of the whole stack for each expert;
# here each gradient is written once into its slice.


class _Visit(torch.autograd.Function):
    """rows (T, C) to hidden (R, F): each visit through the first matrix of its expert."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, visits: Visits) -> Tensor:
        ctx.save_for_backward(rows, weight, visits.rows)
        ctx.counts = visits.counts
        hidden = rows.new_empty(visits.rows.numel(), weight.size(1))

        def visit(block: Block) -> None:
            expert, here = block.expert, hidden[block.visits]
            torch.addmm(bias[expert], rows[block.rows], weight[expert].t(), out=here)

        _run_each(visit, visits.counts, visits.rows, weight)
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
                torch.mm(heard.t(), rows[block.rows], out=grad_weight[expert])
            if grad_bias is not None:
                torch.sum(heard, dim=0, out=grad_bias[expert, 0])
            return None if grad_rows is None else heard @ weight[expert]

        _run_each(go_back, ctx.counts, visited, weight, add_to=grad_rows)
        return grad_rows, grad_weight, grad_bias, None


class _Return(torch.autograd.Function):
    """hidden (R, F) to rows (T, C): the second matrices, weighted by gates (R, 1), added up."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, gates: Tensor, visits: Visits,
        num_rows: int,
    ) -> Tensor:
        rows = hidden.new_zeros(num_rows, weight.size(1))
        said = hidden.new_empty(hidden.size(0), weight.size(1))

        def answer(block: Block) -> Tensor:
            expert, here = block.expert, said[block.visits]
            torch.addmm(bias[expert], hidden[block.visits], weight[expert].t(), out=here)
            return here * gates[block.visits]

        _run_each(answer, visits.counts, visits.rows, weight, add_to=rows)
        ctx.save_for_backward(hidden, weight, gates, said, visits.rows)
        ctx.counts = visits.counts
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
            torch.mm(weighted, weight[expert], out=grad_hidden[here])
            if grad_weight is not None:
                torch.mm(weighted.t(), hidden[here], out=grad_weight[expert])
            if grad_bias is not None:
                torch.sum(weighted, dim=0, out=grad_bias[expert, 0])

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


def _blocks(counts: List[int], rows: Tensor) -> List[Block]:
    """Return the work of every expert that has any."""
    blocks, start = [], 0
    for expert, count in enumerate(counts):
        if count:
            visits = slice(start, start + count)
            blocks.append(Block(expert, visits, _as_slice(rows[visits])))
        start += count
    return blocks


def _as_slice(rows: Tensor) -> Index:
    """Return ascending rows as a slice where they lie side by side: no copy is made of them.

    So do those of sentences of one task, where a batch is sorted by task and has no padding. On a
    GPU the question would cost more than the copy.
    """
    if rows.device.type == "cpu":
        first, last = int(rows[0]), int(rows[-1])
        if last - first == len(rows) - 1:
            return slice(first, last + 1)
    return rows
