"""Saving and loading a model whose experts are spread over ranks.

By default one ordinary file, which holds all experts and fits any number of ranks: before rank 0
saves, all ranks hand it their experts, with their optimizer state. With --moe-sharded-checkpoints
each rank writes a file of its own experts, and rank 0's holds the shared weights too.

fairseq saves by calling state_dict() of model, EMA model and optimizer, so that is where the
experts of others are put in, or the shared weights left out.
"""

from typing import Any, Dict, List, Optional, Sequence

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor
from torch.optim import Optimizer

from ..modules.experts import EXPERTS
from .agreement import refuse_together
from .expert_groups import ExpertGroups
from .gradients import is_spread


class ExpertState:
    """What a rank saves. Attached to a run's model, EMA model and optimizer once they exist."""

    def __init__(
        self, groups: ExpertGroups, sharded: bool, model: nn.Module, optimizer: Optimizer,
        ema_model: Optional[nn.Module], saved_parameters: Sequence[str] = (),
    ):
        """Attach.

        Args:
            sharded: whether each rank saves its own experts
            saved_parameters: names under which the optimizer's state, as it is saved, holds the
                optimizer's parameters themselves
        """
        self.groups = groups
        self.models = [model] if ema_model is None else [model, ema_model]
        self.optimizer = optimizer
        self.whole: List[Dict[Any, Any]] = []  # of each model, then of the optimizer
        self.saved_parameters = saved_parameters
        if sharded and groups.rank > 0:
            for each in self.models:
                each.register_state_dict_post_hook(_keep_experts)
            optimizer.register_state_dict_post_hook(_keep_expert_moments)
        elif not sharded:
            # the trainer calls this on all ranks before rank 0 saves
            optimizer.consolidate_state_dict = self.gather  # type: ignore[attr-defined]
            for i, each in enumerate(self.models):
                each.register_state_dict_post_hook(self._filler(i))
            optimizer.register_state_dict_post_hook(self._fill_moments)

    def gather(self) -> None:
        """Hand all experts and their moments to rank 0: a collective call."""
        whole = [
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
            if is_spread(parameter)
            for key, value in self._saved_moments(parameter).items()
            if _is_moment(value, parameter)
        }
        self.whole = [*whole, moments] if self.groups.rank == 0 else []

    def release(self) -> None:
        """Forget what was gathered: it is saved, and training goes on."""
        self.whole = []

    def _saved_moments(self, parameter: nn.Parameter) -> Dict[str, Any]:
        moments = dict(sorted(self.optimizer.state[parameter].items()))
        return {**moments, **dict.fromkeys(self.saved_parameters, parameter.detach())}

    def _names(self) -> List[Optional[str]]:
        """Return the name of each parameter that is spread; a copied EMA model has no marks."""
        named = self.models[0].named_parameters()
        return [name if is_spread(parameter) else None for name, parameter in named]

    def _filler(self, index: int) -> Any:
        def fill(module: nn.Module, state: Dict[str, Any], prefix: str, metadata: Any) -> None:
            if self.whole:
                state.update(self.whole[index])

        return fill

    def _fill_moments(self, optimizer: Optimizer, state: Dict[str, Any]) -> None:
        if not self.whole:
            return
        # new dictionaries: the given ones are the optimizer's own
        state["state"] = {i: dict(moments) for i, moments in state["state"].items()}
        for (i, key), value in self.whole[-1].items():
            state["state"][i][key] = value


def local_experts(stored: Tensor, own: Tensor, groups: ExpertGroups) -> Tensor:
    """Return this rank's part of stored (E, ...), for own (E / P, ...); another shape as it is."""
    if stored.shape == (groups.layout.num_experts, *own.shape[1:]):
        return stored[groups.experts]
    return stored


def gather_experts(local: Tensor, groups: ExpertGroups) -> Optional[Tensor]:
    """Return the experts (E, ...) of all ranks on rank 0's host, None elsewhere.

    A collective call; ranks of other groups hold replicas, and have nothing to do.
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
    """Give every rank the shared weights of rank 0's shard: a collective call.

    state is what each rank's file holds; what of the model is not in it is added, in place.
    Refuses the shard of another model.
    """
    own = model.state_dict()
    shared = [name for name in own if not is_expert_key(name)]
    told = [{name: state[name].shape for name in shared if name in state}]
    dist.broadcast_object_list(told, 0)
    for name in shared:
        if name not in told[0] or told[0][name] != own[name].shape:
            refuse_together(other_model(name, state.get(name), own[name].shape))
    refuse_together(None)
    for name in shared:
        # fairseq saves half precision as float32
        value = state.get(name, own[name]).to(groups.device(), own[name].dtype, copy=True)
        dist.broadcast(value, 0)
        state[name] = value.to(own[name].device)


def other_model(name: str, stored: Optional[Tensor], wanted: torch.Size) -> str:
    """Return what is wrong with a checkpoint that has `name` in another shape, or not at all."""
    found = "is missing" if stored is None else f"has the shape {tuple(stored.shape)}"
    return (
        f"the checkpoint is of another model: {name} {found} in it, and the shape {tuple(wanted)} "
        "in the model of these flags; give the --lang-pairs, --moe-expert-count and other flags "
        "that it was trained with, or another --save-dir"
    )


def prepare_loaded_moments(optimizer: Optimizer, groups: ExpertGroups, sharded: bool) -> None:
    """Make the optimizer state that was loaded, if any, this rank's.

    A collective call where ranks have loaded shards.
    """
    cut_moments(optimizer, groups)
    if sharded:
        share_moments(optimizer)


def cut_moments(optimizer: Optimizer, groups: ExpertGroups) -> None:
    """Cut an optimizer state that holds all experts down to this rank's, in place."""
    for parameter in _parameters(optimizer):
        if is_spread(parameter):
            moments = optimizer.state[parameter]
            for key, value in moments.items():
                if torch.is_tensor(value):
                    moments[key] = local_experts(value, parameter, groups).clone()


def share_moments(optimizer: Optimizer) -> None:
    """Give all ranks the moments of shared parameters, which rank 0's shard alone holds.

    A collective call.
    """
    shared = [parameter for parameter in _parameters(optimizer) if not is_spread(parameter)]
    is_first = dist.get_rank() == 0
    # what is no moment of the parameter's shape, such as a number of steps, is told by value
    known = [
        {
            key: value.to("meta") if _is_moment(value, parameter) else value
            for key, value in optimizer.state.get(parameter, {}).items()
        }
        for parameter in shared
    ]
    told = [known if is_first else None]
    dist.broadcast_object_list(told, 0)
    for parameter, moments in zip(shared, told[0] or [], strict=True):
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
    spread = [is_spread(parameter) for parameter in _parameters(optimizer)]
    state["state"] = {i: moments for i, moments in state["state"].items() if spread[i]}


def is_expert_key(name: str) -> bool:
    """Say whether a key of the model's state names experts."""
    return EXPERTS in name
