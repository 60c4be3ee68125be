"""Random gates that use experts about as evenly as trained gates.

The states of an untrained transformer have a large common component, which determines the choice
of a random gate: 64 tokens then use a third of 32 experts. With a balance loss they use nearly all.
Without this correction, token routing would seem faster than it is.
"""

from typing import Any, Dict

import torch
import torch.nn as nn
from torch import Tensor

from ...modules.routers import TokenRouter


@torch.no_grad()
def even_out(model: nn.Module, batch: Dict[str, Any], targets: Tensor) -> None:
    """Remove the mean state of each MoE layer from its token router's gate.

    This is done layer by layer, while the model reads a batch of random sentences and targets
    (B, T) of random words. A collective call if experts are distributed over ranks.
    """

    def project(router: nn.Module, args: Any) -> None:
        x, inputs = args  # x (B, S, C)
        mean = x[inputs.token_mask].double().mean(dim=0)
        direction = mean / mean.norm()
        gate: Any = router.get_submodule("gate")
        weight = gate.weight.double()  # (E, C)
        gate.weight.copy_(weight - torch.outer(weight @ direction, direction))

    routers = [module for module in model.modules() if isinstance(module, TokenRouter)]
    handles = [router.register_forward_pre_hook(project) for router in routers]
    inputs = {name: batch["net_input"][name] for name in ("src_tokens", "src_lengths", "task_ids")}
    try:
        model(**inputs, prev_output_tokens=targets, features_only=True)
    finally:
        for handle in handles:
            handle.remove()
