"""Reading the dense model of a checkpoint: of this plugin, or of fairseq's own transformer.

Nothing of a file is executed. Of fairseq's settings only those that transformer_task_moe has are
taken, each checked for its type; weights of anything else in a model are refused by their names.
"""

import os
from argparse import Namespace
from typing import Any, Dict, List, Optional

from fairseq.models.transformer import base_architecture
from torch import Tensor

from ..checkpoint.reading import read_checkpoint, read_model
from ..checkpoint.stock_settings import OPTIONS
from ..data.dictionary_file import read_dictionary
from ..data.languages import TAG_FORMS, LanguageTags, load_joined_dictionary
from ..data.named_pairs import check_language, named_pairs, split_list
from ..errors import refuse
from ..metrics.lang_pairs import languages_of
from .dense import EMBEDDINGS, DenseModel, StateDict, model_config

# Settings that change what the weights compute and show in none of their names
UNKNOWN = (
    "no_token_positional_embeddings", "cross_self_attention", "encoder_layers_to_keep",
    "decoder_layers_to_keep", "adaptive_softmax_cutoff", "merge_src_tgt_embed",
)
TASKS = ("translation", "translation_multi_simple_epoch")


def read_dense(path: str, dictionary: Optional[str] = None) -> DenseModel:
    """Return the dense model of a checkpoint, whose tensors stay in their file.

    dictionary is for fairseq's own checkpoints, which hold no words: a dict.txt, or a folder with
    dict.LANG.txt. None: the folder of the data that it was trained on.
    """
    checkpoint = read_checkpoint(path)
    cfg = checkpoint.get("cfg")
    cfg = cfg if isinstance(cfg, dict) else {}
    model, task = (_settings(cfg.get(part) or checkpoint.get("args")) for part in ("model", "task"))
    if "moe_expert_count" in model:
        if dictionary:
            refuse(f"--dictionary {dictionary}: {path} holds its own words")
        dense = DenseModel.of(path, read_model(path))
    else:
        dense = _stock_model(path, checkpoint["model"], model, task, dictionary)
    dense.check_weights(path)
    return dense


def _settings(part: Any) -> Dict[str, Any]:
    """Return a part of the configuration as a dictionary; old versions stored a Namespace."""
    if isinstance(part, Namespace):
        return vars(part)
    return dict(part) if isinstance(part, dict) else {}


def _stock_model(
    path: str, weights: Dict[str, Any], model: Dict[str, Any], task: Dict[str, Any],
    dictionary: Optional[str],
) -> DenseModel:
    kind = task.get("_name") or task.get("task")
    if "transformer" not in str(model.get("_name") or model.get("arch")) or kind not in TASKS:
        refuse(f"{path}: no model of fairseq's `transformer` with one of the tasks "
               f"{' and '.join(TASKS)}")
    options = Namespace(**model)
    base_architecture(options)  # what an older version did not have
    for name in UNKNOWN:
        if getattr(options, name, None):
            refuse(f"{path}: --{name.replace('_', '-')} is none of this plugin's options")
    settings = {name: getattr(options, name) for name in OPTIONS if hasattr(options, name)}
    settings = {"max_source_positions": 1024, "max_target_positions": 1024, **settings}
    pairs = _lang_pairs(path, task)
    tags = _tags(path, task, kind, pairs)
    words = _read_words(path, task, dictionary, pairs)
    return DenseModel(
        model_config(path, settings), _named_as_ours(weights), words.symbols, words.count, tags,
        pairs,
    )


def _lang_pairs(path: str, task: Dict[str, Any]) -> List[str]:
    pairs = task.get("lang_pairs")
    if isinstance(pairs, list):
        pairs = ",".join(map(str, pairs))
    if not pairs and task.get("source_lang"):
        pairs = f"{task['source_lang']}-{task.get('target_lang')}"
    if not isinstance(pairs, str):
        refuse(f"{path}: names no language pairs")
    return named_pairs(",".join(split_list(pairs)), f"{path}:")


def _tags(path: str, task: Dict[str, Any], kind: str, pairs: List[str]) -> LanguageTags:
    """Return the tags in the dictionary of a model; `translation` has none."""
    if kind == "translation":
        return LanguageTags((), None, False, "multilingual")
    langs, style = task.get("langs") or languages_of(pairs), task.get("lang_tok_style")
    langs = split_list(langs) if isinstance(langs, str) else langs
    encoder, style = task.get("encoder_langtok"), style or "multilingual"
    decoder, marks = bool(task.get("decoder_langtok")), task.get("langtoks")
    main = marks.get("main") if isinstance(marks, dict) else None
    said = encoder, "tgt" if decoder else None  # fairseq writes what the flags say there, too
    if task.get("lang_tok_replacing_bos_eos") or main not in (None, said, list(said)):
        refuse(f"{path}: --langtoks and --lang-tok-replacing-bos-eos are none of this plugin's "
               "options")
    if encoder not in (None, "src", "tgt") or style not in TAG_FORMS or not isinstance(langs, list):
        refuse(f"{path}: its languages and tags are none of fairseq's multilingual task")
    for lang in langs:
        check_language(str(lang), f"{path}: language")
    return LanguageTags(tuple(langs), encoder, decoder, style)


def _read_words(
    path: str, task: Dict[str, Any], dictionary: Optional[str], pairs: List[str]
) -> Any:
    if dictionary and os.path.isfile(dictionary):
        return read_dictionary(dictionary)
    folder = dictionary or str(task.get("data") or "").split(os.pathsep)[0]
    if not os.path.isdir(folder):
        refuse(f"{path} holds no words, and the folder of its data is not there: give "
               "--dictionary, a dict.txt or a folder with dict.LANG.txt")
    return load_joined_dictionary(folder, languages_of(pairs))


def _named_as_ours(weights: Dict[str, Any]) -> StateDict:
    """Return weights by our names: without markers of versions, and with all embeddings."""
    state: Dict[str, Tensor] = {
        name: weight for name, weight in weights.items()
        if not name.endswith((".version", "._float_tensor"))
    }
    source, target, output = EMBEDDINGS
    if source in state:
        state.setdefault(target, state[source])
    if target in state:
        state.setdefault(output, state[target])
    return state
