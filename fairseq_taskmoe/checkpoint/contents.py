"""What a checkpoint of transformer_task_moe has to hold, checked before any tool uses it.

A file can be whole and still not be one: written by another program, left by an interrupted
conversion, or edited.
"""

from typing import Any, Callable, Dict, Optional

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

SHARD = "expert_shard"  # key of task_state: rank, world_size, size, run
STYLES = ("multilingual", "mbart")  # of language tags


def find_damage(checkpoint: Dict[str, Any]) -> Optional[str]:
    """Return what in a checkpoint is not as training writes it, None where all is.

    Parts that an older version did not write may be missing; values of weights are not checked.
    """
    weights = checkpoint["model"].items()
    if not all(isinstance(name, str) and isinstance(weight, Tensor) for name, weight in weights):
        return "its weights are not a table of names and tensors"
    history = checkpoint.get("optimizer_history") or []
    if not (isinstance(history, list) and all(isinstance(entry, dict) for entry in history)):
        return "its optimizer history is not a list of records"
    for name, is_right in TASK_STATE.items():
        value = checkpoint["task_state"].get(name)
        if value is not None and not is_right(value):
            return f"its task has no {name.replace('_', ' ')}"
    return _find_wrong_setting(checkpoint["cfg"]["model"])


def _find_wrong_setting(settings: Dict[str, Any]) -> Optional[str]:
    from ..models.config import TransformerTaskMoeConfig  # not above: models import this file

    defaults = OmegaConf.structured(TransformerTaskMoeConfig)
    try:
        OmegaConf.merge(defaults, {k: v for k, v in settings.items() if k in defaults})
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        return f"its model has an invalid setting: {' '.join(str(error).split())}"
    return None


def _is_table(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("groups"), dict):
        return False
    pairs, groups = value.get("lang_pairs"), value["groups"]
    return (
        isinstance(pairs, list) and bool(pairs) and _are_texts(pairs)
        and all(len(pair.split("-")) == 2 for pair in pairs)
        and _are_texts(list(groups)) and all(map(_are_texts, groups.values()))
    )


def _are_tags(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"langs", "encoder_langtok", "decoder_langtok", "style"}
        and _are_texts(value["langs"])
        and value["encoder_langtok"] in (None, "src", "tgt")
        and isinstance(value["decoder_langtok"], bool)
        and value["style"] in STYLES
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(number, int) for number in value)


TASK_STATE: Dict[str, Callable[[Any], bool]] = {
    "task_table": _is_table,
    "tags": _are_tags,
    "words": _are_texts,
    "word_counts": _are_numbers,
    "served_only": _are_texts,
    "zero_shot": lambda value: isinstance(value, dict),
    "parameter_names": lambda value: isinstance(value, list),
    SHARD: lambda value: isinstance(value, dict),
}
