"""Experts: E feed-forward networks of equal shape, stacked into 3-D parameters.

Shapes: R rows sorted by expert, C model width, F width of an expert, E experts. Stacked on the
first dimension, experts are gathered by concatenation and spread over devices by slicing.
"""

import math
from typing import Any, List, Optional, Sequence, Tuple

import torch
import torch.nn as nn
from fairseq import utils
from torch import Tensor
from torch.autograd.function import once_differentiable

from .dropout import Dropout


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

    def forward(self, rows: Tensor, counts: List[int]) -> Tensor:
        """Apply expert e to its counts[e] consecutive rows of rows (R, C); return (R, C)."""
        hidden = self.activation_fn(self.fc1(rows, counts))
        return self.fc2(self.dropout(hidden), counts)


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

    def forward(self, rows: Tensor, counts: List[int]) -> Tensor:
        """Map counts[e] consecutive rows of rows (R, I) by map e; return (R, O)."""
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if torch.is_autocast_enabled(rows.device.type):
            dtype = torch.get_autocast_dtype(rows.device.type)
            rows, weight, bias = rows.to(dtype), weight.to(dtype), bias.to(dtype)
        return _StackedLinear.apply(rows, weight, bias, counts)


class _StackedLinear(torch.autograd.Function):
    """A loop of matrix products over blocks of rows, each written where it belongs.

    Autograd's own backward of weight[e] allocates a gradient of the whole stack for every expert;
    here each gradient is written once into its slice.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, counts: Sequence[int]
    ) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.counts = counts
        out = rows.new_empty(rows.size(0), weight.size(1))
        for expert, block in _blocks(counts):
            torch.addmm(bias[expert], rows[block], weight[expert].t(), out=out[block])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> Tuple[Optional[Tensor], ...]:
        rows, weight = ctx.saved_tensors
        grad_rows = grad_weight = grad_bias = None
        blocks = _blocks(ctx.counts)
        if ctx.needs_input_grad[0]:
            grad_rows = torch.empty_like(rows)
            for expert, block in blocks:
                torch.mm(grad_out[block], weight[expert], out=grad_rows[block])
        if ctx.needs_input_grad[1]:
            grad_weight = torch.empty_like(weight)
            for expert, block in blocks:
                torch.mm(grad_out[block].t(), rows[block], out=grad_weight[expert])
            for expert, count in enumerate(ctx.counts):
                if count == 0:
                    grad_weight[expert].zero_()
        if ctx.needs_input_grad[2]:
            grad_bias = weight.new_zeros(weight.size(0), 1, weight.size(1))
            for expert, block in blocks:
                torch.sum(grad_out[block], dim=0, out=grad_bias[expert, 0])
        return grad_rows, grad_weight, grad_bias, None


def _blocks(counts: Sequence[int]) -> List[Tuple[int, slice]]:
    """Return (expert, its rows) for every expert that has rows."""
    blocks, start = [], 0
    for expert, count in enumerate(counts):
        if count:
            blocks.append((expert, slice(start, start + count)))
        start += count
    return blocks
