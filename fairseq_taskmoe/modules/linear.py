"""Linear maps that respect --float32-matmul-precision medium on CPUs without AMX, too.

torch's setting makes oneDNN compute float32 products in bfloat16 only if the CPU has AMX, although
with AVX512_BF16 alone bfloat16 products are twice as fast, too. Here each operand is converted
once, and the result can stay in bfloat16 for the next map.
"""

from typing import Any, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class Linear(nn.Linear):
    """nn.Linear, with products in bfloat16 on CPU if the process asks for medium precision.

    Then the result is converted to the type of the weight, except with keep_bf16_output.
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
        return _Bf16Linear.apply(x, self.weight, self.bias, out_type)


def use_bf16_matmul(weight: Tensor, has_avx512_bf16: Optional[bool] = None) -> bool:
    """Return whether to compute products with a float32 weight in bfloat16 on this CPU.

    A CPU without AVX512_BF16 would be slower than in float32. has_avx512_bf16 defaults to whether
    this CPU has it.
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


class _Bf16Linear(torch.autograd.Function):
    """x (..., I) to (..., O) by bfloat16 products; x and the result may have other types."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Optional[Tensor], out_type: torch.dtype
    ) -> Tensor:
        bf16_x, bf16_weight = x.bfloat16().contiguous(), weight.bfloat16()
        ctx.save_for_backward(bf16_x, bf16_weight)
        ctx.types = x.dtype, weight.dtype
        bf16_bias = None if bias is None else bias.bfloat16()
        return F.linear(bf16_x, bf16_weight, bf16_bias).to(out_type)

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
