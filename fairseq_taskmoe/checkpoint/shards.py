"""A checkpoint in one file or in one per rank: names, what belongs together, where experts stand.

One save over W ranks leaves DIR/checkpoint_last-rank-0.pt to DIR/checkpoint_last-rank-(W-1).pt.
Tensors of experts are stacked, (E, ...) with E experts in an ordinary file, (E / N, ...) in a shard
of a run whose expert-parallel groups have N ranks. All else is in the shard of rank 0 alone.
"""

import os
import re
from dataclasses import dataclass
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from ..distributed.layout import ExpertLayout
from ..errors import refuse
from ..names import EXPERTS
from .contents import SHARD, Checkpoint
from .reading import read_task_moe_checkpoint

SHARD_NAME = re.compile(r"(?P<stem>.+)-rank-(?P<rank>0|[1-9][0-9]*)\.pt")


def shard_file(path: str, rank: int) -> str:
    """Return the file of a rank, for the name that the checkpoint would have in one file."""
    return f"{os.path.splitext(path)[0]}-rank-{rank}.pt"


def split_shard_name(file: str) -> Tuple[str, Optional[int]]:
    """Return the name in one file and the rank, which is None where file is no name of a shard."""
    named = SHARD_NAME.fullmatch(file)
    return (f"{named['stem']}.pt", int(named["rank"])) if named else (file, None)


def shard_files(path: str) -> List[str]:
    """Return the files that are named as shards of path, by rank."""
    folder, name = os.path.split(path)
    if not os.path.isdir(folder or "."):
        return []
    named = (split_shard_name(file) for file in os.listdir(folder or "."))
    ranks = sorted(rank for stem, rank in named if stem == name and rank is not None)
    return [shard_file(path, rank) for rank in ranks]


class Slot(NamedTuple):
    """The place of a tensor of experts in a checkpoint: holder[key]."""

    holder: Dict[Any, Any]
    key: Any

    @property
    def tensor(self) -> Tensor:
        return self.holder[self.key]


def expert_slots(checkpoint: Checkpoint, file: str) -> Dict[str, Slot]:
    """Return all tensors of experts, by a readable name: weights, their averages, moments.

    Refuses a checkpoint whose experts cannot be cut along their first dimension.
    """
    slots = {}
    for part, tensors in weights(checkpoint).items():
        for name in tensors:
            if EXPERTS in str(name):
                slots[f"{part} {name}"] = Slot(tensors, name)
    model = checkpoint["model"]
    for name, entries in expert_moments(checkpoint, file).items():
        for key, value in entries.items():
            if not isinstance(value, Tensor):
                continue
            if value.dim() and name in model and value.shape == model[name].shape:
                slots[f"{key} of {name}"] = Slot(entries, key)
            elif value.numel() != 1:
                refuse(f"{file}: {key} of {name} has another shape than the weights: experts can "
                       "be cut only for elementwise optimizers, as Adam and SGD")
    for label, slot in slots.items():
        tensor = slot.tensor
        if not (isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.dim()
                and tensor.device.type == "cpu" and tensor.is_contiguous()):
            refuse(f"{file}: {label} is no stack of experts")
    return slots


def weights(checkpoint: Checkpoint) -> Dict[str, Dict[str, Tensor]]:
    """Return the parts of a checkpoint that map names of parameters to tensors."""
    extra = checkpoint.get("extra_state")
    extra = extra if isinstance(extra, dict) else {}
    averages = {key: extra.get(key) for key in ("ema", "ema_fp32_params")}
    return {"model": checkpoint["model"],
            **{key: part for key, part in averages.items() if isinstance(part, dict)}}


def expert_moments(checkpoint: Checkpoint, file: str) -> Dict[str, Dict[str, Any]]:
    """Return the optimizer's state of every parameter of experts, by the parameter's name."""
    optimizer = checkpoint.get("last_optimizer_state") or {"state": {}, "param_groups": []}
    try:
        state = optimizer["state"]
        num_parameters = sum(len(group["params"]) for group in optimizer["param_groups"])
        if not all(isinstance(entries, dict) for entries in state.values()):
            raise TypeError
    except (TypeError, KeyError, AttributeError):
        refuse(f"{file}: optimizer state of a form that cannot be cut into experts")
    if not state:
        return {}
    names = checkpoint["task_state"].get("parameter_names")
    if not names or not all(isinstance(name, str) for name in names):
        refuse(f"{file}: does not say which parameters its optimizer state belongs to, since an "
               "older version saved it; resume from it and save it again")
    if num_parameters != len(names) or not set(state) <= set(range(len(names))):
        refuse(f"{file}: the optimizer state is not that of {len(names)} parameters: flattened "
               "(--fp16 without --fp16-no-flatten-grads) it cannot be cut into experts")
    return {names[i]: entries for i, entries in state.items() if EXPERTS in names[i]}


def keep_experts(checkpoint: Checkpoint, file: str) -> None:
    """Take out of a checkpoint what only the shard of rank 0 holds."""
    for tensors in weights(checkpoint).values():
        for name in [name for name in tensors if EXPERTS not in str(name)]:
            del tensors[name]
    kept = [id(entries) for entries in expert_moments(checkpoint, file).values()]
    if kept:
        state = checkpoint["last_optimizer_state"]["state"]
        for index in [i for i, entries in state.items() if id(entries) not in kept]:
            del state[index]


@dataclass(frozen=True)
class Save:
    """One save of a run: an ordinary file, which counts as that of one rank, or all its shards."""

    path: str  # the name in one file
    sharded: bool
    layout: ExpertLayout
    facts: Dict[str, Any]  # what its files have in common, and those of other saves have not
    structure: Dict[str, Any]  # names, types and shapes of experts
    reference: str  # the file that facts and structure are from

    def file(self, rank: int) -> str:
        return shard_file(self.path, rank) if self.sharded else self.path

    def read(self, rank: int) -> Checkpoint:
        """Return the file of a rank, refusing one that does not belong to this save."""
        file = self.file(rank)
        if self.sharded and not os.path.isfile(file):
            refuse(f"{file}: missing shard, one of {self.layout.world_size}")
        checkpoint = read_task_moe_checkpoint(file)
        facts = facts_of(checkpoint, file)
        for name, expected in self.facts.items():
            if facts.get(name) != expected:
                refuse(f"{file}: a foreign shard: its {name} is {facts.get(name)}, that of "
                       f"{self.reference} is {expected}")
        record = checkpoint["task_state"].get(SHARD)
        if record and record["rank"] != rank:
            refuse(f"{file}: holds the shard of rank {record['rank']}, not that of its name")
        structure = structure_of(checkpoint, file, self.layout.experts_per_rank)
        for label in {**self.structure, **structure}:
            if structure.get(label) != self.structure.get(label):
                refuse(f"{file}: a foreign shard: {label} differs from that of {self.reference}")
        return checkpoint


def open_save(path: str) -> Save:
    """Return the save that path names: an ordinary file, any shard, or shards without -rank-N.

    All its files are read, but for their tensors. Refuses a missing, foreign or damaged one.
    """
    shards = [] if os.path.isfile(path) else shard_files(path)
    file = shards[0] if shards else path
    checkpoint = read_task_moe_checkpoint(file)
    facts = facts_of(checkpoint, file)
    if not facts["number of experts"]:
        refuse(f"{file}: a model without experts")
    sharded = SHARD in checkpoint["task_state"]
    stem, rank = split_shard_name(file)
    if sharded and rank is None:
        refuse(f"{file}: a shard, which is no longer named as such: ...-rank-N.pt")
    layout = ExpertLayout(
        facts["number of experts"], facts["number of ranks"], facts["expert-parallel size"]
    )
    structure = structure_of(checkpoint, file, layout.experts_per_rank)
    save = Save(stem if sharded else file, sharded, layout, facts, structure, file)
    for rank in range(layout.world_size if sharded else 0):
        save.read(rank)
    return save


def facts_of(checkpoint: Checkpoint, file: str) -> Dict[str, Any]:
    """Return what all files of one save have in common, in words that an error can use."""
    whole = {"rank": 0, "world_size": 1, "size": 1, "run": "none, a whole checkpoint"}
    try:
        record = checkpoint["task_state"].get(SHARD, whole)
        num_experts = checkpoint["cfg"]["model"]["moe_expert_count"]
        rank, world_size, size = record["rank"], record["world_size"], record["size"]
        if not all(type(number) is int for number in (num_experts, rank, world_size, size)):
            raise TypeError
        if world_size < 1 or size < 1 or world_size % size or num_experts % size:
            raise ValueError
        update = checkpoint["optimizer_history"][-1]["num_updates"]
        return {"run": str(record["run"]), "number of ranks": world_size,
                "expert-parallel size": size, "number of experts": num_experts, "update": update}
    except (TypeError, KeyError, ValueError, IndexError, AttributeError):
        refuse(f"{file}: damaged: its record of update, ranks and experts is invalid")


def structure_of(checkpoint: Checkpoint, file: str, num_experts: int) -> Dict[str, Any]:
    """Return what must agree between the shards of a save, by readable names.

    Of tensors of experts: type, shape without the experts, the tensor that has the same memory. Of
    the optimizer's single numbers (steps): the value, as one file has no place for one per rank.
    """
    structure: Dict[str, Any] = {}
    first: Dict[int, str] = {}
    for label, (holder, key) in expert_slots(checkpoint, file).items():
        tensor = holder[key]
        if tensor.size(0) != num_experts:
            refuse(f"{file}: {label} has {tensor.size(0)} experts where {num_experts} should be")
        shared_with = first.setdefault(tensor.data_ptr(), label)
        structure[label] = (tensor.dtype, tuple(tensor.shape[1:]), shared_with)
    if not structure:
        refuse(f"{file}: a model without experts")
    for name, entries in expert_moments(checkpoint, file).items():
        for key, value in entries.items():
            label = f"{key} of {name}"
            if label not in structure:
                structure[label] = value.item() if isinstance(value, Tensor) else value
    return structure
