"""The float32 weights behind --fp16 and --bf16, kept in checkpoints.

fairseq saves the half-precision model and makes float32 weights anew from it at resume, which loses
what was rounded away: a resumed run is not the run that never stopped. Here they are saved as one
more entry of each parameter's optimizer state.
"""

from typing import Any, Dict

import torch

KEY = "fp32_master"


def has_masters(optimizer: Any) -> bool:
    """Say whether a fairseq optimizer has a float32 copy of each parameter.

    With flattened --fp16 there is one for all, which is left as fairseq makes it.
    """
    return isinstance(getattr(optimizer, "fp32_params", None), list)


@torch.no_grad()
def keep_master_weights(optimizer: Any) -> None:
    """Restore the float32 weights that a fairseq optimizer has loaded, and save them from now on.

    Called once, before the first update.
    """
    if not has_masters(optimizer):
        return
    inner = optimizer.optimizer
    for master in optimizer.fp32_params:
        stored = inner.state[master].pop(KEY, None)
        if stored is not None:
            master.copy_(stored)

    def add(inner: torch.optim.Optimizer, state: Dict[str, Any]) -> None:
        # new dictionaries: the given ones are the optimizer's own
        state["state"] = {
            i: {**state["state"].get(i, {}), KEY: master.detach()}
            for i, master in enumerate(optimizer.fp32_params)
        }

    inner.register_state_dict_post_hook(add)
