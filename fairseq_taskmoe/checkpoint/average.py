"""The mean of several checkpoints, experts included: often a better model than the last one."""

import os
import sys
from typing import Any, Dict, List, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import refuse
from ..files import written_together
from ..host_memory import release_pages
from ..subnet.extract import model_config
from .convert_shards import write
from .reading import Checkpoint, read_whole_checkpoint

# what two models of the same shapes may still differ in
COMPUTED_WITH = (
    "activation_fn", "moe_top_k", "encoder_moe_router", "decoder_moe_router",
    "encoder_attention_heads", "decoder_attention_heads", "encoder_normalize_before",
    "decoder_normalize_before", "no_scale_embedding",
)


def average(paths: Sequence[str], out: str) -> None:
    """Write the mean of checkpoints of one training, or of several like it, as a new one to out.

    The sum is taken in float64, one parameter at a time. All else, as the task table, is the last
    checkpoint's; the state of the optimizer is left out, which belongs to none of them.
    """
    if os.path.lexists(out):
        refuse(f"--out {out} exists; nothing was overwritten")
    checkpoints = [read_whole_checkpoint(path) for path in paths]
    for path, checkpoint in zip(paths, checkpoints, strict=True):
        _check_same(paths[0], checkpoints[0], path, checkpoint)
    states = [checkpoint["model"] for checkpoint in checkpoints]
    memory: Dict[int, Tensor] = {}  # by where the first checkpoint has it: shared ones stay one
    mean = {}
    for name, first in tqdm(states[0].items(), "average", unit="tensor", disable=None):
        if first.data_ptr() not in memory:
            memory[first.data_ptr()] = _mean([state[name] for state in states])
        mean[name] = memory[first.data_ptr()]
    averaged: Checkpoint = {**checkpoints[-1], "model": mean, "last_optimizer_state": None}
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


def _check_same(first_path: str, first: Checkpoint, path: str, other: Checkpoint) -> None:
    """Refuse a checkpoint of another model than the first one."""
    for fact in ("task_table", "tags", "words"):
        if first["task_state"].get(fact) != other["task_state"].get(fact):
            what = {"task_table": "language pairs", "tags": "language tags", "words": "words"}
            refuse(f"{path}: trained with other {what[fact]} than {first_path}")
    settings = [model_config(checkpoint) for checkpoint in (first, other)]
    for option in COMPUTED_WITH:
        if settings[0][option] != settings[1][option]:
            refuse(f"{path}: another model than {first_path}: --{option.replace('_', '-')} "
                   f"{settings[1][option]} instead of {settings[0][option]}")
    shapes: List[Dict[str, Any]] = [
        {name: tensor.shape for name, tensor in checkpoint["model"].items()}
        for checkpoint in (first, other)
    ]
    for name in sorted(set(shapes[0]) | set(shapes[1])):
        if shapes[0].get(name) != shapes[1].get(name):
            refuse(f"{path}: another model than {first_path}: {name} differs")
