"""Building the layers of a stack of the model, `encoder` or `decoder`, from the configuration."""

from typing import Any, Dict, Optional

import torch.nn as nn
from torch import Tensor

from ..data.task_table import TaskTable
from ..distributed.all_to_all_dispatcher import AllToAllDispatcher
from ..distributed.expert_groups import ExpertGroups
from ..distributed.gradients import mark_expert_parallel
from ..errors import refuse
from ..modules.experts import Experts
from ..modules.folding import TaskRoute, task_route
from ..modules.moe_layer import MoELayer
from ..modules.transformer_layers import LayerShape
from ..names import STACKS
from .router_kinds import ROUTERS, RouterPlace


def check_config(cfg: Any) -> None:
    """Refuse an invalid configuration, naming the flag."""
    for stack in STACKS:
        for name in ("embed_dim", "ffn_embed_dim", "layers", "attention_heads"):
            value = getattr(cfg, f"{stack}_{name}")
            if value < 1:
                refuse(f"--{stack}-{name.replace('_', '-')} {value}: give 1 or more")
        dim, heads = getattr(cfg, f"{stack}_embed_dim"), getattr(cfg, f"{stack}_attention_heads")
        if dim % heads:
            refuse(f"--{stack}-embed-dim {dim} is no multiple of --{stack}-attention-heads {heads}")
    if cfg.moe_expert_count == 0:
        return
    if cfg.moe_expert_count < 0:
        refuse(f"--moe-expert-count {cfg.moe_expert_count}: give 0 for a dense model, or more")
    if not 1 <= cfg.moe_top_k <= cfg.moe_expert_count:
        refuse(
            f"--moe-top-k {cfg.moe_top_k}: give at least 1 and at most "
            f"--moe-expert-count {cfg.moe_expert_count}"
        )
    for stack in STACKS:
        router = str(getattr(cfg, f"{stack}_moe_router"))
        if moe_freq(cfg, stack) < 1:
            refuse(f"--{stack}-moe-freq {moe_freq(cfg, stack)}: give 1 or more")
        _check_layer_experts(cfg, stack)
        if ROUTERS[router].learns_from_text:
            continue
        for flag in ("moe_capacity_factor", "moe_eval_capacity_factor"):
            if getattr(cfg, flag) > 0:
                why = "only token and sentence routers have a capacity"
                if ROUTERS[router].groups_by is not None:
                    why = (
                        "all tokens of a task have the same experts, so a capacity would drop most "
                        "of them in training and none at inference"
                    )
                refuse(
                    f"--{flag.replace('_', '-')} {getattr(cfg, flag)} with --{stack}-moe-router "
                    f"{router}: {why}; leave it at 0"
                )


def _check_layer_experts(cfg: Any, stack: str) -> None:
    counts = getattr(cfg, f"{stack}_moe_layer_experts")
    if counts is None:
        return
    num_layers = getattr(cfg, f"{stack}_layers") // moe_freq(cfg, stack)
    numbers = counts.split(",") if counts else []
    if len(numbers) != num_layers or not all(
        number.isdigit() and (int(number) == 0 or int(number) >= cfg.moe_top_k)
        for number in numbers
    ):
        refuse(
            f"--{stack}-moe-layer-experts {counts}: give a number for each of {num_layers} MoE "
            f"layers, 0 or at least --moe-top-k {cfg.moe_top_k}"
        )


def moe_freq(cfg: Any, stack: str) -> int:
    """Return N, if every N-th layer of a stack is an MoE layer."""
    own = getattr(cfg, f"{stack}_moe_freq")
    return cfg.moe_freq if own is None else own


def is_moe_position(cfg: Any, stack: str, layer: int) -> bool:
    """Return whether layer i = 0, 1, ... is an MoE layer, or its replacement (router `dense`)."""
    return cfg.moe_expert_count > 0 and (layer + 1) % moe_freq(cfg, stack) == 0


def has_moe_layer(cfg: Any) -> bool:
    """Return whether the model of a configuration has any MoE layer."""
    return any(
        is_moe_position(cfg, stack, layer)
        for stack in STACKS if getattr(cfg, f"{stack}_moe_router") != "dense"
        for layer in range(getattr(cfg, f"{stack}_layers"))
    )


def num_experts(cfg: Any, stack: str, layer: int) -> int:
    """Return the number of experts at the position of an MoE layer, 0 if it is dense."""
    counts = getattr(cfg, f"{stack}_moe_layer_experts")
    if getattr(cfg, f"{stack}_moe_router") == "dense":
        return 0
    if counts is None:
        return cfg.moe_expert_count
    return int(counts.split(",")[(layer + 1) // moe_freq(cfg, stack) - 1])


def expert_dim(cfg: Any, stack: str) -> int:
    """Return the width of an expert."""
    return cfg.moe_expert_ffn_dim or getattr(cfg, f"{stack}_ffn_embed_dim")


def dense_dim(cfg: Any, stack: str, layer: int) -> int:
    """Return the width of a layer's dense feed-forward network."""
    if is_moe_position(cfg, stack, layer):
        return cfg.moe_top_k * expert_dim(cfg, stack)
    return getattr(cfg, f"{stack}_ffn_embed_dim")


def build_router(cfg: Any, stack: str, layer: int, table: TaskTable) -> nn.Module:
    """Build the router of one MoE layer."""
    kind = ROUTERS[str(getattr(cfg, f"{stack}_moe_router"))]
    assert kind.build is not None, "no router stands in a dense layer"
    return kind.build(RouterPlace(cfg, stack, layer, num_experts(cfg, stack, layer), table))


def stored_route(
    state: Dict[str, Tensor], cfg: Any, stack: str, layer: int, table: TaskTable, lang_pair: str
) -> Optional[TaskRoute]:
    """Return a pair's route through one layer of a checkpoint, None where the text decides."""
    router = build_router(cfg, stack, layer, table)
    prefix = f"{stack}.layers.{layer}.moe.router."
    weights = {k[len(prefix):]: v for k, v in state.items() if k.startswith(prefix)}
    router.load_state_dict(weights)
    return task_route(router, table.task_id(lang_pair))


def build_moe_layer(
    cfg: Any, stack: str, layer: int, table: TaskTable, groups: Optional[ExpertGroups] = None
) -> Optional[MoELayer]:
    """Build the MoE layer at a position, or None if the layer is dense.

    With groups, this rank holds a part of the experts, and rows are exchanged.
    """
    if not is_moe_position(cfg, stack, layer) or not num_experts(cfg, stack, layer):
        return None
    router = build_router(cfg, stack, layer, table)
    local = groups.experts if groups else slice(0, num_experts(cfg, stack, layer))
    experts = Experts(
        local.stop - local.start, getattr(cfg, f"{stack}_embed_dim"), expert_dim(cfg, stack),
        str(cfg.activation_fn), cfg.activation_dropout, local.start,
    )
    if groups is None:
        return MoELayer(router, experts)
    for parameter in experts.parameters():
        mark_expert_parallel(parameter)
    return MoELayer(router, experts, AllToAllDispatcher(groups))


def layer_shape(cfg: Any, stack: str) -> LayerShape:
    """Return the settings that the layers of a stack share."""
    return LayerShape(
        embed_dim=getattr(cfg, f"{stack}_embed_dim"),
        num_heads=getattr(cfg, f"{stack}_attention_heads"),
        normalize_before=getattr(cfg, f"{stack}_normalize_before"),
        activation_fn=str(cfg.activation_fn),
        dropout=cfg.dropout,
        attention_dropout=cfg.attention_dropout,
        activation_dropout=cfg.activation_dropout,
    )
