"""Flags that describe a sub-network to fairseq's own commands, and what they parse to."""

from typing import Any, Dict, List

from fairseq import options

from ..checkpoint.contents import TrainedModel
from ..checkpoint.stock_settings import SHARED_OPTIONS
from ..metrics.lang_pairs import split_pair
from ..names import STACKS
from .extract import Subnet, widest_layer

STOCK_TASK = "translation_multi_simple_epoch"
STOCK_CRITERION = "label_smoothed_cross_entropy"


def model_options(subnet: Subnet) -> Dict[str, Any]:
    """Return the options of fairseq's transformer, whose layers all get the width of the widest."""
    chosen: Dict[str, Any] = {name: subnet.model_cfg[name] for name in SHARED_OPTIONS}
    for stack in STACKS:
        num_layers = chosen[f"{stack}_layers"]
        chosen[f"{stack}_ffn_embed_dim"] = widest_layer(subnet.state, stack, num_layers)
    return chosen


def generation_flags(subnet: Subnet) -> List[str]:
    """Return the flags with which fairseq-generate translates the first pair.

    fairseq may drop the last batch unless --required-batch-size-multiple is 1.
    """
    source, target = split_pair(subnet.lang_pairs[0])
    return [*_task_flags(subnet), "-s", source, "-t", target, "--required-batch-size-multiple", "1"]


def training_flags(trained: TrainedModel, subnet: Subnet) -> List[str]:
    """Return the flags with which fairseq-train builds the model and the loss it was trained by.

    They name no optimizer, none of its settings, and no batch size.
    """
    criterion = trained.checkpoint["cfg"].get("criterion") or {}
    flags = [*_task_flags(subnet), "--arch", "transformer"]
    for name, value in model_options(subnet).items():
        if value is not False:
            flags += [_flag(name)] if value is True else [_flag(name), str(value)]
    smoothing = str(criterion.get("label_smoothing") or 0.0)
    return [*flags, "--criterion", STOCK_CRITERION, "--label-smoothing", smoothing]


def training_settings(trained: TrainedModel, subnet: Subnet) -> Dict[str, Any]:
    """Return all settings of a run of fairseq-train with training_flags, by name.

    The direction is set too, so that what takes its task from a checkpoint translates the first
    pair. All values are of plain types.
    """
    flags = [".", *training_flags(trained, subnet), "--optimizer", "adam"]
    parsed = options.parse_args_and_arch(options.get_training_parser(), flags)
    source, target = split_pair(subnet.lang_pairs[0])
    return {**vars(parsed), "source_lang": source, "target_lang": target}


def _task_flags(subnet: Subnet) -> List[str]:
    """Return the flags of fairseq's multilingual task.

    That task adds the language tags, which the model has and dict.txt has not.
    """
    tags = subnet.tags
    flags = [
        "--task", STOCK_TASK, "--langs", ",".join(tags.langs),
        "--lang-pairs", ",".join(subnet.lang_pairs), "--lang-tok-style", tags.style,
    ]
    if tags.encoder_langtok:
        flags += ["--encoder-langtok", tags.encoder_langtok]
    return [*flags, "--decoder-langtok"] if tags.decoder_langtok else flags


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
