"""The choice of how to compute the products of all experts, by device, data type and size.

All methods give the same results except for rounding, and all run on CPU too, for tests.

Shapes: T rows (tokens), E experts, I inputs and O outputs of an expert's matrix.
"""

from enum import Enum
from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

ALIGNED = 8  # rows must be multiples of 16 bytes, or 8 bfloat16 numbers
MAX_GROUPS = 1023  # of torch's grouped_mm
HOPPER = (9, 0)  # CUDA compute capability


class Execution(Enum):
    """A method to compute the products of all experts."""

    CPU_LOOP = "expert by expert; adjacent rows are used without a copy"
    DEVICE_LOOP = "expert by expert; the host waits for the numbers of rows"
    GROUPED = "all experts in one kernel; the host never waits"


def choose_execution(weight: Tensor, dtype: torch.dtype, num_rows: int) -> Execution:
    """Return how to multiply T = num_rows rows of type dtype by a stacked weight (E, O, I)."""
    if weight.device.type == "cpu":
        return Execution.CPU_LOOP
    shape = (weight.size(0), weight.size(1), weight.size(2))
    if supports_grouped_mm(shape, dtype, num_rows, compute_capability(weight.device)):
        return Execution.GROUPED
    return Execution.DEVICE_LOOP


def supports_grouped_mm(
    shape: Tuple[int, int, int], dtype: torch.dtype, num_rows: int, capability: Tuple[int, int],
    has_grouped_mm: bool = hasattr(F, "grouped_mm"),  # since torch 2.9
) -> bool:
    """Return whether torch's grouped_mm multiplies stacked weights (E, O, I) in one kernel.

    For bfloat16 from compute capability 9.0 on it does. Otherwise it is a loop that first fetches
    the sizes from the device.
    """
    num_experts, out_features, in_features = shape
    return (
        has_grouped_mm
        and dtype == torch.bfloat16
        and capability >= HOPPER
        and num_experts <= MAX_GROUPS
        and num_rows > 0
        and out_features % ALIGNED == 0
        and in_features % ALIGNED == 0
    )


def compute_capability(device: torch.device) -> Tuple[int, int]:
    """Return a GPU's CUDA compute capability, or (0, 0) for any other device."""
    if device.type != "cuda" or torch.version.cuda is None:
        return (0, 0)
    return torch.cuda.get_device_capability(device)
