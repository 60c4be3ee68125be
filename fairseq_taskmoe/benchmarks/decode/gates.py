"""Gates of random weights that use experts about as evenly as trained ones do.

The states of an untrained transformer have much in common, and a random gate's choice follows what
they have in common: 64 tokens then meet a third of 32 experts, where the balance loss of training
spreads them over nearly all. Token routing would look better than it is.
"""

from typing import Any, Dict

import torch
import torch.nn as nn
from torch import Tensor

from ...modules.routers import TokenRouter


@torch.no_grad()
def even_out(model: nn.Module, batch: Dict[str, Any], targets: Tensor) -> None:
    """Let the token routers of a model choose by what tells states apart.

    The mean state of a layer's tokens is projected out of its gate, layer by layer while the model
    reads a batch of random sentences, and targets (B, T) of random words. A collective call where
    experts are spread over ranks.
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
