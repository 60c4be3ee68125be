"""Where a checkpoint's model translates: on a GPU where there is one, else on CPU."""

from typing import Any, Dict, Iterable, Iterator, Optional

import torch
import torch.nn as nn
from fairseq.utils import apply_to_sample
from torch import Tensor

from .host_memory import keep_freed_memory

FAIRSEQ_TOKENS = 12000  # of a batch, as in fairseq-generate
# a base model on CPU is 10 % slower with as many as fairseq-generate takes
TOKENS = {"cpu": 4000, "cuda": FAIRSEQ_TOKENS}


def choose_device(cpu: bool, has_gpu: Optional[bool] = None) -> torch.device:
    """Return the GPU, or the CPU where it is asked for or there is no GPU.

    has_gpu is by default whether torch can use one.
    """
    has_gpu = torch.cuda.is_available() if has_gpu is None else has_gpu
    return torch.device("cuda" if has_gpu and not cpu else "cpu")


def place(model: nn.Module, device: torch.device, searches: bool = True) -> None:
    """Move a model to a device; a CPU keeps freed memory for a beam search, if it searches."""
    if device.type == "cpu" and searches:
        keep_freed_memory()  # a beam search copies its state at every step
    model.to(device)


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def moved(batches: Iterable[Dict[str, Any]], device: torch.device) -> Iterator[Dict[str, Any]]:
    """Yield batches with their tensors on a device."""

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    for batch in batches:
        yield apply_to_sample(move, batch)
