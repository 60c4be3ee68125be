"""The models of a folder of Hugging Face as dense models: M2M100 (also NLLB-200), and Marian.

All rows of embeddings are kept, so that log-probabilities are equal; their order is fairseq's.
"""

from typing import Any, Dict, List, Optional

import torch
from torch import Tensor
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

from ..data.languages import LanguageTags
from ..errors import refuse
from ..metrics.lang_pairs import languages_of, split_pair
from ..names import OUTPUT_BIAS, STACKS
from .dense import EMBEDDINGS, DenseModel, StateDict, model_config
from .hf_folder import TOKENIZER, Folder
from .hf_words import NO_ROW, ImportedWords, read_words
from .hugging_face import M2M100, PAD, common_settings

COMPUTED = (".embed_positions.weights", "_float_tensor")  # no weights, in files of old
NEVER = -1e4  # bias of what the model cannot say: its probability is 0, also in half precision
EOS_ROW = 2


def m2m100_model(folder: Folder, lang_pairs: List[str]) -> DenseModel:
    """Return a model of M2M100's class, with tags for all its languages."""
    config, path = folder.config, folder.path
    words = read_words(folder, config.vocab_size)
    _check_languages(languages_of(lang_pairs), words.langs, path)
    settings = common_settings(config, path)
    settings["share_all_embeddings"] = bool(config.tie_word_embeddings)
    settings["encoder_normalize_before"] = settings["decoder_normalize_before"] = True
    state = _renamed(folder.weights)
    shared = state.pop("shared.weight", None)
    tables = {ours: state.pop(names[0].removeprefix("model."), None)
              for ours, names in M2M100.tables.items()}
    if settings["share_all_embeddings"]:
        tables = dict.fromkeys(tables, tables[EMBEDDINGS[0]] if shared is None else shared)
    moved: Dict[int, Tensor] = {}  # one matrix stays one
    for name, table in tables.items():
        if id(table) not in moved:
            moved[id(table)] = _in_order(table, words, path, name)
        state[name] = moved[id(table)]
    return _dense(path, settings, state, words, LanguageTags(
        tuple(words.langs), "src", True, "multilingual"), lang_pairs)


def marian_model(folder: Folder, lang_pairs: List[str]) -> DenseModel:
    """Return a model of Marian's class.

    Its decoder begins with padding instead of </s>, so that its embeddings become three matrices.
    Its positions, which are sines in another order, become learned ones.
    """
    config, path = folder.config, folder.path
    if not config.share_encoder_decoder_embeddings:
        refuse(f"{path}: has one vocabulary for each language; this plugin has one for all")
    if not 0 <= config.decoder_start_token_id < config.vocab_size:
        refuse(f"{path}: decoder_start_token_id {config.decoder_start_token_id} is no word")
    words = read_words(folder, config.vocab_size)
    tags = LanguageTags(tuple(words.langs), "tgt" if words.langs else None, False, "multilingual")
    if words.langs:
        _check_languages([split_pair(pair)[1] for pair in lang_pairs], words.langs, path)
    new = [lang for lang in languages_of(lang_pairs) if lang not in words.langs]
    words = words._replace(langs=[*words.langs, *new], rows=[*words.rows, *[NO_ROW] * len(new)])
    settings = {
        **common_settings(config, path), "decoder_output_bias": True,
        "encoder_learned_pos": True, "decoder_learned_pos": True,
    }
    state = _renamed(folder.weights)
    shared = state.pop("shared.weight", None)
    source, target, output = (
        state.pop(name, None) for name in
        ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    )
    source = shared if source is None else source
    if source is None:
        refuse(f"{path}: model.shared.weight is missing")
    target = source if target is None else target
    output = target if output is None or config.tie_word_embeddings else output
    bias = state.pop("final_logits_bias", None)
    bias = torch.zeros(config.vocab_size) if bias is None else bias.flatten()
    for name, table in zip(EMBEDDINGS, (source, target, output), strict=True):
        state[name] = _in_order(table, words, path, name)
    state[EMBEDDINGS[1]][EOS_ROW] = target[config.decoder_start_token_id]
    state[OUTPUT_BIAS] = _in_order(bias, words, path, OUTPUT_BIAS, NEVER)
    for stack in STACKS:
        name = f"{stack}.embed_positions.weight"
        positions = MarianSinusoidalPositionalEmbedding(
            config.max_position_embeddings, source.size(-1)).create_weight()
        state[name] = torch.cat([torch.zeros(PAD + 1, source.size(-1)), state.get(name, positions)])
    return _dense(path, settings, state, words, tags._replace(langs=tuple(words.langs)), lang_pairs)


def _dense(
    path: str, settings: Dict[str, Any], state: StateDict, words: ImportedWords,
    tags: LanguageTags, lang_pairs: List[str],
) -> DenseModel:
    counts = [1] * len(words.words)
    return DenseModel(model_config(path, settings), state, words.words, counts, tags, lang_pairs)


def _check_languages(used: List[str], langs: List[str], path: str) -> None:
    for lang in used:
        if lang not in langs:
            refuse(f"--lang-pairs: {path} has no language {lang}; it has {', '.join(langs)} (in "
                   f"the files of its tokenizer: {TOKENIZER})")


def _renamed(weights: StateDict) -> StateDict:
    return {
        name.removeprefix("model."): weight for name, weight in weights.items()
        if not name.endswith(COMPUTED)
    }


def _in_order(
    table: Optional[Tensor], words: ImportedWords, path: str, name: str, missing: float = 0.0
) -> Tensor:
    """Return a table (V, ...) with its rows in the order of the words, and `missing` for NO_ROW."""
    rows = torch.tensor(words.rows)
    known = int(rows.ne(NO_ROW).sum())
    if table is None or len(table) != known:
        refuse(f"{path}: {name} has not the {known} rows of the configuration")
    ordered = table[rows.clamp(min=0).to(table.device)]
    ordered[rows == NO_ROW] = missing
    return ordered
