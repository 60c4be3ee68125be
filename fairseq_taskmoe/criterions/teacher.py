"""The teacher in word-level distillation: a frozen model that reads the student's batches."""

from functools import partial
from typing import Any, Dict

import torch
import torch.nn as nn
from torch import Tensor

from ..checkpoint.load_models import load_task_moe
from ..checkpoint.reading import read_model
from ..checkpoint.same_vocabulary import check_vocabulary
from ..distributed.agreement import on_first_rank
from ..errors import refuse
from ..tasks.multilingual_task import MultilingualTask

FLAG = "--distill-teacher"


class Teacher:
    """The model of a checkpoint in evaluation mode, with all experts on every rank.

    It is not a submodule of the criterion, so it is not trained, counted or saved. It moves to the
    student's device and precision.
    """

    def __init__(self, path: str, task: MultilingualTask):
        """Load the checkpoint, refusing one that does not fit the batches of a task."""
        on_first_rank(partial(_check, path, task))
        trained = read_model(path)
        pairs = task.task_table.lang_pairs
        # a pair that the teacher was not trained on takes its route at inference
        table = trained.table.with_pairs(pairs)
        self.model = load_task_moe(trained, pairs).model
        self.task_ids = torch.tensor([table.task_id(pair) for pair in pairs])
        stacks = {"source": self.model.encoder, "target": self.model.decoder}
        for (side, stack), required in zip(stacks.items(), task.max_positions(), strict=True):
            if stack.embed_positions.max_positions < required:
                refuse(f"{FLAG} {path}: has learned {stack.embed_positions.max_positions} "
                       f"positions; --max-{side}-positions {required} are more")

    @torch.no_grad()
    def logits(self, net_input: Dict[str, Any], student: nn.Module) -> Tensor:
        """Return the teacher's logits (B, T, V) for a batch of the student's."""
        like = next(student.parameters())
        if next(self.model.parameters()).dtype != like.dtype or self.task_ids.device != like.device:
            self.model.to(like.device, like.dtype)
            self.task_ids = self.task_ids.to(like.device)
        logits, _ = self.model(**{**net_input, "task_ids": self.task_ids[net_input["task_ids"]]})
        return logits


def _check(path: str, task: MultilingualTask) -> None:
    trained = read_model(path)
    check_vocabulary(FLAG, path, trained, task.words, task.tags)
    pairs = task.task_table.lang_pairs
    only = trained.served_only or pairs
    for pair in pairs:
        if pair not in only:
            refuse(f"{FLAG} {path}: a sub-network for {', '.join(only)} alone, not for {pair}")
