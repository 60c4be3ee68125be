"""Which options of fairseq's search are supported."""

import ast
from typing import Any, Dict

import torch
from fairseq.dataclass.configs import GenerationConfig
from omegaconf import OmegaConf
from torch import Tensor

from ..checkpoint.same_model import DEPTH, MEANING, ROUTING
from ..data.languages import LanguageTags
from ..errors import refuse

# options of fairseq's commands that would be ignored silently, or fail late
UNSUPPORTED = {
    "constraints": "constrained decoding is not supported",
    "lm_path": "a language model has no language tags, and another vocabulary",
    "retain_dropout": "dropout at inference is not supported",
    "retain_dropout_modules": "dropout at inference is not supported",
    **{
        f"iter_decode_{name}": "only for non-autoregressive models"
        for name in ("max_iter", "eos_penalty", "force_max_iter", "with_beam",
                     "with_external_reranker")
    },
    "retain_iter_history": "only for non-autoregressive models",
    "decoding_format": "only for non-autoregressive models",
}


def check_overrides(cfg: Any) -> None:
    """Refuse --model-overrides of settings with which the weights mean something else.

    cfg is the task's section of a command's configuration.
    """
    evaluation = (cfg._get_root().get("common_eval") if OmegaConf.is_config(cfg) else None) or {}
    given = ast.literal_eval(evaluation.get("model_overrides") or "{}")
    for name in (*MEANING, *DEPTH, *ROUTING):
        if name in given:
            refuse(f"--model-overrides {name}: the checkpoint's weights are of its own setting")


def check_search(args: Any, tags: LanguageTags) -> None:
    """Refuse options of the search that are not supported, or not with these tags."""
    defaults = GenerationConfig()
    for name, reason in UNSUPPORTED.items():
        default = getattr(defaults, name)
        if getattr(args, name, default) not in (default, None):
            refuse(f"--{name.replace('_', '-')}: {reason}")
    in_source, in_target = tags.encoder_langtok is not None, tags.decoder_langtok
    if getattr(args, "replace_unk", None) is not None and (in_source or in_target):
        refuse("--replace-unk: language tags shift the alignment that it uses")
    if getattr(args, "print_alignment", None) and in_target:
        refuse("--print-alignment: it would count the target's language tag, which is not printed")
    if getattr(args, "match_source_len", False) and in_source != in_target:
        refuse("--match-source-len: it would count the language tag, which only one side has")


def empty_hypothesis(eos: int) -> Dict[str, Tensor]:
    """Return an empty hypothesis, as from the sequence generator."""
    return {
        "tokens": torch.tensor([eos]),
        "score": torch.tensor(0.0),
        "attention": torch.empty(0),
        "alignment": torch.empty(0),
        "positional_scores": torch.zeros(1),
    }
