"""The routers by name: how each is built, and its properties for other parts of the code.

To add a router, write its module in modules/ and add an entry to ROUTERS.
"""

from typing import Any, Callable, Dict, NamedTuple, Optional

import torch
import torch.nn as nn

from ..data.task_table import TaskTable
from ..modules.fixed_routers import RandomRouter, StaticRouter
from ..modules.routers import RouterOptions, SentenceRouter, TaskRouter, TokenRouter


class RouterPlace(NamedTuple):
    """The MoE layer that a router is built for."""

    cfg: Any  # configuration of the model
    stack: str  # encoder or decoder
    layer: int  # 0, 1, ... in the stack
    num_experts: int
    table: TaskTable

    @property
    def options(self) -> RouterOptions:
        """Return the settings of the routers that learn a gate."""
        cfg = self.cfg
        return RouterOptions(
            top_k=cfg.moe_top_k,
            second_expert_policy=str(cfg.moe_second_expert_policy),
            jitter=cfg.moe_router_jitter,
            capacity_factor=cfg.moe_capacity_factor,
            eval_capacity_factor=cfg.moe_eval_capacity_factor,
        )

    def group_ids(self, groups_by: str) -> torch.Tensor:
        """Return each task's group (N,), of TaskTable.group_ids."""
        return torch.tensor(self.table.group_ids(groups_by), device="cpu")


def _token(place: RouterPlace) -> nn.Module:
    width = getattr(place.cfg, f"{place.stack}_embed_dim")
    return TokenRouter(width, place.num_experts, place.options)


def _sentence(place: RouterPlace) -> nn.Module:
    # in the decoder too, a sentence is represented by its source
    return SentenceRouter(place.cfg.encoder_embed_dim, place.num_experts, place.options)


def _task(groups_by: str) -> Callable[[RouterPlace], nn.Module]:
    def build(place: RouterPlace) -> nn.Module:
        width = getattr(place.cfg, f"{place.stack}_embed_dim")
        return TaskRouter(
            width, place.num_experts, place.options, place.group_ids(groups_by),
            len(place.table.group_names(groups_by)),
        )

    return build


def _static(from_checkpoint: bool) -> Callable[[RouterPlace], nn.Module]:
    def build(place: RouterPlace) -> nn.Module:
        tasks = place.group_ids("pair")
        return StaticRouter(place.num_experts, place.cfg.moe_top_k, tasks, from_checkpoint)

    return build


def _random(place: RouterPlace) -> nn.Module:
    seed = 2 * place.layer + (place.stack == "decoder")
    return RandomRouter(place.num_experts, place.cfg.moe_top_k, layer_seed=seed)


class RouterKind(NamedTuple):
    """A router that --encoder-moe-router and --decoder-moe-router can name."""

    build: Optional[Callable[[RouterPlace], nn.Module]]  # None: the layer is dense
    words: str  # what decides about the experts, in titles of figures
    learns_from_text: bool = False  # has a capacity, and its experts can be pruned
    # of TaskTable.group_ids: tasks of a group share their experts, which are constants. A task's
    # sub-network can be extracted, and a pair that was never trained takes a trained one's route
    groups_by: Optional[str] = None

    @property
    def varies_by_sentence(self) -> bool:
        """Whether sentences of one task may take different experts."""
        return self.build is not None and self.groups_by is None


ROUTERS: Dict[str, RouterKind] = {
    "token": RouterKind(_token, "token", learns_from_text=True),
    "sentence": RouterKind(_sentence, "sentence", learns_from_text=True),
    **{name: RouterKind(_task(name), words, groups_by=name) for name, words in (
        ("source", "source language"), ("target", "target language"), ("pair", "language pair"),
        ("group", "group of tasks"),
    )},
    "static": RouterKind(_static(from_checkpoint=False), "a fixed assignment", groups_by="pair"),
    "random": RouterKind(_random, "chance"),
    # no routing: one feed-forward network of the width of K experts, with the same cost. Extracted
    # sub-networks are made of those, and so is the dense baseline of equal computation
    "dense": RouterKind(None, "nothing"),
    # as static, but stored in the checkpoint: a sub-network of several tasks with different experts
    "table": RouterKind(_static(from_checkpoint=True), "a fixed assignment", groups_by="pair"),
}
TASK_ROUTERS = tuple(name for name, kind in ROUTERS.items() if kind.groups_by == name)
