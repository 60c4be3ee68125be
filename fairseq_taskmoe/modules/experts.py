"""Experts: E feed-forward networks of equal shape, stacked into 3-D parameters.

Shapes: T rows (tokens), R visits (a row and one of its experts), C model width, F width of an
expert, E experts. Stacked on the first dimension, experts are gathered by concatenation and spread
over devices by slicing.
"""

import math

import torch
import torch.nn as nn
from fairseq import utils
from torch import Tensor

from .dropout import Dropout
from .grouped_products import answer_grouped, groups_products, visit_grouped
from .linear import narrows_products
from .looped_products import answer_looped, visit_looped
from .visits import Visits


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
        dtype = out_dtype = rows.dtype
        if torch.is_autocast_enabled(rows.device.type):
            dtype = out_dtype = torch.get_autocast_dtype(rows.device.type)
        elif narrows_products(self.fc1.weight):
            dtype = torch.bfloat16
        visits = visits._replace(gates=visits.gates.to(dtype))
        visit, answer = visit_looped, answer_looped
        if groups_products(self.fc1.weight, dtype):
            visit, answer = visit_grouped, answer_grouped
        hidden = visit(rows.to(dtype), self.fc1.weight, self.fc1.bias, visits)
        hidden = self.dropout(self.activation_fn(hidden))
        out = answer(hidden, self.fc2.weight, self.fc2.bias, visits, rows.size(0))
        return out.to(out_dtype)


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
