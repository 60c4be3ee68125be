"""Reading checkpoints: memory-mapped, never executing what a file holds, with one clear line."""

import os
import pickle
from typing import Any, Dict, List

import torch

from ..compat import allow_checkpoint_types
from ..errors import refuse
from .contents import SHARD, find_damage

Checkpoint = Dict[str, Any]
EXPERTS = ".moe.experts."  # in the names of all their parameters, and of no others
NEEDED = ("task_table", "tags", "words", "word_counts")  # of task_state, to translate


class Unreadable(Exception):
    """A file is no whole checkpoint, or not that of a model; the text says why."""


def read_checkpoint(path: str) -> Checkpoint:
    """Return the checkpoint of a fairseq run; tensors stay on the disk until they are used."""
    if not os.path.isfile(path):
        refuse(f"{path}: no such checkpoint")
    try:
        return open_checkpoint(path)
    except (Unreadable, OSError) as reason:
        refuse(f"{path}: {reason}")


def open_checkpoint(path: str) -> Checkpoint:
    """As read_checkpoint, for a caller that knows what to do when it raises Unreadable or OSError.

    The directory of what a checkpoint holds is its end: any truncated file is Unreadable.
    """
    allow_checkpoint_types()
    try:
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("WeightsUnpickler error:")[-1].strip().splitlines()[0]
        raise Unreadable(f"not loaded, since it is no plain checkpoint: {reason}") from error
    except OSError:
        raise
    # of damage torch's readers complain in a dozen ways, struct.error and AttributeError among them
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Unreadable(f"truncated, or no checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), dict):
        raise Unreadable("no checkpoint of a fairseq model")
    return checkpoint


def pairs_of(checkpoint: Checkpoint) -> List[str]:
    """Return the pairs that a checkpoint was trained on, or was cut out for."""
    task_state = checkpoint["task_state"]
    return task_state.get("served_only") or task_state["task_table"]["lang_pairs"]


def read_task_moe_checkpoint(path: str) -> Checkpoint:
    """Return a checkpoint of transformer_task_moe, refusing one of another architecture or task."""
    checkpoint = read_checkpoint(path)
    cfg, task_state = checkpoint.get("cfg"), checkpoint.get("task_state")
    model = cfg.get("model") if isinstance(cfg, dict) else None
    if not isinstance(model, dict) or "moe_expert_count" not in model:
        refuse(f"{path}: a checkpoint of another architecture than transformer_task_moe")
    if not isinstance(task_state, dict) or "task_table" not in task_state:
        refuse(f"{path}: has no task table: it was not trained by translation_task_moe")
    damage = find_damage(checkpoint)
    if damage is not None:
        refuse(f"{path}: damaged, {damage}")
    return checkpoint


def read_whole_checkpoint(path: str) -> Checkpoint:
    """Return a checkpoint of transformer_task_moe with all its experts, refusing a shard."""
    checkpoint = read_task_moe_checkpoint(path)
    if SHARD in checkpoint["task_state"]:
        refuse(f"{path}: one of several shards; `taskmoe consolidate` makes one file of them")
    return checkpoint


def read_servable_checkpoint(path: str) -> Checkpoint:
    """As read_whole_checkpoint, refusing one that lacks what translation needs beside weights."""
    checkpoint = read_whole_checkpoint(path)
    for name in NEEDED:
        if checkpoint["task_state"].get(name) is None:
            refuse(f"{path}: damaged, its task has no {name.replace('_', ' ')}")
    if not isinstance(checkpoint["cfg"].get("task"), dict):
        refuse(f"{path}: damaged, it has no configuration of its task")
    return checkpoint
