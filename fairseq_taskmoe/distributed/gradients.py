"""Gradients of experts that are spread over ranks: their scale, their replicas, their norm.

fairseq leaves parameters that carry the mark `expert` out of its data parallelism and out of the
clip norm. What is missing is done here.
"""

from typing import Any, Iterable, List, Optional

import torch
import torch.distributed as dist
from fairseq import utils
from torch import Tensor
from torch.nn import Parameter

from .expert_groups import ExpertGroups


def mark_spread(parameter: Parameter) -> None:
    """Mark a parameter that holds this rank's experts alone."""
    parameter.expert = True  # type: ignore[attr-defined]


def is_spread(parameter: Tensor) -> bool:
    """Say whether a parameter is marked so: what counts is that there is a mark."""
    return hasattr(parameter, "expert")


@torch.no_grad()
def reduce_expert_gradients(parameters: Iterable[Parameter], groups: ExpertGroups) -> None:
    """Give experts the gradient that fairseq's data parallelism gives shared parameters.

    That is the sum over all ranks, divided by their number. The rows of its own group's ranks have
    come to an expert already; what is missing is the sum over replicas. Called once an update, when
    the gradients of all micro-batches are there.
    """
    for parameter in parameters:
        if not is_spread(parameter):
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
    """Clip as fairseq's optimizers do, with every expert counted once; return the norm ().

    The norm is the same on all ranks, and what one rank would find that holds all experts. So an
    overflow in one rank's experts is seen by all. max_norm 0 measures without clipping.
    """
    shared = utils.clip_grad_norm_(parameters, 0, aggregate_norm_fn)
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    experts = [
        parameter.grad
        for parameter in parameters
        if is_spread(parameter) and parameter.grad is not None
    ]
    square = torch.zeros((), dtype=torch.float64, device=shared.device)
    for grad in experts:
        square += torch.linalg.vector_norm(grad, dtype=torch.float32).to(square.dtype) ** 2
    dist.all_reduce(square)
    norm = (shared.to(square.dtype) ** 2 + square / groups.layout.num_replicas).sqrt().float()
    if max_norm > 0:
        torch._foreach_mul_(grads, (float(max_norm) / (norm + 1e-6)).clamp(max=1))
    return norm
