"""Upcycling: a mixture of experts, each of which starts as a dense model's feed-forward network.

Komatsuzaki et al. 2023, "Sparse Upcycling". All other weights are the dense model's; routers are
new. The new model computes what the dense one computes if the gates of a token sum to 1, which they
do for K >= 2 and without a learned gate. For K = 1 the gate is the router's probability: the gate
starts near zero, so that it is 1 / E for all experts, and the experts' outputs are multiplied by E.

Widths: a wider network repeats hidden units and divides their output weights by the number of
copies, which changes nothing. A narrower one has a part of the hidden units, expert e the part
e modulo the number of parts, with output weights multiplied by that number: on average over the
parts it computes the same, and exactly only where a token's experts are different parts.
"""

import math
import os
import sys
from typing import Any, Dict, List, NamedTuple, Optional

import torch
from omegaconf import OmegaConf
from torch import Tensor

from ..checkpoint.convert_shards import write
from ..data.task_table import TaskTable, load_task_groups
from ..errors import refuse
from ..files import written_together
from ..metrics.lang_pairs import languages_of
from ..models.build_layers import (
    build_router,
    check_config,
    dense_dim,
    expert_dim,
    has_moe_layer,
    is_moe_position,
    num_experts,
)
from ..models.config import TransformerTaskMoeConfig
from ..modules.routers import Router
from ..names import EXPERTS, STACKS
from .dense import DenseModel, StateDict, checkpoint_of
from .sources import read_dense

NETWORK = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
LONE_GATE_STD = 1e-6  # for K = 1: probabilities differ from 1 / E by less than float32 shows


class Upcycling(NamedTuple):
    """What to make of a dense model."""

    settings: Dict[str, Any]  # of transformer_task_moe, about experts
    lang_pairs: Optional[List[str]] = None  # None: those of the dense model
    dictionary: Optional[str] = None  # for checkpoints that hold no words: a file or folder
    noise: float = 0.0  # added to experts, in standard deviations of each weight
    seed: int = 1


def upcycle(path: str, out: str, what: Upcycling) -> None:
    """Write to the file out a mixture of experts that starts as the dense model of a file."""
    if os.path.lexists(out):
        refuse(f"--out {out} exists; nothing was overwritten")
    dense = read_dense(path, what.dictionary)
    pairs = what.lang_pairs or dense.lang_pairs
    old_langs = dense.tags.langs
    dense = dense.with_languages(languages_of(pairs))
    table = TaskTable.from_pairs(pairs)
    groups = what.settings.get("moe_task_groups")
    if groups:
        table = table.with_groups(load_task_groups(groups))
    widest = {
        f"{stack}_ffn_embed_dim": max(network_of(dense, stack, i)["fc1.bias"].numel()
                                      for i in range(dense.cfg[f"{stack}_layers"]))
        for stack in STACKS
    }
    known: Any = OmegaConf.to_container(
        OmegaConf.structured(TransformerTaskMoeConfig), enum_to_str=True
    )
    # a dense model may have the router `dense`, which is not for the new one
    defaults = {name: value for name, value in known.items() if "moe_" in name}
    cfg = OmegaConf.merge(dense.cfg, defaults, widest, what.settings)
    check_config(cfg)
    if not has_moe_layer(cfg):
        refuse("no layer would have experts: give --moe-expert-count, and --moe-freq of at most "
               "the number of layers")
    torch.manual_seed(what.seed)
    state = upcycled_state(dense, cfg, table, what.noise)
    checkpoint = checkpoint_of(cfg, state, dense.words, dense.word_counts, dense.tags, table)
    with written_together([out]) as (part,):
        write(checkpoint, part)
    new = [dense.tags.tag(lang) for lang in dense.tags.langs if lang not in old_langs]
    if new:
        print(f"taskmoe: new: tags {' '.join(new)} (the mean of all words)", file=sys.stderr)
    for stack in STACKS:
        if expert_dim(cfg, stack) < widest[f"{stack}_ffn_embed_dim"]:
            print(f"taskmoe: warning: experts of the {stack} have {expert_dim(cfg, stack)} of the "
                  f"dense model's {widest[f'{stack}_ffn_embed_dim']} hidden units, so the new "
                  "model computes something else", file=sys.stderr)


def upcycled_state(
    dense: DenseModel, cfg: Any, table: TaskTable, noise: float = 0.0
) -> StateDict:
    """Return the weights of the model of cfg and table that starts as a dense model."""
    networks = tuple(f".{name}" for name in NETWORK)
    state = {name: tensor for name, tensor in dense.state.items() if not name.endswith(networks)}
    for stack in STACKS:
        for layer in range(cfg[f"{stack}_layers"]):
            prefix, network = f"{stack}.layers.{layer}", network_of(dense, stack, layer)
            count = num_experts(cfg, stack, layer) if is_moe_position(cfg, stack, layer) else 0
            if not count:
                network = resized(network, dense_dim(cfg, stack, layer))
                state.update({f"{prefix}.{name}": network[name] for name in NETWORK})
                continue
            router = build_router(cfg, stack, layer, table)
            scale = 1
            if isinstance(router, Router) and cfg.moe_top_k == 1:
                torch.nn.init.normal_(router.gate.weight, std=LONE_GATE_STD)
                scale = count
            state.update({f"{prefix}.moe.router.{k}": v for k, v in router.state_dict().items()})
            experts = [
                with_noise(resized(network, expert_dim(cfg, stack), part, scale), noise)
                for part in range(count)
            ]
            for name in NETWORK:
                stacked = torch.stack([expert[name] for expert in experts])
                bias = name.endswith("bias")
                state[f"{prefix}{EXPERTS}{name}"] = stacked.unsqueeze(1) if bias else stacked
    return state


def network_of(dense: DenseModel, stack: str, layer: int) -> StateDict:
    """Return a layer's feed-forward network, of width F over C channels.

    fc1.weight (F, C), fc1.bias (F,), fc2.weight (C, F), fc2.bias (C,).
    """
    return {name: dense.state[f"{stack}.layers.{layer}.{name}"] for name in NETWORK}


def resized(network: StateDict, width: int, part: int = 0, scale: float = 1) -> StateDict:
    """Return a network of another width, with its output multiplied by scale.

    A narrower one has the hidden units of a part; parts are numbered from 0 on, and again.
    """
    have = network["fc1.bias"].numel()
    if width < have:
        units = (part % math.ceil(have / width) * width + torch.arange(width)) % have
        weights = torch.full((width,), have / width)
    else:
        units = torch.arange(width) % have
        weights = 1 / torch.bincount(units)[units].float()
    down, bias = network["fc2.weight"], network["fc2.bias"]
    return {
        "fc1.weight": network["fc1.weight"][units],
        "fc1.bias": network["fc1.bias"][units],
        "fc2.weight": (down[:, units].float() * weights * scale).type_as(down),
        "fc2.bias": (bias.float() * scale).type_as(bias),
    }


def with_noise(network: StateDict, noise: float) -> StateDict:
    """Return a network with normal noise on its matrices, in standard deviations of each."""
    if not noise:
        return network

    def noisy(weight: Tensor) -> Tensor:
        return weight + noise * weight.float().std().type_as(weight) * torch.randn_like(weight)

    return {name: noisy(value) if value.dim() > 1 else value for name, value in network.items()}
