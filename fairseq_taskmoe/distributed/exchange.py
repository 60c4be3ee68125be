"""Differentiable exchange of rows within an expert-parallel group.

Shapes: P ranks in the group, R rows of any width C.
"""

from typing import Any, List, Tuple

import torch
import torch.distributed as dist
from torch import Tensor


class ExchangeRows(torch.autograd.Function):
    """Send rows to the other ranks of a group and receive theirs.

    forward(rows (R, C), send, receive, group): rows are those for the other ranks by place, send[p]
    for place p, then those that stay on this rank. Returns the received rows, receive[p] from place
    p, then those that stayed. Numbers may be 0. The backward pass sends gradients back. A
    collective call.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, send: List[int], receive: List[int], group: Any) -> Tensor:
        ctx.sizes = (send, receive, group)
        return _exchange(rows, send, receive, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None, None, None]:
        send, receive, group = ctx.sizes
        return _exchange(grad.contiguous(), receive, send, group), None, None, None


def _exchange(rows: Tensor, send: List[int], receive: List[int], group: Any) -> Tensor:
    num_sent, num_received = sum(send), sum(receive)
    num_staying = rows.size(0) - num_sent
    out = rows.new_empty(num_received + num_staying, rows.size(1))
    dist.all_to_all_single(out[:num_received], rows[:num_sent], receive, send, group=group)
    out[num_received:] = rows[num_sent:]
    return out
