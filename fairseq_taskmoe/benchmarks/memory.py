"""Memory of a computation: what its parameters take, and the peak beyond."""

from typing import Any, Callable, List, NamedTuple

import torch
from torch.nn import Parameter

from .one_thread import one_thread


class Weights(NamedTuple):
    """What parameters take in memory."""

    parameters: int
    weight_bytes: int
    gradient_bytes: int  # of those that got one


def measured_weights(parameters: List[Parameter]) -> Weights:
    """Return the sizes of parameters after a backward pass."""
    return Weights(
        sum(p.numel() for p in parameters),
        sum(p.nbytes for p in parameters),
        sum(p.grad.nbytes for p in parameters if p.grad is not None),
    )


def peak_bytes(
    step: Callable[[], Any], parameters: List[Parameter], device: str, cuda: Any = torch.cuda
) -> int:
    """Return the most bytes that a step has allocated at once, beyond its parameters' gradients.

    On CPU the allocations that torch's profiler reports are added up in order; a GPU's allocator,
    cuda, counts them itself.
    """
    for parameter in parameters:
        parameter.grad = None
    peak = _cuda_peak(step, cuda) if device == "cuda" else _cpu_peak(step)
    used = sum(p.grad.nbytes for p in parameters if p.grad is not None)
    return peak - used


def _cuda_peak(step: Callable[[], Any], cuda: Any) -> int:
    cuda.reset_peak_memory_stats()
    before = cuda.memory_allocated()
    step()
    cuda.synchronize()
    return cuda.max_memory_allocated() - before


def _cpu_peak(step: Callable[[], Any]) -> int:
    with one_thread(), torch.profiler.profile(profile_memory=True) as profile:
        step()
    held = peak = 0
    events = profile.profiler.kineto_results.events()
    changes = sorted(
        (event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"
    )
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak
