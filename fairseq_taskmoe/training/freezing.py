"""Weights without updates: --freeze for whole parameters, --freeze-tasks for parts of them.

Experts are slices of stacked parameters, and words, tags and tasks are rows. Their gradients are
set to zero, so that they do not count in the norm, and after each update they get their old values
back, which weight decay or momentum may have changed.
"""

import re
from functools import partial
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import torch
import torch.nn as nn
from torch import Tensor

from ..data.languages import make_dictionary
from ..data.named_pairs import named_pairs
from ..errors import refuse
from ..models.transformer_task_moe import TransformerTaskMoeModel
from ..modules.folding import task_route
from ..modules.moe_layer import MoELayer
from ..modules.routers import TaskRouter
from ..names import EXPERTS, WORD_ROWS
from .checks import RunSettings
from .counterparts import Names
from .master_weights import has_masters
from .take_over import Start

TASK_ROWS = ".embed_tasks.weight"


class FrozenTasks(NamedTuple):
    """Tasks whose sub-networks get no updates."""

    task_ids: Sequence[int]
    new_symbols: Sequence[int]  # words and tags that these tasks were not trained with


class FrozenRows(NamedTuple):
    """Rows of a parameter (R, ...) that get no updates."""

    parameter: nn.Parameter
    rows: Tensor  # (R,) bool


def check_freezing(settings: RunSettings) -> None:
    """Refuse options with which parts of parameters cannot be frozen."""
    common, distributed = settings.common, settings.distributed_training
    flat = common.get("fp16") and not common.get("memory_efficient_fp16")
    reasons = {
        "--fp16": (flat and not common.get("fp16_no_flatten_grads"),
                   "all parameters are then one; add --fp16-no-flatten-grads"),
        "--ddp-backend fully_sharded": (distributed.get("ddp_backend") == "fully_sharded",
                                        "each rank has other parts of parameters"),
        "--zero-sharding os": (distributed.get("zero_sharding") == "os",
                               "each rank updates other parameters"),
    }
    for flag, (is_given, reason) in reasons.items():
        if is_given:
            refuse(f"--freeze-tasks with {flag}: {reason}")


def find_frozen_tasks(text: Optional[str], own: Names, start: Start) -> Optional[FrozenTasks]:
    """Return the tasks of --freeze-tasks, refusing those that training does not start with."""
    pairs = named_pairs(text, "--freeze-tasks")
    for pair in pairs:
        if pair not in start.pairs:
            refuse(f"--freeze-tasks {pair}: the checkpoint to start from has "
                   f"{', '.join(start.pairs) or 'no tasks: there is none'}")
    if start.frozen_tasks and set(pairs) != set(start.frozen_tasks):
        refuse(f"{start.path}: trained with --freeze-tasks {','.join(start.frozen_tasks)}, this "
               f"run has {','.join(pairs) or 'none'}; give the same, or --reset-optimizer")
    if not pairs:
        return None
    symbols, new = make_dictionary(own.words, own.tags).symbols, set(start.new_symbols)
    numbers = [i for i, symbol in enumerate(symbols) if symbol in new]
    if not numbers and set(pairs) >= set(own.table.trained):
        refuse(f"--freeze-tasks {','.join(pairs)}: no task is left to train")
    return FrozenTasks([own.table.task_id(pair) for pair in pairs], numbers)


def check_resumed(model: nn.Module, start: Start) -> None:
    """Refuse to resume with an optimizer that has trained other parameters."""
    stored = start.parameter_names
    own = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for names, others, where in ((stored, own, "there"), (own, stored, "in this run")):
        for name in names if stored else ():
            if name not in others:
                refuse(f"{start.path}: {name} is trained only {where}; give --freeze and "
                       "--freeze-tasks as before, or --reset-optimizer")


def freeze_parameters(
    model: TransformerTaskMoeModel, regex: Optional[str], tasks: Optional[FrozenTasks]
) -> None:
    """Exclude parameters from training: those that regex matches, and what all tasks share.

    To be called before the optimizer is built. The other parts of tasks are found by frozen_rows.
    """
    try:
        found = re.compile(regex) if regex else None
    except re.error as error:
        refuse(f"--freeze {regex}: not a regular expression: {error}")
    frozen = [
        parameter for name, parameter in model.named_parameters(remove_duplicate=False)
        if found and found.search(name)
    ]
    if found and not frozen:
        refuse(f"--freeze {regex}: matches no parameter, such as "
               f"{next(iter(model.state_dict()))}")
    if tasks is not None:
        frozen += [parameter for name, parameter in model.named_parameters()
                   if not _has_parts(model, name, tasks)]
    for parameter in frozen:
        parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        refuse(f"{f'--freeze {regex}' if regex else '--freeze-tasks'}: nothing is left to train")


def _has_parts(model: nn.Module, name: str, tasks: FrozenTasks) -> bool:
    """Return whether some rows of a parameter may be trained."""
    if name in WORD_ROWS:
        return bool(tasks.new_symbols)
    if EXPERTS in name:
        router = model.get_submodule(f"{name.partition(EXPERTS)[0]}.moe.router")
        return task_route(router, tasks.task_ids[0]) is not None  # otherwise tasks use all experts
    return name.endswith(TASK_ROWS)


def frozen_rows(model: nn.Module, tasks: FrozenTasks) -> List[FrozenRows]:
    """Return the rows that frozen tasks use, of parameters that are trained; weights are loaded."""
    used: Dict[str, Tensor] = {}  # by parameter: numbers of rows
    for prefix, module in model.named_modules():
        if isinstance(module, TaskRouter):
            used[f"{prefix}{TASK_ROWS}"] = module.task_groups[list(tasks.task_ids)]
        elif isinstance(module, MoELayer):
            routes = [task_route(module.router, task_id) for task_id in tasks.task_ids]
            if None in routes:  # all experts are frozen
                continue
            experts = torch.cat([route.expert_ids for route in routes if route is not None])
            for linear in ("fc1", "fc2"):
                first: Any = module.experts.get_submodule(linear).first_expert
                for kind in ("weight", "bias"):
                    used[f"{prefix}.experts.{linear}.{kind}"] = experts - first
    named = dict(model.named_parameters())
    for name in WORD_ROWS:
        if name in named:
            symbols = torch.arange(named[name].size(0))
            used[name] = symbols[~torch.isin(symbols, torch.tensor(tasks.new_symbols))]
    return [
        FrozenRows(named[name], torch.isin(
            torch.arange(named[name].size(0)), rows.cpu()).to(named[name].device))
        for name, rows in used.items() if named[name].requires_grad
    ]


def hold_rows(frozen: Sequence[FrozenRows], optimizer: Any) -> None:
    """Keep rows as they are in all updates of a fairseq optimizer, float32 copies included."""
    own: Dict[int, Tensor] = {}  # what the optimizer updates, by the id of the model's parameter
    if has_masters(optimizer):
        own = dict(zip(map(id, optimizer.fp16_params), optimizer.fp32_params, strict=True))
    held = []
    for parameter, rows in frozen:
        shape = (-1, *[1] * (parameter.dim() - 1))
        parameter.register_hook(partial(_without_rows, rows.view(shape)))
        updated = own.get(id(parameter), parameter)
        held.append((updated, rows, updated.detach()[rows]))

    @torch.no_grad()
    def put_back(*unused: Any) -> None:
        for updated, rows, values in held:
            updated[rows] = values

    optimizer.optimizer.register_step_post_hook(put_back)


def _without_rows(rows: Tensor, grad: Tensor) -> Tensor:
    return grad.masked_fill(rows, 0)
