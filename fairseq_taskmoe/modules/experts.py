"""Experts: E feed-forward networks of equal shape, stacked into 3-D parameters.

Since experts are stacked on the first dimension, they are gathered by concatenation and distributed
over devices by slicing. Shapes: T rows (tokens), C model width, F width of an expert, E experts.
"""

import math
from typing import Optional

import torch
import torch.nn as nn
from torch import Tensor

from .activation import activation
from .bf16_products import use_bf16_matmul
from .dropout import Dropout
from .expert_assignments import ExpertAssignments
from .expert_execution import Execution, choose_execution
from .grouped_products import down_project_and_combine_grouped, up_project_grouped
from .looped_products import down_project_and_combine_looped, make_loop, up_project_looped


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
        execution: Optional[Execution] = None,
    ):
        """Make num_experts experts of a layer: first_expert, first_expert + 1, ...

        execution defaults to the best method on the device of the weights.
        """
        super().__init__()
        self.num_experts = num_experts
        self.fc1 = StackedLinear(num_experts, embed_dim, ffn_dim, first_expert)
        self.fc2 = StackedLinear(num_experts, ffn_dim, embed_dim, first_expert)
        self.activation_fn = activation(activation_fn)
        self.dropout = Dropout(activation_dropout)
        self.execution = execution

    def forward(self, rows: Tensor, assignments: ExpertAssignments) -> Tensor:
        """Return the weighted sum (T, C) of the outputs of the experts of each of rows (T, C)."""
        dtype = out_dtype = rows.dtype
        narrowed = False  # from float32 to bfloat16
        if torch.is_autocast_enabled(rows.device.type):
            dtype = out_dtype = torch.get_autocast_dtype(rows.device.type)
        elif self.fc1.has_narrow_weight or use_bf16_matmul(self.fc1.weight):
            dtype, narrowed = torch.bfloat16, True
        assignments = assignments._replace(gates=assignments.gates.to(dtype))
        execution = self.execution or choose_execution(self.fc1.weight, dtype, rows.size(0))
        up, down = (self.fc1.weight, self.fc1.bias), (self.fc2.weight, self.fc2.bias)
        if execution == Execution.GROUPED:
            hidden = up_project_grouped(rows.to(dtype), *up, assignments)
            hidden = self.dropout(self.activation_fn(hidden))
            out = down_project_and_combine_grouped(hidden, *down, assignments, rows.size(0))
        else:
            loop = make_loop(assignments, execution == Execution.CPU_LOOP, pad=narrowed)
            hidden = up_project_looped(rows.to(dtype), *up, loop)
            hidden = self.dropout(self.activation_fn(hidden))
            out = down_project_and_combine_looped(hidden, *down, loop, rows.size(0))
        return out.to(out_dtype)


class StackedLinear(nn.Module):
    """E linear maps with weight (E, O, I) and bias (E, 1, O).

    The bias has a dimension of size 1, so that an optimizer that factors the last two dimensions
    (Adafactor) keeps the states of experts separate.
    """

    def __init__(
        self, num_experts: int, in_features: int, out_features: int, first_expert: int = 0
    ):
        super().__init__()
        self.first_expert = first_expert
        self.has_narrow_weight = False  # see narrow_weights in linear.py
        self.weight = nn.Parameter(torch.empty(num_experts, out_features, in_features))
        self.bias = nn.Parameter(torch.empty(num_experts, 1, out_features))
        if not self.weight.is_meta:
            self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise every expert as nn.Linear would, each with its own random generator.

        An expert's initial weights thus depend on its number, not on which experts a rank holds.
        """
        seed = int(torch.randint(2**31, ()))
        bound = 1 / math.sqrt(self.weight.size(2))
        for i, (weight, bias) in enumerate(zip(self.weight, self.bias, strict=True)):
            generator = torch.Generator(weight.device)
            generator.manual_seed(seed + self.first_expert + i)
            weight.uniform_(-bound, bound, generator=generator)
            bias.uniform_(-bound, bound, generator=generator)
