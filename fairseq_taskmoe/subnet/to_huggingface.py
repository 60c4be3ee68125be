"""A dense sub-network in Hugging Face's format: AutoModelForSeq2SeqLM and AutoTokenizer load it."""

import json
from pathlib import Path
from typing import Any, Dict, List, Optional

from safetensors.torch import save_file

from ..conversion.hugging_face import (
    ACTIVATIONS,
    EOS,
    PAD,
    choose_class,
    config_json,
    weights_there,
)
from ..conversion.tokenizer_json import write_tokenizer
from ..data.languages import make_dictionary
from ..errors import refuse
from ..metrics.lang_pairs import languages_of
from ..names import STACKS
from .extract import Subnet, count_parameters, pad_widths, widest_layer
from .to_fairseq import refuse_routed

BEAM, MAX_LENGTH = 4, 256  # of generation_config.json


def write_huggingface(subnet: Subnet, sentencepiece_model: Optional[Path], folder: Path) -> int:
    """Write model, configurations and tokenizer; return the number of parameters, with padding."""
    refuse_routed(subnet.routed, "huggingface")
    cfg, state, tags = dict(subnet.model_cfg), dict(subnet.state), subnet.tags
    choose_class(cfg)
    if cfg["activation_fn"] not in ACTIVATIONS:
        refuse(f"--activation-fn {cfg['activation_fn']} is none of those that --format huggingface "
               f"has: {', '.join(ACTIVATIONS)}")
    for stack in STACKS:
        width = cfg[f"{stack}_ffn_embed_dim"] = widest_layer(state, stack, cfg[f"{stack}_layers"])
        pad_widths(state, stack, cfg[f"{stack}_layers"], width)
    symbols = make_dictionary(subnet.words, tags).symbols
    _write(folder / "config.json", config_json(cfg, len(symbols), languages_of(subnet.lang_pairs)))
    _write(folder / "generation_config.json", _generation(subnet, symbols))
    sources = {tuple(tags.of_pair(pair)[0]) for pair in subnet.lang_pairs}
    write_tokenizer(
        folder, symbols, [tags.tag(lang) for lang in tags.langs], sentencepiece_model,
        # several directions: the text begins with the tag
        next(iter(sources)) if len(sources) == 1 else (), cfg["max_source_positions"],
    )
    save_file(weights_there(state, cfg), folder / "model.safetensors", {"format": "pt"})
    return count_parameters(state)


def _write(path: Path, content: Dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _generation(subnet: Subnet, symbols: List[str]) -> Dict[str, Any]:
    """Return the options of `generate` with which it translates as fairseq does.

    As there, padding is never chosen and no translation is empty.
    """
    starts = {tuple(subnet.tags.of_pair(pair)[1]) for pair in subnet.lang_pairs}
    options = {
        "bos_token_id": 0, "pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": EOS,
        "num_beams": BEAM, "max_length": min(MAX_LENGTH, subnet.model_cfg["max_target_positions"]),
        "early_stopping": True, "suppress_tokens": [PAD], "begin_suppress_tokens": [EOS],
    }
    if len(starts) == 1 and (start := next(iter(starts))):
        options["forced_bos_token_id"] = symbols.index(start[0])
    return options
