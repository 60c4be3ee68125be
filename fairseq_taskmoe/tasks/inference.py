"""Translation by fairseq's own search: which of its options are supported here."""

from typing import Any, Dict

import torch
from fairseq.dataclass.configs import GenerationConfig
from torch import Tensor

from ..data.languages import LanguageTags
from ..errors import refuse

# Options of fairseq's commands that would be ignored without a message, or fail half-way
UNSUPPORTED = {
    "constraints": "constrained decoding is not supported",
    "lm_path": "a language model knows no language tags, and has another vocabulary",
    "retain_dropout": "dropout is for training alone here",
    "retain_dropout_modules": "dropout is for training alone here",
    **{
        f"iter_decode_{name}": "for models that are not autoregressive"
        for name in ("max_iter", "eos_penalty", "force_max_iter", "with_beam",
                     "with_external_reranker")
    },
    "retain_iter_history": "for models that are not autoregressive",
    "decoding_format": "for models that are not autoregressive",
}


def check_search(args: Any, tags: LanguageTags) -> None:
    """Refuse options of the search that are not supported, or not beside these tags."""
    defaults = GenerationConfig()
    for name, reason in UNSUPPORTED.items():
        default = getattr(defaults, name)
        if getattr(args, name, default) not in (default, None):
            refuse(f"--{name.replace('_', '-')}: {reason}")
    in_source, in_target = tags.encoder_langtok is not None, tags.decoder_langtok
    if getattr(args, "replace_unk", None) is not None and (in_source or in_target):
        refuse("--replace-unk: language tags shift the alignment by which words are copied")
    if getattr(args, "print_alignment", None) and in_target:
        refuse("--print-alignment: the target's language tag would count, though it is not printed")
    if getattr(args, "match_source_len", False) and in_source != in_target:
        refuse("--match-source-len: only one side has a language tag, which would count")


def empty_hypothesis(eos: int) -> Dict[str, Tensor]:
    """Return the translation of nothing, as the sequence generator would give it."""
    return {
        "tokens": torch.tensor([eos]),
        "score": torch.tensor(0.0),
        "attention": torch.empty(0),
        "alignment": torch.empty(0),
        "positional_scores": torch.zeros(1),
    }
