"""Cut out of a Task-MoE checkpoint the dense model that serves one language pair.

A task's experts and gates are constants, so its K experts are one feed-forward network K times as
wide (paper section 3.2). The result needs no router and no other expert.
"""

from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from tqdm import tqdm

from ..data.task_table import TaskTable
from ..errors import refuse
from ..models.build_layers import build_router, is_moe_position
from ..models.config import TransformerTaskMoeConfig
from ..modules.folding import TaskRoute, fold_experts, task_route
from .reading import Checkpoint

HALVES = ("encoder", "decoder")
StateDict = Dict[str, Tensor]


class Subnet(NamedTuple):
    """The sub-network of one language pair, still with layers of different width."""

    lang_pair: str
    model_cfg: Dict[str, Any]  # of transformer_task_moe; folded halves have the router `dense`
    state: StateDict
    kept_halves: List[str]  # halves that route by the text and keep all their experts


def extract_subnet(checkpoint: Checkpoint, lang_pair: str) -> Subnet:
    """Return the sub-network of a pair: every half that routes by task or statically is folded.

    A pair that was never trained takes the route that it takes in the full model.
    """
    cfg = model_config(checkpoint)
    table = TaskTable.from_state(checkpoint["task_state"]["task_table"])
    known = checkpoint["task_state"]["tags"]["langs"]
    for lang in lang_pair.split("-"):
        if lang not in known:
            refuse(f"unknown language {lang}: the checkpoint has {', '.join(known)}")
    table = table.with_pairs([lang_pair])
    state = dict(checkpoint["model"])
    kept = []
    for half in HALVES:
        if not _fold_half(state, cfg, half, table, lang_pair):
            kept.append(half)
    model_cfg: Any = OmegaConf.to_container(cfg, enum_to_str=True)
    for half in set(HALVES) - set(kept):
        model_cfg[f"{half}_moe_router"] = "dense"
    return Subnet(lang_pair, model_cfg, state, kept)


def model_config(checkpoint: Checkpoint) -> DictConfig:
    """Return the model's configuration, with defaults for what an older version did not have."""
    defaults = OmegaConf.structured(TransformerTaskMoeConfig)
    stored = {k: v for k, v in checkpoint["cfg"]["model"].items() if k in defaults}
    return DictConfig(OmegaConf.merge(defaults, stored))


def moe_layers(state: StateDict, cfg: Any, half: str) -> Iterator[Tuple[int, str]]:
    """Yield the MoE layers of a half that a checkpoint holds: number, and prefix of the names."""
    for layer in range(getattr(cfg, f"{half}_layers")):
        prefix = f"{half}.layers.{layer}"
        if is_moe_position(cfg, half, layer) and f"{prefix}.moe.experts.fc1.weight" in state:
            yield layer, prefix


def layer_route(
    state: StateDict, cfg: Any, half: str, layer: int, table: TaskTable, lang_pair: str
) -> Optional[TaskRoute]:
    """Return a pair's route through one layer of a checkpoint, None where the text decides."""
    router = build_router(cfg, half, layer, table)
    prefix = f"{half}.layers.{layer}.moe.router."
    weights = {k[len(prefix):]: v for k, v in state.items() if k.startswith(prefix)}
    router.load_state_dict(weights)
    return task_route(router, table.task_id(lang_pair))


def _fold_half(
    state: StateDict, cfg: Any, half: str, table: TaskTable, lang_pair: str
) -> bool:
    """Replace in state the MoE layers of a half; False where they route by the text."""
    layers = list(moe_layers(state, cfg, half))
    for layer, prefix in tqdm(layers, desc=f"fold {half}", leave=False, disable=None):
        route = layer_route(state, cfg, half, layer, table, lang_pair)
        if route is None:
            return False
        names = [name for name in state if name.startswith(f"{prefix}.moe.")]
        experts = f"{prefix}.moe.experts."
        stacked = {k[len(experts):]: state[k] for k in names if k.startswith(experts)}
        chosen = {name: stack[route.expert_ids] for name, stack in stacked.items()}
        for name, tensor in fold_experts(chosen, route.gates).items():
            state[f"{prefix}.{name}"] = tensor
        for name in names:
            del state[name]
    return True


def pad_widths(state: StateDict, half: str, num_layers: int) -> int:
    """Give all feed-forward networks of a half the width of the widest, by zeros; return it.

    fairseq's transformer knows one width for all layers. A hidden unit whose output weights are
    zeros changes nothing, whatever the activation function.
    """
    prefixes = [f"{half}.layers.{layer}" for layer in range(num_layers)]
    width = max(state[f"{prefix}.fc1.weight"].size(0) for prefix in prefixes)
    for prefix in prefixes:
        missing = width - state[f"{prefix}.fc1.weight"].size(0)
        if missing:
            for name, padding in (
                ("fc1.weight", (0, 0, 0, missing)), ("fc1.bias", (0, missing)),
                ("fc2.weight", (0, missing)),
            ):
                name = f"{prefix}.{name}"
                state[name] = torch.nn.functional.pad(state[name], padding)
    return width
