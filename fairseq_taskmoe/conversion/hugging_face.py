"""Dense models in Hugging Face's classes: settings and weights, by their names there.

M2M100 (also NLLB-200) normalises the input of each block, FSMT the output of each; both have
fairseq's sinusoidal positions and the names of its layers.
"""

from typing import Any, Dict, List, NamedTuple

from fairseq.modules import SinusoidalPositionalEmbedding
from torch import Tensor

from ..errors import refuse
from ..names import STACKS
from .dense import EMBEDDINGS, StateDict

PAD, EOS = 1, 2  # of fairseq's dictionaries
MOST_POSITIONS = 2**20  # whose sines fit into memory
ACTIVATIONS = {  # ours -> theirs
    "relu": "relu", "gelu": "gelu", "gelu_accurate": "gelu_new", "gelu_fast": "gelu_new",
    "tanh": "tanh", "linear": "linear", "swish": "swish",
}


class ModelClass(NamedTuple):
    """A class of transformers that holds a dense model."""

    model_type: str
    architecture: str
    shared: str  # the name of embeddings that are one
    tables: Dict[str, List[str]]  # our embedding -> its names


M2M100 = ModelClass(
    "m2m_100", "M2M100ForConditionalGeneration", "model.shared.weight",
    {
        EMBEDDINGS[0]: ["model.encoder.embed_tokens.weight", "model.shared.weight"],
        EMBEDDINGS[1]: ["model.decoder.embed_tokens.weight"], EMBEDDINGS[2]: ["lm_head.weight"],
    },
)
FSMT = ModelClass(
    "fsmt", "FSMTForConditionalGeneration", "model.decoder.embed_tokens.weight",
    {name: [f"model.{name}"] for name in EMBEDDINGS},
)


def choose_class(cfg: Dict[str, Any]) -> ModelClass:
    """Return the class for a model with these settings, refusing one that has none."""
    for stack in STACKS:
        if cfg[f"{stack}_learned_pos"]:
            refuse(f"--{stack}-learned-pos: --format huggingface has sinusoidal positions only")
    for name in ("layernorm_embedding", "decoder_output_bias"):
        if cfg[name]:
            refuse(f"--{name.replace('_', '-')}: --format huggingface has none")
    for name in ("embed_dim", "normalize_before"):
        first, second = (cfg[f"{stack}_{name}"] for stack in STACKS)
        if first != second:
            refuse(f"--format huggingface has one --encoder-{name.replace('_', '-')} and "
                   f"--decoder-{name.replace('_', '-')}, the model has {first} and {second}")
    return M2M100 if cfg["encoder_normalize_before"] else FSMT


def config_json(cfg: Dict[str, Any], num_symbols: int, langs: List[str]) -> Dict[str, Any]:
    """Return config.json of a model with these settings."""
    kind = choose_class(cfg)
    sizes = {
        f"{stack}_{name}": cfg[f"{stack}_{ours}"] for stack in STACKS
        for name, ours in (("layers", "layers"), ("attention_heads", "attention_heads"),
                           ("ffn_dim", "ffn_embed_dim"))
    }
    words: Dict[str, Any] = {"vocab_size": num_symbols}
    if kind is FSMT:
        words = {"src_vocab_size": num_symbols, "tgt_vocab_size": num_symbols, "langs": langs}
    return {
        "model_type": kind.model_type, "architectures": [kind.architecture], **words, **sizes,
        "d_model": cfg["encoder_embed_dim"], "dtype": "float32",
        "activation_function": ACTIVATIONS[cfg["activation_fn"]],
        "max_position_embeddings": longest(cfg),
        "scale_embedding": not cfg["no_scale_embedding"],
        "tie_word_embeddings": cfg["share_all_embeddings"],
        **{name: cfg[name] for name in ("dropout", "attention_dropout", "activation_dropout")},
        "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0, "is_encoder_decoder": True,
        "bos_token_id": 0, "pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": EOS,
    }


def weights_there(state: StateDict, cfg: Dict[str, Any]) -> StateDict:
    """Return weights by their names there, in float32; embeddings that are one are there once."""
    kind = choose_class(cfg)
    renamed: Dict[str, Tensor] = {}
    for name, weight in state.items():
        if name in EMBEDDINGS:
            names = [kind.shared] if cfg["share_all_embeddings"] else kind.tables[name]
        else:
            names = [f"model.{name}"]
        # safetensors stores no tensor under two names
        renamed.update({each: weight.float().clone() for each in names})
    if kind is FSMT:
        number = longest(cfg) + PAD + 1
        for stack in STACKS:
            renamed[f"model.{stack}.embed_positions.weight"] = (
                SinusoidalPositionalEmbedding.get_embedding(number, cfg["encoder_embed_dim"], PAD)
            )
    return renamed


def longest(cfg: Dict[str, Any]) -> int:
    """Return the number of positions of the longer side."""
    return max(cfg[f"max_{side}_positions"] for side in ("source", "target"))


def common_settings(config: Any, path: str) -> Dict[str, Any]:
    """Return what the configurations of all these classes say, as our settings."""
    ours = {theirs: name for name, theirs in reversed(ACTIVATIONS.items())} | {"silu": "swish"}
    if config.activation_function not in ours:
        refuse(f"{path}: activation_function {ascii(config.activation_function)[:64]}; choose one "
               f"of {', '.join(ours)}")
    if not 0 < config.max_position_embeddings <= MOST_POSITIONS:
        refuse(f"{path}: max_position_embeddings {config.max_position_embeddings}; a model has 1 "
               f"to {MOST_POSITIONS} positions")
    settings = {
        "activation_fn": ours[config.activation_function],
        "no_scale_embedding": not config.scale_embedding,
        "max_source_positions": config.max_position_embeddings,
        "max_target_positions": config.max_position_embeddings,
        **{name: float(getattr(config, name))
           for name in ("dropout", "attention_dropout", "activation_dropout")},
    }
    for stack in STACKS:
        settings[f"{stack}_embed_dim"] = config.d_model
        settings[f"{stack}_ffn_embed_dim"] = getattr(config, f"{stack}_ffn_dim")
        for name in ("layers", "attention_heads"):
            settings[f"{stack}_{name}"] = getattr(config, f"{stack}_{name}")
    return settings
