"""A checkpoint of a model that was made without training: extracted, imported or upcycled."""

from typing import Any, Dict

from .contents import Checkpoint


def new_checkpoint(
    state: Any, cfg: Dict[str, Any], task_state: Dict[str, Any], num_updates: int = 0,
    args: Any = None,
) -> Checkpoint:
    """Return a checkpoint from which training starts with a new optimizer at its first epoch.

    It is whole but for the optimizer's state, as after --no-save-optimizer-state.
    """
    # fairseq takes a checkpoint without these for one of before 2019
    history = {
        "criterion_name": "LabelSmoothedCrossEntropyCriterion", "optimizer_name": "FairseqAdam",
        "lr_scheduler_state": {}, "num_updates": num_updates,
    }
    return {
        "args": args,
        "cfg": cfg,
        "model": state,
        "criterion": None,
        "optimizer_history": [history],
        "task_state": task_state,
        "extra_state": {
            "train_iterator": {
                "version": 2, "epoch": 1, "iterations_in_epoch": 0, "shuffle": True,
            },
        },
    }
