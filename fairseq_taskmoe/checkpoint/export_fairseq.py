"""What fairseq needs to run a sub-network: a checkpoint, and the command that loads it."""

import argparse
from typing import Any, Dict

import torch
from fairseq.tasks import TASK_REGISTRY

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


def stock_checkpoint(checkpoint: Checkpoint, subnet: Subnet) -> Checkpoint:
    """Return a checkpoint of fairseq's own `transformer`, which loads without the plugin."""
    for half in subnet.kept_halves:
        router = subnet.model_cfg[f"{half}_moe_router"]
        refuse(
            f"the {half} routes by {router}: which experts a sentence needs shows only when it is "
            f"translated, so no dense model holds them; --format taskmoe folds the other half"
        )
    state = dict(subnet.state)
    model: Dict[str, Any] = {name: subnet.model_cfg[name] for name in SHARED_OPTIONS}
    model.update(_name="transformer", arch="transformer")
    for half in HALVES:
        model[f"{half}_ffn_embed_dim"] = pad_widths(state, half, model[f"{half}_layers"])
        state[f"{half}.version"] = torch.tensor([3.0])
    return _assemble(checkpoint, state, model, _stock_task(checkpoint, subnet.lang_pair), {})


def taskmoe_checkpoint(checkpoint: Checkpoint, subnet: Subnet) -> Checkpoint:
    """Return a checkpoint of transformer_task_moe with the folded halves dense."""
    if len(subnet.kept_halves) == len(HALVES):
        routers = [subnet.model_cfg[f"{half}_moe_router"] for half in HALVES]
        refuse(f"the model routes by {' and '.join(routers)}: no half of it can be folded")
    model = {"_name": "transformer_task_moe", **subnet.model_cfg}
    task_state = {**checkpoint["task_state"], "served_only": [subnet.lang_pair]}
    return _assemble(checkpoint, subnet.state, model, checkpoint["cfg"]["task"], task_state)


def stock_flags(checkpoint: Checkpoint, lang_pair: str) -> str:
    """Return the flags with which fairseq-generate runs the stock checkpoint of a pair.

    fairseq's multilingual task knows the language tags, which are in the model and not in
    dict.txt; the multiple of 1 is for its loss of the last batch.
    """
    task = _stock_task(checkpoint, lang_pair)
    source, target = lang_pair.split("-")
    flags = [
        f"--task {STOCK_TASK}",
        f"--langs {','.join(task['langs'])} --lang-pairs {lang_pair} -s {source} -t {target}",
        f"--lang-tok-style {task['lang_tok_style']}",
    ]
    if task["encoder_langtok"]:
        flags.append(f"--encoder-langtok {task['encoder_langtok']}")
    if task["decoder_langtok"]:
        flags.append("--decoder-langtok")
    return " ".join([*flags, "--required-batch-size-multiple 1"])


def _stock_task(checkpoint: Checkpoint, lang_pair: str) -> Dict[str, Any]:
    """Return the settings of fairseq's multilingual task, whole, for its Python interface too."""
    tags = checkpoint["task_state"]["tags"]
    source, target = lang_pair.split("-")
    parser = argparse.ArgumentParser()
    TASK_REGISTRY[STOCK_TASK].add_args(parser)
    settings = vars(parser.parse_args(["."]))
    settings.update(
        task=STOCK_TASK,
        source_lang=source,
        target_lang=target,
        lang_pairs=[lang_pair],
        langs=tags["langs"],
        encoder_langtok=tags["encoder_langtok"],
        decoder_langtok=tags["decoder_langtok"],
        lang_tok_style=tags["style"],
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
