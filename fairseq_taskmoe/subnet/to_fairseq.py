"""Checkpoints of a sub-network: of fairseq's own transformer, or of transformer_task_moe."""

from collections import OrderedDict
from typing import Any, Dict

import torch

from ..checkpoint.contents import Checkpoint, TrainedModel, task_state
from ..checkpoint.new_checkpoint import new_checkpoint
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
    """Return a checkpoint of fairseq's own `transformer`, as fairseq-train alone writes it."""
    refuse_routed(subnet.routed, "fairseq")
    if subnet.model_cfg["decoder_output_bias"] or subnet.model_cfg["activation_fn"] == "swish":
        refuse("--format fairseq: fairseq's own transformer has neither --decoder-output-bias nor "
               "--activation-fn swish")
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
    return new_checkpoint(state, cfg, {}, _num_updates(trained), _namespace(settings))


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
    return new_checkpoint(subnet.state, cfg, stored, _num_updates(trained))


def _namespace(settings: Dict[str, Any]) -> "OrderedDict[str, Any]":
    """Return settings in the only type with attributes that torch's safe loader accepts.

    fairseq and CTranslate2 read the settings of a checkpoint as attributes, and set some.
    argparse's own Namespace would load only where the plugin has allowed it.
    """
    namespace = OrderedDict(settings)
    vars(namespace).update(settings)
    return namespace


def _num_updates(trained: TrainedModel) -> int:
    history = trained.checkpoint.get("optimizer_history") or [{}]
    return history[-1].get("num_updates", 0)
