"""Operations of matrix products and attention, as torch counts them while they run."""

from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator

import torch

from .one_thread import one_thread


def flops(compute: Callable[[], Any]) -> int:
    """Return the operations of one run."""
    with counting_flops() as counted:
        compute()
    return counted()


@contextmanager
def counting_flops() -> Iterator[Callable[[], int]]:
    """Give a function that says how many operations have been counted."""
    from torch.utils.flop_counter import FlopCounterMode

    with one_thread(), FlopCounterMode(
        display=False, custom_mapping=_not_in_torch()
    ) as counter:
        yield counter.get_total_flops


def _not_in_torch() -> Dict[Any, Callable[..., int]]:
    """Return formulas, from shapes, for what torch's own list leaves out."""
    from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

    def attention(queries: Any, keys: Any, values: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(queries, keys, values)

    def attention_backward(
        grad: Any, queries: Any, keys: Any, values: Any, *_: Any, **__: Any
    ) -> int:
        return sdpa_backward_flop_count(grad, queries, keys, values)

    def grouped(rows: Any, others: Any, *_: Any, **__: Any) -> int:
        # groups share out one of the three dimensions, unless both sides are stacks of matrices
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
