"""Linear maps whose products --float32-matmul-precision medium computes in bfloat16 on CPU.

Each operand is converted once, and the result can stay in bfloat16 for the next map.
"""

from typing import Any, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .bf16_products import padded_bf16, use_bf16_matmul


class Linear(nn.Linear):
    """nn.Linear, with products in bfloat16 on CPU if the process asks for medium precision.

    Then the result is converted to the type of the weight, except with keep_bf16_output.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, keep_bf16_output: bool = False
    ):
        super().__init__(in_features, out_features, bias)
        self.keep_bf16_output = keep_bf16_output
        self.has_narrow_weight = False

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., I) to (..., O)."""
        if not (self.has_narrow_weight or use_bf16_matmul(self.weight)):
            return F.linear(x, self.weight, self.bias)
        out_type = torch.bfloat16 if self.keep_bf16_output else torch.float32
        return _Bf16Linear.apply(x, self.weight, self.bias, out_type)


def narrow_weights(model: nn.Module) -> None:
    """Store the weights of a model's maps and experts as their products use them, for inference.

    A step of a search has few rows, for which conversion would take longer than the product. An
    embedding that shares its weight with a map keeps it in float32.
    """
    maps: Any = [module for module in model.modules() if hasattr(module, "has_narrow_weight")]
    for module in maps:
        if use_bf16_matmul(module.weight):
            module.weight = nn.Parameter(module.weight.bfloat16(), requires_grad=False)
            module.has_narrow_weight = True


class _Bf16Linear(torch.autograd.Function):
    """x (..., I) to (..., O) by bfloat16 products; x and the result may have other types."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Optional[Tensor], out_type: torch.dtype
    ) -> Tensor:
        rows = x.reshape(-1, weight.size(1))
        bf16_rows, bf16_weight = padded_bf16(rows), weight.bfloat16()
        ctx.save_for_backward(bf16_rows, bf16_weight)
        ctx.shape, ctx.types = x.shape, (x.dtype, weight.dtype)
        bf16_bias = None if bias is None else bias.bfloat16()
        out = F.linear(bf16_rows, bf16_weight, bf16_bias)[: rows.size(0)]
        return out.to(out_type).view(*x.shape[:-1], weight.size(0))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        rows, weight = ctx.saved_tensors
        x_type, weight_type = ctx.types
        flat = grad.reshape(-1, weight.size(0))
        bf16_grad = padded_bf16(flat)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = (bf16_grad @ weight)[: flat.size(0)].to(x_type).view(ctx.shape)
        if ctx.needs_input_grad[1]:
            grad_weight = (bf16_grad.t() @ rows).to(weight_type)
        if ctx.needs_input_grad[2]:
            grad_bias = flat.sum(dim=0, dtype=weight_type)
        return grad_x, grad_weight, grad_bias, None
