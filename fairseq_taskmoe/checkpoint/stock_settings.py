"""Settings of a checkpoint of fairseq's own transformer, from a file that may be untrusted.

fairseq evaluates some settings as Python. Only those named here are taken, each of its type, and
the task in the file is never built.
"""

from argparse import Namespace
from dataclasses import fields
from typing import Any, Dict

from fairseq.data import Dictionary
from fairseq.utils import get_available_activation_fns

from ..data.dictionary_file import read_dictionary
from ..data.languages import TAG_FORMS, LanguageTags
from ..errors import refuse
from ..models.config import TransformerTaskMoeConfig
from ..names import STACKS
from .contents import Checkpoint

# Options of transformer_task_moe that fairseq's transformer has under the same name
SHARED_OPTIONS = (
    "activation_fn", "dropout", "attention_dropout", "activation_dropout", "layernorm_embedding",
    "no_scale_embedding", "share_all_embeddings", "share_decoder_input_output_embed",
    "max_source_positions", "max_target_positions",
    *(
        f"{stack}_{name}"
        for stack in STACKS
        for name in ("embed_dim", "layers", "attention_heads", "normalize_before", "learned_pos")
    ),
)
OPTIONS = (*SHARED_OPTIONS, "encoder_ffn_embed_dim", "decoder_ffn_embed_dim")
TYPES = {field.name: field.type for field in fields(TransformerTaskMoeConfig)}


def stock_options(checkpoint: Checkpoint, path: str) -> Namespace:
    """Return the options of a checkpoint's transformer, refusing another model."""
    model = _part(checkpoint, "model")
    if model.get("_name") != "transformer":
        refuse(f"{path}: no model of fairseq's own")
    for name in OPTIONS:
        value = model.get(name)
        if not _fits(name, value):
            refuse(f"{path}: {name} cannot be {ascii(value)[:64]}")
    return Namespace(**{name: model[name] for name in OPTIONS})


def _part(checkpoint: Checkpoint, name: str) -> Dict[str, Any]:
    cfg = checkpoint.get("cfg")
    part = cfg.get(name) if isinstance(cfg, dict) else None
    return part if isinstance(part, dict) else {}


def _fits(name: str, value: Any) -> bool:
    if name == "activation_fn":
        return value in get_available_activation_fns()
    return type(value) is TYPES[name] and (TYPES[name] is not int or value > 0)


def stock_dictionary(checkpoint: Checkpoint, folder: str) -> Dictionary:
    """Return the words in a folder, and the tags of a checkpoint of fairseq's multilingual task."""
    task = _part(checkpoint, "task")
    langs, style, target = (task.get(key) for key in ("langs", "lang_tok_style", "target_lang"))
    if not (isinstance(langs, list) and all(map(_is_language, langs))
            and target in langs and style in TAG_FORMS):
        refuse(f"{folder}: its languages and tags are none of fairseq's multilingual task")
    dictionary = read_dictionary(f"{folder}/dict.{target}.txt")
    LanguageTags(tuple(langs), None, False, style).add_to(dictionary)
    return dictionary


def _is_language(lang: Any) -> bool:
    """Say whether this may be a part of a file's name."""
    return isinstance(lang, str) and lang.isprintable() and not set(lang) & set("/\\ ")
