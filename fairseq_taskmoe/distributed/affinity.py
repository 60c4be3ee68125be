"""The affinity of tasks to ranks, by which ranks hold the experts of a task."""

import torch
import torch.nn as nn
from torch import Tensor

from ..errors import refuse
from ..modules.folding import task_route
from ..modules.moe_layer import MoELayer
from .layout import ExpertLayout


def task_affinity(model: nn.Module, num_tasks: int, layout: ExpertLayout) -> Tensor:
    """Return the fraction of each task's gates whose experts each rank holds (N, P), float64.

    N tasks, P ranks of an expert-parallel group. It is the mean over the layers that route by task;
    refuses a model without such layers.
    """
    routers = [module.router for module in model.modules() if isinstance(module, MoELayer)]
    fractions = torch.zeros(num_tasks, layout.size, dtype=torch.float64)
    for task_id in range(num_tasks):
        for route in (task_route(router, task_id) for router in routers):
            if route is not None:
                places = route.expert_ids.cpu() // layout.experts_per_rank
                fractions[task_id].index_add_(0, places, route.gates.double().cpu())
    total = fractions.sum(dim=1, keepdim=True)
    if not (total > 0).all():
        refuse(
            "--moe-task-local-batches: no layer routes by task, so no rank holds a task's experts"
        )
    return fractions / total
