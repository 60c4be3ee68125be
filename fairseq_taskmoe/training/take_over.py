"""Taking over a checkpoint's weights into a model with other words, languages, pairs or groups.

All ways to start from a checkpoint go through here: --finetune-from-model, --restore-file and
checkpoint_last.pt with and without resets, and --init-shared-from.
"""

import logging
import os
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn as nn
from torch import Tensor

from ..checkpoint.contents import TrainedModel
from ..checkpoint.reading import read_model
from ..checkpoint.same_model import ROUTERS, difference, file_to_load
from ..checkpoint.same_vocabulary import vocabulary_difference
from ..data.languages import make_dictionary
from ..data.task_table import TaskTable
from ..errors import refuse
from ..models.build_layers import has_moe_layer
from ..modules.fixed_routers import StaticRouter
from ..modules.moe_layer import MoELayer
from ..names import WORD_ROWS
from .checks import RunSettings
from .counterparts import Counterparts, Names, Rows, find_counterparts, symbol_names
from .expert_numbers import take_experts

logger = logging.getLogger(__name__)

StateDict = Dict[str, Tensor]
RESETS = ("reset_optimizer", "reset_dataloader")  # for weights with other rows, and other data


class Start(NamedTuple):
    """What training starts from."""

    path: str = ""  # of the checkpoint
    pairs: Sequence[str] = ()  # of the checkpoint whose routers and experts it takes over
    counterparts: Optional[Counterparts] = None  # None if all names are the same
    new_symbols: Sequence[str] = ()  # words and tags that the run has begun with
    parameter_names: Sequence[str] = ()  # of the optimizer whose state it takes over
    frozen_tasks: Sequence[str] = ()  # of the run that goes on


def check_start(settings: RunSettings, own: Names) -> Start:
    """Return what fairseq's trainer starts from.

    Refuses a checkpoint with other names to resume from, naming the first that differs.
    """
    saving = settings.checkpoint
    path = file_to_load(saving)
    if path is None or not os.path.isfile(path):  # fairseq's file manager may find it elsewhere
        if not own.cfg.init_shared_from:
            _refuse_unused(own.cfg, "no checkpoint to start from")
        return Start()
    trained = read_model(path, shard_too=True)
    averaged = "ema" in (trained.checkpoint.get("extra_state") or {})
    if settings.ema.get("store_ema") and not averaged:  # fairseq ends with a KeyError
        refuse(f"--store-ema: {path} has no averaged weights, from which fairseq would go on")
    routed = has_moe_layer(trained.cfg) and has_moe_layer(own.cfg)
    compared = (*ROUTERS, "moe_expert_count") if routed else ()
    problem = (
        vocabulary_difference(trained, own.words, own.tags)
        or _table_difference(trained, own.table)
        or difference(trained.cfg, own.cfg, compared)
    )
    finetunes = path == saving.get("finetune_from_model")
    stored = trained.checkpoint["task_state"]
    if problem is None:
        if finetunes or saving.get("reset_optimizer"):
            _refuse_unused(own.cfg, f"{path} has all tasks and tags")
            return Start(path, trained.pairs)
        return Start(path, trained.pairs, None, *(
            stored.get(name) or () for name in ("new_symbols", "parameter_names", "frozen_tasks")
        ))
    if not (finetunes or all(map(saving.get, RESETS))):
        refuse(f"{path}: {problem}; to take over its weights by name, give it to "
               "--finetune-from-model with another --save-dir, or to --restore-file with "
               "--reset-optimizer --reset-dataloader")
    if settings.ema.get("store_ema"):
        refuse(f"{path}: {problem}; --store-ema: averaged weights cannot be taken over by name")
    found = find_counterparts(path, trained, own)
    logger.info("weights taken over by name from %s; %s", path, found.summary)
    old = set(symbol_names(trained.words, trained.tags))
    symbols = make_dictionary(own.words, own.tags).symbols
    names = symbol_names(own.words, own.tags)
    new = [symbol for symbol, name in zip(symbols, names, strict=True) if name not in old]
    return Start(path, trained.pairs, found, new)


def _refuse_unused(cfg: Any, reason: str) -> None:
    for name in ("init_task", "init_tag"):
        if getattr(cfg, name):
            refuse(f"--{name.replace('_', '-')} {getattr(cfg, name)}: {reason}")


def _table_difference(trained: TrainedModel, own: TaskTable) -> Optional[str]:
    """Return how the pairs or groups of a checkpoint differ from a run's, None if they do not."""
    for pairs, others, where in (
        (own.trained, trained.pairs, "in this run"), (trained.pairs, own.trained, "there"),
    ):
        for pair in pairs:
            if pair not in others:
                return (f"trained on --lang-pairs {','.join(trained.pairs)}, this run has "
                        f"{','.join(own.trained)}: {pair} is only {where}")
    there, here = dict(trained.table.groups), dict(own.groups)
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            return (f"trained with the group {name} of --moe-task-groups as "
                    f"{_members(there.get(name))}, this run has {_members(here.get(name))}")
    return None


def _members(pairs: Optional[Tuple[str, ...]]) -> str:
    return "none" if pairs is None else ",".join(pairs)


def taken_over(
    found: Counterparts, copy_experts: bool, state: StateDict, model: nn.Module
) -> StateDict:
    """Return a checkpoint's state with the rows of a model; other tensors are returned as is."""
    taken = {name: take_rows(name, state, found.symbols) for name in WORD_ROWS if name in state}
    moes = {prefix: module for prefix, module in model.named_modules()
            if isinstance(module, MoELayer)}
    for prefix, moe in moes.items():
        stack, router = prefix.partition(".")[0], moe.router
        name = f"{prefix}.router.embed_tasks.weight"
        if stack in found.tasks and name in state:
            taken[name] = take_rows(name, state, found.tasks[stack])
        if stack in found.routes and isinstance(router, StaticRouter):
            taken.update(_take_routes(f"{prefix}.router.", state, router, found.routes[stack]))
        if prefix in found.experts:
            take_experts(taken, state, prefix, found.experts[prefix], moe, copy_experts)
    return {**state, **taken}


def take_rows(name: str, state: StateDict, rows: Rows) -> Tensor:
    """Return a tensor whose row i is the mean of the rows rows[i] of state[name] (R, ...)."""
    stored = state[name]
    if max(map(max, rows)) >= len(stored):
        refuse(f"the checkpoint is damaged: {name} has {len(stored)} rows")
    taken = stored[torch.tensor([old[0] for old in rows])]
    means: Dict[Tuple[int, ...], Tensor] = {}
    for i, old in enumerate(rows):
        if len(old) > 1:
            if old not in means:
                means[old] = stored[torch.tensor(old)].float().mean(dim=0).to(stored.dtype)
            taken[i] = means[old]
    return taken


def _take_routes(
    prefix: str, state: StateDict, router: StaticRouter, tasks: List[Optional[int]]
) -> StateDict:
    """Return the stored routes of a router, with those of old tasks."""
    num_old = 1 + max(old or 0 for old in tasks)
    # a checkpoint of the router `static` does not contain its routes
    static = StaticRouter(
        router.num_experts, router.task_experts.size(1), torch.arange(num_old), True
    ).state_dict()
    taken = {}
    for key, own in router.state_dict().items():
        stored, routes = state.get(prefix + key, static[key]), own.cpu().clone()
        for task, old in enumerate(tasks):
            if old is not None:
                routes[task] = stored[old]
        taken[prefix + key] = routes
    return taken
