"""The device of a model: a GPU if there is one, otherwise the CPU."""

from typing import Any, Callable, Dict, Iterable, Iterator, Optional

import torch
import torch.nn as nn
from fairseq.utils import apply_to_sample
from torch import Tensor

from .host import keep_freed_memory

FAIRSEQ_TOKENS = 12000  # default tokens per batch of fairseq-generate
# on CPU a base model is 10 % slower with 12,000 than with 4,000
TOKENS = {"cpu": 4000, "cuda": FAIRSEQ_TOKENS}


def choose_device(cpu: bool, has_gpu: Optional[bool] = None) -> torch.device:
    """Return the GPU, or the CPU if cpu is true or there is no GPU.

    has_gpu defaults to whether torch can use a GPU.
    """
    has_gpu = torch.cuda.is_available() if has_gpu is None else has_gpu
    return torch.device("cuda" if has_gpu and not cpu else "cpu")


def device_of_rank(cpu: bool, local_rank: Optional[int], num_gpus: int) -> torch.device:
    """Return the GPU of a rank by its number on its node, or the CPU, as choose_device does."""
    if choose_device(cpu, num_gpus > 0).type == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", (local_rank or 0) % num_gpus)


def backend_of(device: torch.device) -> str:
    """Return the torch.distributed backend for a device."""
    return "nccl" if device.type == "cuda" else "gloo"


def make_current(
    device: torch.device, set_device: Callable[[torch.device], None] = torch.cuda.set_device
) -> None:
    """Make a GPU this thread's current device, which is the first GPU in a new thread."""
    if device.type == "cuda":
        set_device(device)


def place(model: nn.Module, device: torch.device, searches: bool = True) -> None:
    """Move a model to a device, and prepare memory on CPU if it will run beam search."""
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
