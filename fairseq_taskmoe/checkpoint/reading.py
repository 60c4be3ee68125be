"""Reading checkpoints: memory-mapped, never executing what a file holds, with one clear line."""

import argparse
import collections
import errno
import os
import pickle
from typing import Any

import torch
from fairseq.distributed.utils import _TensorPlaceholder
from omegaconf import AnyNode, DictConfig, ListConfig
from omegaconf.base import ContainerMetadata, Metadata

from ..errors import refuse
from .contents import SHARD, Checkpoint, TrainedModel, find_damage

NEEDED = ("task_table", "tags", "words", "word_counts")  # of task_state, to translate

SENT_AT_RESUME = [
    Any, AnyNode, ContainerMetadata, DictConfig, ListConfig, Metadata, _TensorPlaceholder,
    collections.defaultdict, dict, list, int,
]


class Unreadable(Exception):
    """A file is not a complete checkpoint of a model; the message gives the reason."""


def allow_checkpoint_types() -> None:
    """Let torch.load read fairseq checkpoints under weights_only, its default since torch 2.6.

    fairseq stores a Namespace where a checkpoint was made from flags. At resume, rank 0 sends the
    others a checkpoint whose configuration has become one of OmegaConf's, with placeholders for
    tensors. Naming the types keeps the safe loader: a hostile pickle is still refused, and never
    executed.
    """
    torch.serialization.add_safe_globals([argparse.Namespace, *SENT_AT_RESUME])


def read_checkpoint(path: str) -> Checkpoint:
    """Return the checkpoint of a fairseq run; tensors stay on the disk until they are used."""
    if not os.path.isfile(path):
        refuse(f"{path}: no such checkpoint")
    try:
        return open_checkpoint(path)
    except (Unreadable, OSError) as reason:
        refuse(f"{path}: {reason}")


def open_checkpoint(path: str) -> Checkpoint:
    """As read_checkpoint, but raises Unreadable or OSError for the caller to handle.

    The table of contents is at the end of a checkpoint, so any truncated file is Unreadable.
    """
    allow_checkpoint_types()
    try:
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("WeightsUnpickler error:")[-1].strip().splitlines()[0]
        raise Unreadable(f"not loaded, since it is no plain checkpoint: {reason}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # which reading before the start of a small file gives
            raise
        raise Unreadable("truncated, or no checkpoint") from error
    # of damage torch's readers complain in a dozen ways, struct.error and AttributeError among them
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Unreadable(f"truncated, or no checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), dict):
        raise Unreadable("no checkpoint of a fairseq model")
    return checkpoint


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


def read_model(path: str, shard_too: bool = False) -> TrainedModel:
    """Return the parts of a checkpoint, refusing one without words.

    A shard, which has not all experts, is refused too without shard_too.
    """
    checkpoint = read_task_moe_checkpoint(path)
    if SHARD in checkpoint["task_state"] and not shard_too:
        refuse(f"{path}: one of several shards; `taskmoe consolidate` makes one file of them")
    for name in NEEDED:
        if checkpoint["task_state"].get(name) is None:
            refuse(f"{path}: damaged, its task has no {name.replace('_', ' ')}")
    if not isinstance(checkpoint["cfg"].get("task"), dict):
        refuse(f"{path}: damaged, it has no configuration of its task")
    return TrainedModel.parse(checkpoint)
