"""Count what a rank sends to others, at the calls of torch.distributed."""

import math
from collections import Counter
from contextlib import contextmanager
from typing import Any, Iterator, List, NamedTuple, Optional
from unittest.mock import patch

import torch.distributed as dist
from torch import Tensor


class Sent(NamedTuple):
    """What one rank sent in collectives, by kind: rows, facts, counts, all_reduce.

    `rows` are tokens and their gradients, `facts` the experts and gates of tokens, `counts` the
    numbers of rows that follow. `all_reduce` is the size of the reduced tensors: gradients and a
    few sums.
    """

    num_bytes: "Counter[str]"  # to other ranks only, except all_reduce
    calls: "Counter[str]"

    def clear(self) -> None:
        self.num_bytes.clear()
        self.calls.clear()


@contextmanager
def counting_collectives(facts_width: int) -> Iterator[Sent]:
    """Yield the counts of what this process sends from now on.

    facts_width: the width of facts, 1 + 2 K, which distinguishes them from rows.
    """
    sent = Sent(Counter(), Counter())
    exchange, reduce = dist.all_to_all_single, dist.all_reduce

    def counted_exchange(
        output: Tensor, source: Tensor, output_sizes: Optional[List[int]] = None,
        input_sizes: Optional[List[int]] = None, group: Any = None, async_op: bool = False,
    ) -> Any:
        kind = "counts"
        if source.is_floating_point():
            kind = "facts" if source.size(1) == facts_width else "rows"
        size, rank = dist.get_world_size(group), dist.get_rank(group)
        sizes = input_sizes or [source.size(0) // size] * size
        row_bytes = math.prod(source.shape[1:]) * source.element_size()
        sent.num_bytes[kind] += (sum(sizes) - sizes[rank]) * row_bytes
        sent.calls[kind] += 1
        return exchange(output, source, output_sizes, input_sizes, group, async_op)

    def counted_reduce(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        sent.num_bytes["all_reduce"] += tensor.numel() * tensor.element_size()
        sent.calls["all_reduce"] += 1
        return reduce(tensor, *args, **kwargs)

    with (
        patch.object(dist, "all_to_all_single", counted_exchange),
        patch.object(dist, "all_reduce", counted_reduce),
    ):
        yield sent
