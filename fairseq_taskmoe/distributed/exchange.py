"""Differentiable exchange of rows within an expert-parallel group.

Shapes: P ranks in the group, R rows of any width C.
"""

from typing import Any, List, Tuple

import torch
import torch.distributed as dist
from torch import Tensor


class ExchangeRows(torch.autograd.Function):
    """Send rows to the other ranks of a group and receive theirs; what stays here is not sent.

    forward(rows (R, C), send, receive, group): the rows for each other rank in order of rank,
    send[p] of them for place p, then the rows that stay. Returns those received, receive[p] from
    place p, then those that stayed. Sizes differ, and may be 0. The gradient goes the same way
    back. Every rank of the group must call it, in the same order.
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
    leaving, arriving = sum(send), sum(receive)
    staying = rows.size(0) - leaving
    out = rows.new_empty(arriving + staying, rows.size(1))
    dist.all_to_all_single(out[:arriving], rows[:leaving], receive, send, group=group)
    out[arriving:] = rows[leaving:]
    return out
