"""Linear maps that follow --float32-matmul-precision medium on every CPU.

torch's setting makes oneDNN compute float32 products in bfloat16 where the CPU has AMX; elsewhere
it does nothing, though products of bfloat16 matrices are twice as fast with AVX512_BF16 alone. Here
the operands are cast once each, and what comes out stays narrow where the next map reads it.
"""

from typing import Any, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class Linear(nn.Linear):
    """nn.Linear, with products in bfloat16 on CPU where the process asks for medium precision.

    The result has the type of the weight, or with keep_bf16_output it stays bfloat16 then.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, keep_bf16_output: bool = False
    ):
        super().__init__(in_features, out_features, bias)
        self.keep_bf16_output = keep_bf16_output

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., I) to (..., O)."""
        if not use_bf16_matmul(self.weight):
            return F.linear(x, self.weight, self.bias)
        out_type = torch.bfloat16 if self.keep_bf16_output else self.weight.dtype
        return _NarrowLinear.apply(x, self.weight, self.bias, out_type)


def use_bf16_matmul(weight: Tensor, has_avx512_bf16: Optional[bool] = None) -> bool:
    """Return whether products with a float32 weight are to be computed in bfloat16 here.

    A CPU without instructions for it would be slower than in float32. has_avx512_bf16 is by default
    whether this CPU has them.
    """
    if (
        weight.device.type != "cpu"
        or weight.dtype != torch.float32
        or torch.get_float32_matmul_precision() != "medium"
    ):
        return False
    if has_avx512_bf16 is None:
        has_avx512_bf16 = torch.cpu._is_avx512_bf16_supported()
    return has_avx512_bf16


class _NarrowLinear(torch.autograd.Function):
    """x (..., I) to (..., O) by products of bfloat16 matrices; x and the result may be wider."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Optional[Tensor], out_type: torch.dtype
    ) -> Tensor:
        narrow_x, narrow_weight = x.bfloat16().contiguous(), weight.bfloat16()
        ctx.save_for_backward(narrow_x, narrow_weight)
        ctx.types = x.dtype, weight.dtype
        narrow_bias = None if bias is None else bias.bfloat16()
        return F.linear(narrow_x, narrow_weight, narrow_bias).to(out_type)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, weight = ctx.saved_tensors
        x_type, weight_type = ctx.types
        flat = grad.reshape(-1, weight.size(0))
        grad = flat.bfloat16()
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ weight).view(x.shape).to(x_type)
        if ctx.needs_input_grad[1]:
            grad_weight = (grad.t() @ x.view(-1, weight.size(1))).to(weight_type)
        if ctx.needs_input_grad[2]:
            grad_bias = flat.sum(dim=0, dtype=weight_type)
        return grad_x, grad_weight, grad_bias, None
