"""Checkpoints of a sub-network: of fairseq's own transformer, or of transformer_task_moe."""

from collections import OrderedDict
from typing import Any, Dict

import torch

from ..checkpoint.contents import Checkpoint, TrainedModel, task_state
from ..data.task_table import TaskTable
from ..errors import refuse
from ..names import STACKS
from .extract import Subnet, pad_widths
from .stock_flags import model_options, training_settings

# The settings of the task that checkpoint/stock_settings.py reads
TASK_SETTINGS = (
    "task", "source_lang", "target_lang", "langs", "lang_tok_style", "encoder_langtok",
    "decoder_langtok",
)


def refuse_routed(routed: Dict[str, str], format: str) -> None:
    """Refuse a model with stacks, each with a reason, that no dense model can hold."""
    for reason in routed.values():
        refuse(f"{reason}, so no dense model holds them; --format {format} needs one, "
               "--format taskmoe folds what can be folded and keeps the rest")


def stock_checkpoint(trained: TrainedModel, subnet: Subnet) -> Checkpoint:
    """Return a checkpoint of fairseq's own `transformer`, as fairseq-train alone writes it.

    It is whole but for the optimizer's state, as after --no-save-optimizer-state.
    """
    refuse_routed(subnet.routed, "fairseq")
    state, model = dict(subnet.state), model_options(subnet)
    for stack in STACKS:
        pad_widths(state, stack, model[f"{stack}_layers"], model[f"{stack}_ffn_embed_dim"])
        state[f"{stack}.version"] = torch.tensor([3.0])
    settings = training_settings(trained, subnet)
    task = {name: settings[name] for name in TASK_SETTINGS}
    cfg = {
        "model": {**model, "_name": "transformer", "arch": "transformer"},
        "task": {**task, "lang_pairs": subnet.lang_pairs},
    }
    return _assemble(trained.checkpoint, state, cfg, {}, _namespace(settings))


def taskmoe_checkpoint(trained: TrainedModel, subnet: Subnet) -> Checkpoint:
    """Return a checkpoint of transformer_task_moe with the sub-network's layers."""
    cfg = {
        "model": {"_name": "transformer_task_moe", **subnet.model_cfg},
        "task": trained.checkpoint["cfg"]["task"],
    }
    table = TaskTable(tuple(subnet.lang_pairs))
    stored = {
        **task_state(table, subnet.tags, subnet.words, subnet.word_counts),
        "served_only": subnet.lang_pairs, "zero_shot": subnet.zero_shot,
    }
    return _assemble(trained.checkpoint, subnet.state, cfg, stored, None)


def _namespace(settings: Dict[str, Any]) -> "OrderedDict[str, Any]":
    """Return settings in the only type with attributes that torch's safe loader accepts.

    fairseq and CTranslate2 read the settings of a checkpoint as attributes, and set some.
    argparse's own Namespace would load only where the plugin has allowed it.
    """
    namespace = OrderedDict(settings)
    vars(namespace).update(settings)
    return namespace


def _assemble(
    checkpoint: Checkpoint, state: Any, cfg: Dict[str, Any], task_state: Dict[str, Any], args: Any
) -> Checkpoint:
    """Return a checkpoint from which training starts with a new optimizer at its first epoch."""
    history = checkpoint.get("optimizer_history") or [{}]
    # fairseq takes a checkpoint without these for one of before 2019
    kept = {
        "criterion_name": "LabelSmoothedCrossEntropyCriterion", "optimizer_name": "FairseqAdam",
        "lr_scheduler_state": {}, "num_updates": 0,
    }
    kept.update((key, history[-1][key]) for key in ("num_updates",) if key in history[-1])
    return {
        "args": args,
        "cfg": cfg,
        "model": state,
        "criterion": None,
        "optimizer_history": [kept],
        "task_state": task_state,
        "extra_state": {
            "train_iterator": {
                "version": 2, "epoch": 1, "iterations_in_epoch": 0, "shuffle": True,
            },
        },
    }
