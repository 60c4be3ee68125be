"""Where a checkpoint's model translates: on a GPU where there is one, else on CPU."""

from typing import Any, Callable, Dict, Iterable, Iterator, Optional

import torch
import torch.nn as nn
from fairseq.utils import apply_to_sample
from torch import Tensor

from .host_memory import keep_freed_memory

FAIRSEQ_TOKENS = 12000  # of a batch, as in fairseq-generate
# with as many as in fairseq-generate a base model is 10 % slower on CPU
TOKENS = {"cpu": 4000, "cuda": FAIRSEQ_TOKENS}


def choose_device(cpu: bool, has_gpu: Optional[bool] = None) -> torch.device:
    """Return the GPU, or the CPU where cpu is true or there is no GPU.

    has_gpu is by default whether torch can use one.
    """
    has_gpu = torch.cuda.is_available() if has_gpu is None else has_gpu
    return torch.device("cuda" if has_gpu and not cpu else "cpu")


def device_of_rank(cpu: bool, local_rank: Optional[int], num_gpus: int) -> torch.device:
    """Return a rank's GPU, by its number on its node, or the CPU, as choose_device does."""
    if choose_device(cpu, num_gpus > 0).type == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", (local_rank or 0) % num_gpus)


def backend_of(device: torch.device) -> str:
    """Return the backend of torch.distributed for ranks on such devices."""
    return "nccl" if device.type == "cuda" else "gloo"


def make_current(
    device: torch.device, set_device: Callable[[torch.device], None] = torch.cuda.set_device
) -> None:
    """Let this thread use a GPU, where the device is one: a thread starts with the first."""
    if device.type == "cuda":
        set_device(device)


def place(model: nn.Module, device: torch.device, searches: bool = True) -> None:
    """Move a model to a device; on a CPU, keep freed memory if the model is to run beam search."""
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
