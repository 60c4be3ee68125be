"""The mean of several checkpoints, experts included: often a better model than the last one."""

import os
import sys
from typing import Any, Dict, List, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import refuse
from ..files import written_together
from ..host import release_pages
from .contents import Checkpoint, TrainedModel
from .convert_shards import write
from .reading import read_model
from .same_model import MEANING, ROUTING


def average(paths: Sequence[str], out: str) -> None:
    """Write the mean of checkpoints of one training, or of several like it, as a new one to out.

    The sum is taken in float64, one parameter at a time. All else, as the task table, is the last
    checkpoint's; the state of the optimizer is left out, which belongs to none of them.
    """
    if os.path.lexists(out):
        refuse(f"--out {out} exists; nothing was overwritten")
    models = [read_model(path) for path in paths]
    for path, model in zip(paths, models, strict=True):
        _check_same(paths[0], models[0], path, model)
    states = [model.weights for model in models]
    memory: Dict[int, Tensor] = {}  # by where the first checkpoint has it: shared ones stay one
    mean = {}
    for name, first in tqdm(states[0].items(), "average", unit="tensor", disable=None):
        if first.data_ptr() not in memory:
            memory[first.data_ptr()] = _mean([state[name] for state in states])
        mean[name] = memory[first.data_ptr()]
    averaged: Checkpoint = {**models[-1].checkpoint, "model": mean, "last_optimizer_state": None}
    with written_together([out]) as (part,):
        write(averaged, part)
    print(f"{out}: the mean of {len(paths)} checkpoints", file=sys.stderr)


def _mean(tensors: List[Tensor]) -> Tensor:
    if not tensors[0].is_floating_point():  # such as a table of routes, the same in all
        return tensors[-1].clone()
    total = torch.zeros(tensors[0].shape, dtype=torch.float64)
    for tensor in tensors:
        total += tensor
    release_pages(tensors)
    return (total / len(tensors)).to(tensors[0].dtype)


def _check_same(first_path: str, first: TrainedModel, path: str, other: TrainedModel) -> None:
    """Refuse a checkpoint of another model than the first one."""
    for part, what in (("table", "language pairs"), ("tags", "language tags"), ("words", "words")):
        if getattr(first, part) != getattr(other, part):
            refuse(f"{path}: trained with other {what} than {first_path}")
    for option in (*MEANING, *ROUTING):
        if str(first.cfg[option]) != str(other.cfg[option]):
            refuse(f"{path}: another model than {first_path}: --{option.replace('_', '-')} "
                   f"{other.cfg[option]} instead of {first.cfg[option]}")
    shapes: List[Dict[str, Any]] = [
        {name: tensor.shape for name, tensor in model.weights.items()} for model in (first, other)
    ]
    for name in sorted(set(shapes[0]) | set(shapes[1])):
        if shapes[0].get(name) != shapes[1].get(name):
            refuse(f"{path}: another model than {first_path}: {name} differs")
