"""Saving and loading a model with expert parallelism.

By default a checkpoint is one ordinary file with all experts, for any number of ranks: before rank
0 saves, it gathers the experts of all ranks with their optimizer state. With
--moe-sharded-checkpoints each rank writes a file with its experts, and rank 0 adds the shared
weights to its own.

fairseq saves the state_dict() of model, EMA model and optimizer. Hooks on these add the experts of
other ranks, or remove shared weights.
"""

from typing import Any, Dict, List, Optional, Sequence

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor
from torch.optim import Optimizer

from ..names import EXPERTS
from .agreement import refuse_together
from .expert_groups import ExpertGroups
from .gradients import is_expert_parallel


class ExpertState:
    """The state that a rank saves, by hooks on the model, EMA model and optimizer of a run."""

    def __init__(
        self, groups: ExpertGroups, sharded: bool, model: nn.Module, optimizer: Optimizer,
        ema_model: Optional[nn.Module], saved_parameters: Sequence[str] = (),
    ):
        """Register the hooks.

        Args:
            sharded: whether each rank saves its own experts
            saved_parameters: names of entries of the saved optimizer state that are the
                optimizer's parameters themselves
        """
        self.groups = groups
        self.models = [model] if ema_model is None else [model, ema_model]
        self.optimizer = optimizer
        # all experts of each model, then of the optimizer state
        self.gathered: List[Dict[Any, Any]] = []
        self.saved_parameters = saved_parameters
        if sharded and groups.rank > 0:
            for each in self.models:
                each.register_state_dict_post_hook(_keep_experts)
            optimizer.register_state_dict_post_hook(_keep_expert_moments)
        elif not sharded:
            # fairseq's trainer calls this on all ranks before rank 0 saves
            optimizer.consolidate_state_dict = self.gather  # type: ignore[attr-defined]
            for i, each in enumerate(self.models):
                each.register_state_dict_post_hook(self._filler(i))
            optimizer.register_state_dict_post_hook(self._fill_moments)

    def gather(self) -> None:
        """Gather all experts and their optimizer state on rank 0: a collective call."""
        experts = [
            {
                name: gather_experts(parameter.detach(), self.groups)
                for name, parameter in zip(self._names(), model.parameters(), strict=True)
                if name is not None
            }
            for model in self.models
        ]
        moments = {
            (i, key): gather_experts(value, self.groups)
            for i, parameter in enumerate(_parameters(self.optimizer))
            if is_expert_parallel(parameter)
            for key, value in self._saved_moments(parameter).items()
            if _is_moment(value, parameter)
        }
        self.gathered = [*experts, moments] if self.groups.rank == 0 else []

    def release(self) -> None:
        """Free what was gathered for a save."""
        self.gathered = []

    def _saved_moments(self, parameter: nn.Parameter) -> Dict[str, Any]:
        moments = dict(sorted(self.optimizer.state[parameter].items()))
        return {**moments, **dict.fromkeys(self.saved_parameters, parameter.detach())}

    def _names(self) -> List[Optional[str]]:
        """Return the names of expert parameters, None for others: EMA copies have no marks."""
        named = self.models[0].named_parameters()
        return [name if is_expert_parallel(parameter) else None for name, parameter in named]

    def _filler(self, index: int) -> Any:
        def fill(module: nn.Module, state: Dict[str, Any], prefix: str, metadata: Any) -> None:
            if self.gathered:
                state.update(self.gathered[index])

        return fill

    def _fill_moments(self, optimizer: Optimizer, state: Dict[str, Any]) -> None:
        if not self.gathered:
            return
        # new dictionaries, since the given ones belong to the optimizer
        state["state"] = {i: dict(moments) for i, moments in state["state"].items()}
        for (i, key), value in self.gathered[-1].items():
            state["state"][i][key] = value


def local_experts(stored: Tensor, own: Tensor, groups: ExpertGroups) -> Tensor:
    """Return this rank's part (E / P, ...) of stored (E, ...); other shapes are returned as is."""
    if stored.shape == (groups.layout.num_experts, *own.shape[1:]):
        return stored[groups.experts]
    return stored


def gather_experts(local: Tensor, groups: ExpertGroups) -> Optional[Tensor]:
    """Return the experts (E, ...) of all ranks in rank 0's host memory, None on other ranks.

    A collective call; ranks of other groups, which hold replicas, return at once.
    """
    if groups.rank >= groups.layout.size:
        return None
    local = local.contiguous()
    if groups.rank > 0:
        dist.gather(local, dst=0, group=groups.group)
        return None
    parts = [torch.empty_like(local) for _ in range(groups.layout.size)]
    dist.gather(local, parts, dst=0, group=groups.group)
    return torch.cat([part.cpu() for part in parts])


def complete_shared(state: Dict[str, Tensor], model: nn.Module, groups: ExpertGroups) -> None:
    """Add the shared weights of rank 0's shard to the state of all ranks: a collective call.

    state is the content of each rank's file; it is changed in place. Refuses the shard of another
    model.
    """
    own = model.state_dict()
    shared = [name for name in own if not is_expert_key(name)]
    shapes = [{name: state[name].shape for name in shared if name in state}]
    dist.broadcast_object_list(shapes, 0)
    for name in shared:
        if shapes[0].get(name) != own[name].shape:
            refuse_together(other_model(name, state.get(name), own[name].shape))
    refuse_together(None)
    for name in shared:
        # fairseq saves half precision as float32
        value = state.get(name, own[name]).to(groups.device(), own[name].dtype, copy=True)
        dist.broadcast(value, 0)
        state[name] = value.to(own[name].device)


def other_model(name: str, stored: Optional[Tensor], expected: torch.Size) -> str:
    """Return the message for a checkpoint in which `name` is missing or has another shape."""
    found = "is missing" if stored is None else f"has the shape {tuple(stored.shape)}"
    return (
        f"the checkpoint is of another model: {name} {found} in it, and the shape "
        f"{tuple(expected)} in the model of these flags; give the --lang-pairs, "
        "--moe-expert-count and other flags that it was trained with, or another --save-dir"
    )


def prepare_loaded_moments(optimizer: Optimizer, groups: ExpertGroups, sharded: bool) -> None:
    """Reduce a loaded optimizer state to the experts of this rank.

    A collective call if sharded.
    """
    cut_moments(optimizer, groups)
    if sharded:
        broadcast_shared_moments(optimizer)


def cut_moments(optimizer: Optimizer, groups: ExpertGroups) -> None:
    """Reduce an optimizer state of all experts to those of this rank, in place."""
    for parameter in _parameters(optimizer):
        if is_expert_parallel(parameter):
            moments = optimizer.state[parameter]
            for key, value in moments.items():
                if torch.is_tensor(value):
                    moments[key] = local_experts(value, parameter, groups).clone()


def broadcast_shared_moments(optimizer: Optimizer) -> None:
    """Give all ranks the optimizer state of shared parameters, which only rank 0's shard holds.

    A collective call.
    """
    shared = [each for each in _parameters(optimizer) if not is_expert_parallel(each)]
    is_first = dist.get_rank() == 0
    # entries of other shapes than the parameter's, such as the number of steps, are sent by value
    entries = [
        {
            key: value.to("meta") if _is_moment(value, parameter) else value
            for key, value in optimizer.state.get(parameter, {}).items()
        }
        for parameter in shared
    ]
    broadcast = [entries if is_first else None]
    dist.broadcast_object_list(broadcast, 0)
    for parameter, moments in zip(shared, broadcast[0] or [], strict=True):
        for key, like in moments.items():
            value = like
            if _is_moment(like, parameter):
                value = optimizer.state[parameter][key] if is_first else torch.empty_like(
                    like, device=parameter.device
                )
                dist.broadcast(value, 0)
            optimizer.state[parameter][key] = value


def _is_moment(value: Any, parameter: Tensor) -> bool:
    return torch.is_tensor(value) and value.shape == parameter.shape


def _parameters(optimizer: Optimizer) -> List[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _keep_experts(module: nn.Module, state: Dict[str, Any], prefix: str, metadata: Any) -> None:
    for name in [name for name in state if not is_expert_key(name)]:
        del state[name]


def _keep_expert_moments(optimizer: Optimizer, state: Dict[str, Any]) -> None:
    is_expert = [is_expert_parallel(parameter) for parameter in _parameters(optimizer)]
    state["state"] = {i: moments for i, moments in state["state"].items() if is_expert[i]}


def is_expert_key(name: str) -> bool:
    """Return whether a key of the model's state is a parameter of experts."""
    return EXPERTS in name
