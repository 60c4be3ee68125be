"""Checkpoints for another number of ranks: rank shards to one file, and either to rank shards.

Inputs are memory-mapped and opened anew for each output, experts are copied into it one input at a
time: memory never holds more than one output and one input, mapped pages included.
"""

import os
import sys
import uuid
from typing import Any, Dict, Optional, Tuple

import torch
from torch import Tensor

from ..distributed.layout import expert_layout
from ..errors import refuse
from ..files import written_together
from .reading import Checkpoint
from .shards import (
    SHARD,
    Save,
    expert_slots,
    keep_experts,
    open_save,
    shard_file,
    shard_files,
    split_shard_name,
)


def consolidate(path: str, out: str) -> None:
    """Write the shards of one save, named by any of them, as the one file that fairseq reads."""
    if os.path.lexists(out):
        refuse(f"--out {out} exists; nothing was overwritten")
    save = open_save(path)
    if not save.sharded:
        beside = shard_files(path)
        hint = f"; its shards are {beside[0]} and so on" if beside else ""
        refuse(f"{path}: already one file, with all experts{hint}")
    with written_together([out]) as (part,):
        write(assemble(save, slice(0, save.layout.num_experts), shared=True), part)
    print(f"{out}: written", file=sys.stderr)


def reshard(path: str, ranks: int, out: str, size: Optional[int] = None) -> None:
    """Write a save, in one file or in shards, as the shards of ranks ranks: out with -rank-N.

    size is the number of ranks of an expert-parallel group; by default the largest possible.
    """
    if ranks < 1:
        refuse(f"--ranks {ranks}: give 1 or more")
    if not out.endswith(".pt") or split_shard_name(out)[1] is not None:
        refuse(f"--out {out}: name it without -rank-N, as DIR/checkpoint_last.pt")
    existing = shard_files(out)
    if existing:
        refuse(f"--out {out}: {existing[0]} exists; nothing was overwritten")
    save = open_save(path)
    layout = expert_layout(save.layout.num_experts, ranks, size)
    files = [shard_file(out, rank) for rank in range(ranks)]
    run = uuid.uuid4().hex  # a new one: no file of an older set fits between these
    with written_together(files) as parts:
        for rank, part in enumerate(parts):
            print(f"{files[rank]}: write shard {rank + 1} of {ranks}", file=sys.stderr)
            shard = assemble(save, layout.experts(rank), shared=rank == 0)
            shard["task_state"][SHARD] = {
                "rank": rank, "world_size": ranks, "size": layout.size, "run": run,
            }
            write(shard, part)
            del shard  # before the next is assembled


def assemble(save: Save, wanted: slice, shared: bool) -> Checkpoint:
    """Return a checkpoint with the wanted ones of a save's E experts, and all else if shared.

    It is that of rank 0, with other experts, as an ordinary run would have saved it.
    """
    base = save.read(0)
    slots = expert_slots(base, save.file(0))
    count = wanted.stop - wanted.start
    memory: Dict[Tuple[int, torch.Size], Tensor] = {}
    experts: Dict[str, Tensor] = {}
    for label, slot in slots.items():
        # in a float32 run the averages in float32 are the averages themselves, and stored once
        key = (slot.tensor.data_ptr(), slot.tensor.shape)
        if key not in memory:
            memory[key] = slot.tensor.new_empty(count, *slot.tensor.shape[1:])
        experts[label] = memory[key]
    # rank 0 last: its pages stay mapped, and those of the others are given back by then
    for rank in reversed(range(save.layout.size)):
        held = save.layout.experts(rank)
        start, stop = max(held.start, wanted.start), min(held.stop, wanted.stop)
        if start >= stop:
            continue
        file = save.file(rank)
        if save.sharded:
            print(f"{file}: read experts {start} to {stop - 1}", file=sys.stderr)
        piece = expert_slots(base if rank == 0 else save.read(rank), file)
        for label, slot in piece.items():
            source = slot.tensor[start - held.start : stop - held.start]
            experts[label][start - wanted.start : stop - wanted.start].copy_(source)
    for label, slot in slots.items():
        slot.holder[slot.key] = experts[label]
    if not shared:
        keep_experts(base, save.file(0))
    base["task_state"].pop(SHARD, None)
    make_cfg_ordinary(base["cfg"])
    return base


def make_cfg_ordinary(cfg: Dict[str, Any]) -> None:
    """Give the configuration of a run with shards the values of one that saves ordinary files."""
    model, checkpoint = cfg["model"], cfg.get("checkpoint")
    checkpoint = checkpoint if isinstance(checkpoint, dict) else {}
    if not (checkpoint.get("checkpoint_suffix") or model.get("moe_sharded_checkpoints")):
        return
    for settings, name, value in (
        (checkpoint, "checkpoint_suffix", ""),
        (model, "moe_sharded_checkpoints", False),
        (model, "base_layers", 0),
        (model, "moe_expert_parallel_size", None),
    ):
        if name in settings:
            settings[name] = value


def write(checkpoint: Checkpoint, part: str) -> None:
    """Write a checkpoint and wait until it is on the disk."""
    try:
        torch.save(checkpoint, part)
    except RuntimeError as error:  # how torch tells of a full disk
        refuse(f"{os.path.dirname(part) or '.'}: not written: {str(error).splitlines()[0]}")
    with open(part, "rb") as file:
        os.fsync(file.fileno())
