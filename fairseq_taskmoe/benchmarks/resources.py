"""Operations and memory of a computation, counted while it runs once."""

from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, NamedTuple

import torch
from torch.nn import Parameter


@contextmanager
def one_thread() -> Iterator[None]:
    """Run on one thread: torch does not count what other Python threads do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def flops(compute: Callable[[], Any]) -> int:
    """Return the operations of matrix products and attention in one run."""
    with counting_flops() as counted:
        compute()
    return counted()


@contextmanager
def counting_flops() -> Iterator[Callable[[], int]]:
    """Yield a function that returns the number of operations so far."""
    from torch.utils.flop_counter import FlopCounterMode

    with one_thread(), FlopCounterMode(
        display=False, custom_mapping=_missing_formulas()
    ) as counter:
        yield counter.get_total_flops


def _missing_formulas() -> Dict[Any, Callable[..., int]]:
    """Return formulas, of shapes, for the operators that torch's own list lacks."""
    from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

    def attention(queries: Any, keys: Any, values: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(queries, keys, values)

    def attention_backward(
        grad: Any, queries: Any, keys: Any, values: Any, *_: Any, **__: Any
    ) -> int:
        return sdpa_backward_flop_count(grad, queries, keys, values)

    def grouped(rows: Any, others: Any, *_: Any, **__: Any) -> int:
        # groups divide one of the three dimensions, unless both sides are stacks of matrices
        stacked = rows[0] if len(rows) == len(others) == 3 else 1
        return 2 * stacked * rows[-2] * rows[-1] * others[-1]

    aten = torch.ops.aten
    formulas: Dict[Any, Callable[..., int]] = {
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
    }
    if hasattr(aten, "_grouped_mm"):
        formulas[aten._grouped_mm] = grouped
    return formulas


class WeightSizes(NamedTuple):
    """Number of parameters, and their bytes."""

    parameters: int
    weight_bytes: int
    gradient_bytes: int  # of the parameters that have a gradient


def measured_weights(parameters: List[Parameter]) -> WeightSizes:
    """Return the sizes of parameters after a backward pass."""
    return WeightSizes(
        sum(p.numel() for p in parameters),
        sum(p.nbytes for p in parameters),
        sum(p.grad.nbytes for p in parameters if p.grad is not None),
    )


def peak_bytes(
    step: Callable[[], Any], parameters: List[Parameter], device: str, cuda: Any = torch.cuda
) -> int:
    """Return the peak of allocated bytes during a step, without the gradients of its parameters.

    On CPU this is the running sum of the allocations that torch's profiler reports; on a GPU the
    allocator, cuda, counts them.
    """
    for parameter in parameters:
        parameter.grad = None
    peak = _cuda_peak(step, cuda) if device == "cuda" else _cpu_peak(step)
    return peak - measured_weights(parameters).gradient_bytes


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
