"""A new model that starts from another one's shared weights: all but experts and routers.

So the paper's student starts from its teacher (section 4.4, after Switch Transformers), and so a
mixture of experts starts from a dense model.
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
from ..models.config import STACKS
from .checks import run_settings

logger = logging.getLogger(__name__)

FLAG = "--init-shared-from"
MOE = ".moe."  # in the names of all weights of experts and routers, and of no others
MUST_AGREE = (*MEANING, *(f"{stack}_embed_dim" for stack in STACKS))


def init_shared_weights(
    model: nn.Module, cfg: Any, words: List[str], tags: LanguageTags
) -> None:
    """Copy into a new model, in place, what cfg.init_shared_from has of the same name and shape.

    Nothing is done, and the file is not needed, where training resumes. Every rank reads the file:
    what it copies is no part of what is spread over ranks. Refuses a checkpoint with other words or
    tags than the model's, or of a model that computes something else with the same weights.
    """
    path = cfg.init_shared_from
    if not on_first_rank(partial(_starts_anew, run_settings(cfg).checkpoint)):
        return
    on_first_rank(partial(_check, cfg, words, tags))
    stored = read_model(path).weights
    copied, left = {}, {}
    with torch.no_grad():
        for name, own in model.named_parameters():
            if MOE not in name and name in stored and stored[name].shape == own.shape:
                own.copy_(stored[name])
                copied[name] = own.numel()
            else:
                left[name] = own.numel()
    if not copied:
        refuse(f"{FLAG} {path}: has no weight under a name and in a shape of this model's")
    drawn = sorted({name.rpartition(".")[0] for name in left})
    logger.info(
        f"{len(copied)} of {len(copied) + len(left)} tensors ({sum(copied.values()):,} of "
        f"{sum(copied.values()) + sum(left.values()):,} parameters) start from {path}; drawn at "
        f"random: {', '.join(drawn) or 'none'}"
    )


def _starts_anew(saving: Dict[str, Any]) -> bool:
    """Say whether training starts with the new model's weights: fairseq has none to load."""
    if saving.get("finetune_from_model"):
        refuse(f"{FLAG} and --finetune-from-model: a new model starts from one of them")
    return file_to_load(saving) is None


def _check(cfg: Any, words: List[str], tags: LanguageTags) -> None:
    path = cfg.init_shared_from
    trained = read_model(path)
    check_vocabulary(FLAG, path, trained, words, tags)
    problem = difference(trained.cfg, cfg, MUST_AGREE)
    if problem is not None:
        refuse(f"{FLAG} {path}: of a model with {problem}")
