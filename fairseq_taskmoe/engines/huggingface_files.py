"""The model of a folder of `taskmoe extract --format huggingface`, which may be untrusted.

from_pretrained follows what a folder asks for: adapters, kernels and code from elsewhere. Here only
settings of known names and types are taken, and the weights are read as tensors.
"""

from pathlib import Path
from typing import Any, Dict

import torch
import transformers
from safetensors.torch import load_file

from ..checkpoint.skip_init import SkipInit
from ..errors import refuse
from ..read_files import read_json

CLASSES = {
    "m2m_100": (transformers.M2M100Config, transformers.M2M100ForConditionalGeneration),
    "fsmt": (transformers.FSMTConfig, transformers.FSMTForConditionalGeneration),
}
WHOLE = (
    "vocab_size", "src_vocab_size", "tgt_vocab_size", "d_model", "max_position_embeddings",
    "bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id",
    *(f"{stack}_{name}" for stack in ("encoder", "decoder")
      for name in ("layers", "attention_heads", "ffn_dim")),
)
SETTINGS: Dict[str, type] = {
    **dict.fromkeys(WHOLE, int),
    **dict.fromkeys(("scale_embedding", "tie_word_embeddings", "is_encoder_decoder"), bool),
    **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop",
                     "decoder_layerdrop"), float),
    **dict.fromkeys(("model_type", "activation_function", "dtype"), str),
    **dict.fromkeys(("architectures", "langs"), list),
}


def load_huggingface(folder: str) -> Any:
    """Return the model of a folder in evaluation mode, in float32."""
    path = Path(folder) / "config.json"
    settings = read_json(path, "configuration of a model")
    if not isinstance(settings, dict) or settings.get("model_type") not in CLASSES:
        refuse(f"{path}: model_type is none of {', '.join(CLASSES)}")
    for name, value in settings.items():
        if type(value) is not SETTINGS.get(name):
            refuse(f"{path}: {ascii(name)[:64]} cannot be {ascii(value)[:64]}")
    configuration, kind = CLASSES[settings["model_type"]]
    with SkipInit():
        model: Any = kind(configuration(**settings))
    model.tie_weights()
    weights = load_file(Path(folder) / "model.safetensors")
    missing, unknown = model.load_state_dict(weights, strict=False)
    own = model.state_dict()
    loaded = {own[name].data_ptr() for name in weights if name in own}
    missing = [name for name in missing if own[name].data_ptr() not in loaded]  # but shared ones
    if missing or unknown:
        refuse(f"{folder} is broken: model.safetensors lacks or does not know "
               f"{ascii([*missing, *unknown][0])[:64]}")
    return model.to(torch.float32).eval().requires_grad_(False)
