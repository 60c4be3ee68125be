"""What fairseq needs to run a sub-network: a checkpoint, and the command that loads it."""

import argparse
from typing import Any, Dict

import torch
from fairseq.tasks import TASK_REGISTRY

from ..data.task_table import TaskTable
from ..errors import refuse
from .extract_subnet import HALVES, Subnet, pad_widths
from .reading import Checkpoint

STOCK_TASK = "translation_multi_simple_epoch"
# Options of transformer_task_moe that fairseq's transformer has under the same name
SHARED_OPTIONS = (
    "activation_fn", "dropout", "attention_dropout", "activation_dropout", "layernorm_embedding",
    "no_scale_embedding", "share_all_embeddings", "share_decoder_input_output_embed",
    "max_source_positions", "max_target_positions",
    *(
        f"{half}_{name}"
        for half in HALVES
        for name in ("embed_dim", "layers", "attention_heads", "normalize_before", "learned_pos")
    ),
)


def refuse_routed(routed: Dict[str, str], format: str) -> None:
    """Refuse a model with halves, each with a reason, that no dense model can hold."""
    for reason in routed.values():
        refuse(f"{reason}, so no dense model holds them; --format {format} needs one, "
               "--format taskmoe folds what can be folded and keeps the rest")


def stock_checkpoint(checkpoint: Checkpoint, subnet: Subnet) -> Checkpoint:
    """Return a checkpoint of fairseq's own `transformer`, which loads without the plugin."""
    refuse_routed(subnet.routed, "fairseq")
    state = dict(subnet.state)
    model: Dict[str, Any] = {name: subnet.model_cfg[name] for name in SHARED_OPTIONS}
    model.update(_name="transformer", arch="transformer")
    for half in HALVES:
        model[f"{half}_ffn_embed_dim"] = pad_widths(state, half, model[f"{half}_layers"])
        state[f"{half}.version"] = torch.tensor([3.0])
    return _assemble(checkpoint, state, model, _stock_task(subnet), {})


def taskmoe_checkpoint(checkpoint: Checkpoint, subnet: Subnet) -> Checkpoint:
    """Return a checkpoint of transformer_task_moe with the sub-network's layers."""
    model = {"_name": "transformer_task_moe", **subnet.model_cfg}
    task_state = {
        "task_table": TaskTable(tuple(subnet.lang_pairs)).state(),
        "tags": subnet.tags.state(),
        "words": subnet.words,
        "word_counts": subnet.word_counts,
        "served_only": subnet.lang_pairs,
        "zero_shot": subnet.zero_shot,
    }
    return _assemble(checkpoint, subnet.state, model, checkpoint["cfg"]["task"], task_state)


def stock_flags(subnet: Subnet) -> str:
    """Return the flags with which fairseq-generate runs the stock checkpoint of the first pair.

    fairseq's multilingual task knows the language tags, which are in the model and not in
    dict.txt; the multiple of 1 is for its loss of the last batch.
    """
    task = _stock_task(subnet)
    flags = [
        f"--task {STOCK_TASK}",
        f"--langs {','.join(task['langs'])} --lang-pairs {','.join(task['lang_pairs'])}",
        f"-s {task['source_lang']} -t {task['target_lang']}",
        f"--lang-tok-style {task['lang_tok_style']}",
    ]
    if task["encoder_langtok"]:
        flags.append(f"--encoder-langtok {task['encoder_langtok']}")
    if task["decoder_langtok"]:
        flags.append("--decoder-langtok")
    return " ".join([*flags, "--required-batch-size-multiple 1"])


def _stock_task(subnet: Subnet) -> Dict[str, Any]:
    """Return the settings of fairseq's multilingual task, whole, for its Python interface too."""
    source, target = subnet.lang_pairs[0].split("-")
    parser = argparse.ArgumentParser()
    TASK_REGISTRY[STOCK_TASK].add_args(parser)
    settings = vars(parser.parse_args(["."]))
    settings.update(
        task=STOCK_TASK,
        source_lang=source,
        target_lang=target,
        lang_pairs=subnet.lang_pairs,
        langs=list(subnet.tags.langs),
        encoder_langtok=subnet.tags.encoder_langtok,
        decoder_langtok=subnet.tags.decoder_langtok,
        lang_tok_style=subnet.tags.style,
        seed=1,
        dataset_impl=None,
    )
    return settings


def _assemble(
    checkpoint: Checkpoint, state: Any, model: Dict[str, Any], task: Dict[str, Any],
    task_state: Dict[str, Any],
) -> Checkpoint:
    """Return a checkpoint without anything that only training needs."""
    history = checkpoint.get("optimizer_history") or [{}]
    # fairseq takes a checkpoint without these for one of before 2019
    kept = {"optimizer_name": "FairseqAdam", "lr_scheduler_state": {}, "num_updates": 0}
    kept.update((key, history[-1][key]) for key in kept if key in history[-1])
    return {
        "args": None,
        "cfg": {"model": model, "task": task},
        "model": state,
        "task_state": task_state,
        "optimizer_history": [kept],
        "extra_state": {"train_iterator": {"epoch": 0, "iterations_in_epoch": 0}},
    }
