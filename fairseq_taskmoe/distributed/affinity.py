"""Which tasks belong to which ranks: where the experts live that their gates choose."""

import torch
import torch.nn as nn
from torch import Tensor

from ..errors import refuse
from ..modules.folding import task_route
from ..modules.moe_layer import MoELayer
from .layout import ExpertLayout


def task_affinity(model: nn.Module, num_tasks: int, layout: ExpertLayout) -> Tensor:
    """Return the share of each task's gates whose experts live on each place (N, P), float64.

    N tasks, P places of an expert group. The mean over layers that route by task; refuses a model
    that has none.
    """
    routers = [module.router for module in model.modules() if isinstance(module, MoELayer)]
    shares = torch.zeros(num_tasks, layout.size, dtype=torch.float64)
    for task_id in range(num_tasks):
        for route in (task_route(router, task_id) for router in routers):
            if route is not None:
                places = route.expert_ids.cpu() // layout.experts_per_rank
                shares[task_id].index_add_(0, places, route.gates.double().cpu())
    total = shares.sum(dim=1, keepdim=True)
    if not (total > 0).all():
        refuse(
            "--moe-task-local-batches: no layer routes by task, so that no rank is nearer to a "
            "task than another"
        )
    return shares / total
