"""Initialising a new model from another one's shared weights: all except experts and routers.

The paper initialises the student from its teacher in this way (section 4.4, after Switch
Transformers). It can also initialise a mixture of experts from a dense model.
"""

import logging
from functools import partial
from typing import Any, Dict

import torch
import torch.nn as nn

from ..checkpoint.reading import read_model
from ..checkpoint.same_model import MEANING, difference, file_to_load
from ..checkpoint.same_vocabulary import vocabulary_difference
from ..distributed.agreement import on_first_rank
from ..errors import refuse
from ..names import STACKS
from .checks import run_settings
from .counterparts import Counterparts, Names, find_counterparts
from .take_over import taken_over

logger = logging.getLogger(__name__)

FLAG = "--init-shared-from"
MOE = ".moe."  # part of the names of all expert and router weights, and of no others
MUST_AGREE = (*MEANING, *(f"{stack}_embed_dim" for stack in STACKS))


def init_shared_weights(model: nn.Module, names: Names) -> None:
    """Copy weights of the same name and shape from cfg.init_shared_from into a new model, in place.

    Rows of words and language tags are found by name. If training resumes, nothing is done and the
    file is not needed. Every rank reads the file. Refuses a checkpoint with another use of tags, or
    of a model that computes something else with the same weights.
    """
    path = names.cfg.init_shared_from
    if not on_first_rank(partial(_starts_anew, run_settings(names.cfg).checkpoint)):
        return
    found: Counterparts = on_first_rank(partial(_check, names))
    stored = taken_over(found, False, read_model(path).weights, model)
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


def _check(own: Names) -> Counterparts:
    path = own.cfg.init_shared_from
    trained = read_model(path)
    problem = difference(trained.cfg, own.cfg, MUST_AGREE)
    if problem is not None:
        refuse(f"{FLAG} {path}: of a model with {problem}")
    found = find_counterparts(f"{FLAG} {path}", trained, own, shared_only=True)
    if vocabulary_difference(trained, own.words, own.tags) is not None:
        logger.info("words and tags taken over by name; %s", found.summary)
    return found
