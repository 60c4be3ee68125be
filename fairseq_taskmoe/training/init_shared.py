"""Initialising a new model from another one's shared weights: all except experts and routers.

The paper initialises the student from its teacher in this way (section 4.4, after Switch
Transformers). It can also initialise a mixture of experts from a dense model.
"""

import logging
from functools import partial
from typing import Any, Dict, List

import torch
import torch.nn as nn

from ..checkpoint.reading import read_model
from ..checkpoint.same_model import MEANING, difference, file_to_load
from ..checkpoint.same_vocabulary import check_vocabulary
from ..data.languages import LanguageTags
from ..distributed.agreement import on_first_rank
from ..errors import refuse
from ..names import STACKS
from .checks import run_settings

logger = logging.getLogger(__name__)

FLAG = "--init-shared-from"
MOE = ".moe."  # part of the names of all expert and router weights, and of no others
MUST_AGREE = (*MEANING, *(f"{stack}_embed_dim" for stack in STACKS))


def init_shared_weights(
    model: nn.Module, cfg: Any, words: List[str], tags: LanguageTags
) -> None:
    """Copy weights of the same name and shape from cfg.init_shared_from into a new model, in place.

    If training resumes, nothing is done and the file is not needed. Every rank reads the file.
    Refuses a checkpoint with another vocabulary or other language tags, or of a model that computes
    something else with the same weights.
    """
    path = cfg.init_shared_from
    if not on_first_rank(partial(_starts_anew, run_settings(cfg).checkpoint)):
        return
    on_first_rank(partial(_check, cfg, words, tags))
    stored = read_model(path).weights
    copied, not_copied = {}, {}
    with torch.no_grad():
        for name, own in model.named_parameters():
            if MOE not in name and name in stored and stored[name].shape == own.shape:
                own.copy_(stored[name])
                copied[name] = own.numel()
            else:
                not_copied[name] = own.numel()
    if not copied:
        refuse(f"{FLAG} {path}: has no weight with a name and shape of this model")
    random = sorted({name.rpartition(".")[0] for name in not_copied})
    logger.info(
        f"{len(copied)} of {len(copied) + len(not_copied)} tensors ({sum(copied.values()):,} of "
        f"{sum(copied.values()) + sum(not_copied.values()):,} parameters) start from {path}; "
        f"initialised at random: {', '.join(random) or 'none'}"
    )


def _starts_anew(saving: Dict[str, Any]) -> bool:
    """Return whether training is new: fairseq loads no checkpoint."""
    if saving.get("finetune_from_model"):
        refuse(f"{FLAG} and --finetune-from-model: give only one of them")
    return file_to_load(saving) is None


def _check(cfg: Any, words: List[str], tags: LanguageTags) -> None:
    path = cfg.init_shared_from
    trained = read_model(path)
    check_vocabulary(FLAG, path, trained, words, tags)
    problem = difference(trained.cfg, cfg, MUST_AGREE)
    if problem is not None:
        refuse(f"{FLAG} {path}: of a model with {problem}")
