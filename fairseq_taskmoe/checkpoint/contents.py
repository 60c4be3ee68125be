"""What a checkpoint of transformer_task_moe holds: its parts, and whether they are as they must be.

A file can be whole and still not be such a checkpoint: written by another program, left by an
interrupted conversion, or edited.
"""

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from ..data.languages import TAG_FORMS, LanguageTags
from ..data.task_table import TaskTable
from ..models.config import TransformerTaskMoeConfig

Checkpoint = Dict[str, Any]
SHARD = "expert_shard"  # key of task_state: rank, world_size, size, run


class TrainedModel(NamedTuple):
    """A whole checkpoint of transformer_task_moe, parsed once; its tensors stay in their file."""

    cfg: DictConfig  # of the model, with defaults for what an older version did not have
    table: TaskTable  # the trained pairs
    tags: LanguageTags
    words: List[str]  # of the dictionary, special ones first and without tags
    word_counts: List[int]
    served_only: Optional[List[str]]  # the pairs of a sub-network, None for a full model
    zero_shot: Dict[str, Dict[str, str]]  # pair never trained -> stack -> pair whose route it takes
    checkpoint: Checkpoint  # the whole file: weights, training settings, history

    @classmethod
    def parse(cls, checkpoint: Checkpoint) -> "TrainedModel":
        """Return the parts of a checkpoint in which find_damage has found nothing."""
        stored, defaults = checkpoint["task_state"], OmegaConf.structured(TransformerTaskMoeConfig)
        settings = {k: v for k, v in checkpoint["cfg"]["model"].items() if k in defaults}
        return cls(
            DictConfig(OmegaConf.merge(defaults, settings)),
            TaskTable.from_state(stored["task_table"]),
            LanguageTags.from_state(stored["tags"]),
            stored["words"], stored["word_counts"],
            stored.get("served_only"), dict(stored.get("zero_shot") or {}), checkpoint,
        )

    @property
    def weights(self) -> Dict[str, Tensor]:
        """Return the parameters by name."""
        return self.checkpoint["model"]

    @property
    def pairs(self) -> List[str]:
        """Return the pairs that it was trained on, or was cut out for."""
        return self.served_only or list(self.table.trained)


def task_state(
    table: TaskTable, tags: LanguageTags, words: Sequence[str], word_counts: Sequence[int]
) -> Dict[str, Any]:
    """Return what is stored with the weights so that inference uses the same ids and tags."""
    return {
        "task_table": table.state(), "tags": tags.state(), "words": list(words),
        "word_counts": list(word_counts),
    }


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
        and all(len(pair.split("-")) == 2 and all(pair.split("-")) for pair in pairs)
        and _are_texts(list(groups)) and all(map(_are_texts, groups.values()))
    )


def _are_tags(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"langs", "encoder_langtok", "decoder_langtok", "style"}
        and _are_texts(value["langs"])
        and value["encoder_langtok"] in (None, "src", "tgt")
        and isinstance(value["decoder_langtok"], bool)
        and value["style"] in TAG_FORMS
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
    "parameter_names": _are_texts,
    "new_symbols": _are_texts,
    "frozen_tasks": _are_texts,
    SHARD: lambda value: isinstance(value, dict),
}
