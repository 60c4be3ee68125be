"""Products in bfloat16 on CPU, where --float32-matmul-precision medium asks for them.

oneDNN compiles a kernel of 0.6 MB for every new shape of a product, which takes as long as several
products of a small model, and keeps a thousand of them. In training nearly all shapes are new: the
numbers of rows differ from batch to batch, and from expert to expert. Here rows are brought to few
numbers by rows of zeros, whose results are not used. A number of rows that is not a multiple of 16
would also be slower.

Shapes: n rows, P >= n padded rows, I inputs and O outputs of a linear map.
"""

from typing import Optional

import torch
from torch import Tensor

LEAST_ROWS = 16
SIZES_PER_OCTAVE = 4
# below this size of a matrix, bfloat16 gains less than the conversion and the kernels cost
LEAST_ELEMENTS = 2**14


def set_matmul_precision(precision: str) -> None:
    """Set the precision of this process's float32 products, as torch names it.

    On a GPU it is torch's setting. On a CPU only the products of this project's linear maps and
    experts change: torch's setting would give all other products to oneDNN, too, which compiles a
    kernel for each of their shapes, and is slower for small ones.
    """
    torch.set_float32_matmul_precision(precision)
    if hasattr(torch.backends.mkldnn, "matmul"):  # since torch 2.9
        torch.backends.mkldnn.matmul.fp32_precision = "ieee"


def onednn_rounds_float32() -> bool:
    """Return whether torch lets oneDNN compute float32 products on CPU in a smaller type."""
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if matmul is None:
        return torch.get_float32_matmul_precision() != "highest"
    return matmul.fp32_precision in ("bf16", "tf32")


def use_bf16_matmul(weight: Tensor, has_avx512_bf16: Optional[bool] = None) -> bool:
    """Return whether to compute products with a float32 weight (..., O, I) in bfloat16.

    A CPU without AVX512_BF16 would be slower than in float32. has_avx512_bf16 defaults to whether
    this CPU has it.
    """
    if (
        weight.device.type != "cpu"
        or weight.dtype != torch.float32
        or torch.get_float32_matmul_precision() != "medium"
        or weight.size(-1) * weight.size(-2) < LEAST_ELEMENTS
    ):
        return False
    if has_avx512_bf16 is None:
        has_avx512_bf16 = torch.cpu._is_avx512_bf16_supported()
    return has_avx512_bf16


def padded_number(n: int) -> int:
    """Return P: the least of 16, 32, 48, 64, 80, 96, 112, 128, 160, ... that is not below n.

    From 64 on there are four numbers between a power of two and the next.
    """
    step = max(LEAST_ROWS, 2 ** ((n - 1).bit_length() - 1) // SIZES_PER_OCTAVE)
    return -(-n // step) * step


def padded_bf16(rows: Tensor) -> Tensor:
    """Return rows (n, I) as bfloat16 (P, I), without a copy if that is what they are."""
    n, width = rows.shape
    number = padded_number(n)
    if number == n:
        return rows.to(torch.bfloat16).contiguous()
    padded = rows.new_empty(number, width, dtype=torch.bfloat16)
    padded[:n] = rows
    padded[n:] = 0
    return padded
