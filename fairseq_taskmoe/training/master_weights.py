"""Saving the float32 master weights of --fp16 and --bf16 in checkpoints.

fairseq saves only the half-precision model, so a resumed run loses the precision of the master
weights and differs from an uninterrupted run. Here they are saved as another entry of each
parameter's optimizer state.
"""

from typing import Any, Dict

import torch

KEY = "fp32_master"


def has_masters(optimizer: Any) -> bool:
    """Return whether a fairseq optimizer has a float32 copy of each parameter.

    With flattened --fp16 there is one copy for all parameters, which is not saved.
    """
    return isinstance(getattr(optimizer, "fp32_params", None), list)


@torch.no_grad()
def keep_master_weights(optimizer: Any) -> None:
    """Restore the float32 weights in a loaded optimizer state, and save them from now on.

    To be called once, before the first update.
    """
    if not has_masters(optimizer):
        return
    inner = optimizer.optimizer
    for master in optimizer.fp32_params:
        stored = inner.state[master].pop(KEY, None)
        if stored is not None:
            master.copy_(stored)

    def add(inner: torch.optim.Optimizer, state: Dict[str, Any]) -> None:
        # new dictionaries, since the given ones belong to the optimizer
        state["state"] = {
            i: {**state["state"].get(i, {}), KEY: master.detach()}
            for i, master in enumerate(optimizer.fp32_params)
        }

    inner.register_state_dict_post_hook(add)
