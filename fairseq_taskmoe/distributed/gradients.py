"""Gradients of experts with expert parallelism: their scale, reduction over replicas, and norm.

fairseq excludes parameters with the attribute `expert` from its data parallelism and from gradient
clipping, which this module does instead.
"""

from typing import Any, Iterable, List, Optional

import torch
import torch.distributed as dist
from fairseq import utils
from torch import Tensor
from torch.nn import Parameter

from .expert_groups import ExpertGroups


def mark_expert_parallel(parameter: Parameter) -> None:
    """Mark a parameter that holds only the experts of this rank."""
    parameter.expert = True  # type: ignore[attr-defined]


def is_expert_parallel(parameter: Tensor) -> bool:
    """Return whether a parameter holds only the experts of this rank."""
    return hasattr(parameter, "expert")


@torch.no_grad()
def reduce_expert_gradients(parameters: Iterable[Parameter], groups: ExpertGroups) -> None:
    """Average the gradients of experts over ranks, as fairseq does for shared parameters.

    That is the sum over all ranks, divided by their number. An expert's gradient already includes
    the rows of its group; this adds those of the replicas. To be called once in an update, after
    the backward pass of the last micro-batch.
    """
    for parameter in parameters:
        if not (is_expert_parallel(parameter) and parameter.requires_grad):
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad.div_(groups.layout.world_size)
        if groups.replicas is not None:
            dist.all_reduce(parameter.grad, group=groups.replicas)


@torch.no_grad()
def clip_grad_norm(
    parameters: List[Parameter], groups: ExpertGroups, max_norm: float,
    aggregate_norm_fn: Optional[Any] = None,
) -> Tensor:
    """Clip gradients as fairseq's optimizers do, counting each expert once; return the norm ().

    The norm is the same on all ranks, that of one rank with all experts, so all ranks detect an
    overflow in the experts of one. max_norm 0 computes the norm without clipping.
    """
    shared = utils.clip_grad_norm_(parameters, 0, aggregate_norm_fn)
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    experts = [
        parameter.grad
        for parameter in parameters
        if is_expert_parallel(parameter) and parameter.grad is not None
    ]
    square = torch.zeros((), dtype=torch.float64, device=shared.device)
    for grad in experts:
        square += torch.linalg.vector_norm(grad, dtype=torch.float32).to(square.dtype) ** 2
    dist.all_reduce(square)
    norm = (shared.to(square.dtype) ** 2 + square / groups.layout.num_replicas).sqrt().float()
    if max_norm > 0:
        torch._foreach_mul_(grads, (float(max_norm) / (norm + 1e-6)).clamp(max=1))
    return norm
