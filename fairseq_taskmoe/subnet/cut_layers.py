"""Cutting one MoE layer of a checkpoint: folded into a dense one, or with fewer experts.

All functions change the entries of one layer, whose names begin with prefix + ".moe.", in a
state dict. E experts, K for each task, N tasks.
"""

from typing import Dict, Iterable, List, Optional, Sequence

import torch
from torch import Tensor

from ..host import release_pages
from ..modules.folding import TaskRoute, fold_experts
from ..names import EXPERTS

StateDict = Dict[str, Tensor]


def same_route(one: TaskRoute, other: TaskRoute) -> bool:
    """Say whether two tasks compute the same, up to the order of their experts."""
    gates = (
        dict(zip(route.expert_ids.tolist(), route.gates.tolist(), strict=True))
        for route in (one, other)
    )
    return next(gates) == next(gates)


def fold_layer(state: StateDict, prefix: str, route: TaskRoute) -> None:
    """Replace an MoE layer by the one network that its route makes."""
    experts = prefix + EXPERTS
    names = _names(state, experts)
    # gates are applied in float32, whatever the training's precision was
    chosen = {name[len(experts):]: state[name][route.expert_ids].float() for name in names}
    release_pages(state[name] for name in names)
    for name in _names(state, f"{prefix}.moe."):
        del state[name]
    for name, tensor in fold_experts(chosen, route.gates).items():
        state[f"{prefix}.{name}"] = tensor


def keep_routes(state: StateDict, prefix: str, routes: Sequence[TaskRoute]) -> int:
    """Keep the experts of the routes of N tasks, each once, and the routes; return their number."""
    kept = sorted({expert for route in routes for expert in route.expert_ids.tolist()})
    _slice_experts(state, prefix, kept)
    router = f"{prefix}.moe.router."
    for name in _names(state, router):
        del state[name]
    state[f"{router}task_experts"] = torch.tensor(
        [[kept.index(expert) for expert in route.expert_ids.tolist()] for route in routes]
    )
    state[f"{router}task_gates"] = torch.stack([route.gates for route in routes])
    return len(kept)


def keep_experts(state: StateDict, prefix: str, kept: Optional[List[int]]) -> int:
    """Keep some experts of a layer that routes by the text, all for None; return their number.

    The gate chooses among those that remain, and normalises over the chosen as before.
    """
    weight = f"{prefix}{EXPERTS}fc1.weight"
    if kept is None:
        return state[weight].size(0)
    _slice_experts(state, prefix, kept)
    gate = f"{prefix}.moe.router.gate.weight"
    state[gate] = state[gate][kept]
    return len(kept)


def _slice_experts(state: StateDict, prefix: str, kept: List[int]) -> None:
    for name in _names(state, prefix + EXPERTS):
        whole, state[name] = state[name], state[name][kept]
        release_pages([whole])


def _names(state: Iterable[str], prefix: str) -> List[str]:
    return [name for name in state if name.startswith(prefix)]
