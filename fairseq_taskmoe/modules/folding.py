"""Folding the experts of a task, whose routing is constant, into one dense network.

The sum of two networks of width F, weighted with g1 and g2, is one network of width 2 F: stack the
first matrices, and multiply the second ones by g1 and g2 (paper section 3.2). The result needs no
router and no other expert.
"""

from typing import Dict, NamedTuple, Optional

import torch
import torch.nn as nn
from torch import Tensor

from .fixed_routers import StaticRouter
from .linear import Linear
from .moe_layer import MoELayer
from .routers import RoutingInputs, TaskRouter

FOLDABLE = (TaskRouter, StaticRouter)


class TaskRoute(NamedTuple):
    """The experts and gates of one task in one MoE layer."""

    expert_ids: Tensor  # (K,) int64
    gates: Tensor  # (K,) float32


def task_route(router: nn.Module, task_id: int) -> Optional[TaskRoute]:
    """Return the route of a task, or None if routing depends on the text."""
    if not isinstance(router, FOLDABLE):
        return None
    was_training = router.training
    task_ids = torch.tensor([task_id], device=next(iter(router.buffers())).device)
    token = torch.ones(1, 1, device=task_ids.device)
    inputs = RoutingInputs(task_ids, token.bool(), task_ids, None)
    with torch.no_grad():
        routing = router.eval()(token.unsqueeze(2), inputs)
    router.train(was_training)
    return TaskRoute(routing.expert_ids[0, 0], routing.gates[0, 0].float())


def fold_experts(chosen: Dict[str, Tensor], gates: Tensor) -> Dict[str, Tensor]:
    """Merge the experts of a route, weighted by its gates (K,), into one network.

    The K experts of width F over C channels are stacked: fc1.weight (K, F, C), fc1.bias (K, 1, F),
    fc2.weight (K, C, F), fc2.bias (K, 1, C). The result has width K F: fc1.weight
    (K F, C), fc1.bias (K F,), fc2.weight (C, K F), fc2.bias (C,). It is computed in float32.
    """
    fc1_weight, fc1_bias, fc2_weight, fc2_bias = (
        chosen[name] for name in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
    )
    gates = gates.to(fc2_weight.device).view(-1, 1, 1)
    weighted = (gates * fc2_weight.float()).type_as(fc2_weight)
    return {
        "fc1.weight": fc1_weight.flatten(0, 1),
        "fc1.bias": fc1_bias.flatten(),
        "fc2.weight": torch.cat(list(weighted), dim=1),
        "fc2.bias": (gates * fc2_bias.float()).sum(dim=(0, 1)).type_as(fc2_bias),
    }


def fold_layer(moe: MoELayer, task_id: int) -> Optional[Dict[str, Linear]]:
    """Return the folded network of a task as fc1 and fc2, or None if routing depends on the text.

    A collective call with expert parallelism.
    """
    route = task_route(moe.router, task_id)
    if route is None:
        return None
    chosen = {
        name: moe.dispatcher.fetch(weights, route.expert_ids)
        for name, weights in moe.experts.state_dict().items()
    }
    folded = fold_experts(chosen, route.gates)
    linears = {}
    for name in ("fc1", "fc2"):
        weight, bias = folded[f"{name}.weight"], folded[f"{name}.bias"]
        with torch.device("meta"):  # the parameters are set below
            linear = Linear(weight.size(1), weight.size(0), keep_bf16_output=name == "fc1")
        linear.weight, linear.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
        linear.has_narrow_weight = moe.experts.fc1.has_narrow_weight
        linears[name] = linear
    return linears
