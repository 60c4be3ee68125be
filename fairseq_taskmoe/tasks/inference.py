"""What happens at inference to sentences that a model cannot read."""

import logging
from typing import Dict

import numpy as np
import torch
from torch import Tensor

from ..data.task_pair_dataset import TaskPairDataset
from ..errors import refuse

logger = logging.getLogger(__name__)


def admit_sources(dataset: TaskPairDataset, limit: int, empty_long: bool) -> TaskPairDataset:
    """Return dataset with no source of more than limit tokens, and every sentence in place.

    Longer ones are refused, or with empty_long emptied, so that they translate to an empty line:
    fairseq would leave them out of its output without a word.
    """
    too_long = np.flatnonzero(dataset.src_sizes > limit)
    if len(too_long) == 0:
        return dataset
    first = ", ".join(str(index) for index in too_long[:5])
    found = (
        f"{len(too_long)} source sentence(s) have more than {limit} tokens (--max-source-positions)"
        f": number {first}{', ...' if len(too_long) > 5 else ''}, counted from 0"
    )
    if not empty_long:
        refuse(f"{found}; --skip-invalid-size-inputs-valid-test translates them to an empty line")
    logger.warning("%s: translated to an empty line", found)
    return dataset.with_empty_sources(too_long)


def empty_hypothesis(eos: int) -> Dict[str, Tensor]:
    """Return the translation of nothing, as the sequence generator would give it."""
    return {
        "tokens": torch.tensor([eos]),
        "score": torch.tensor(0.0),
        "attention": torch.empty(0),
        "alignment": torch.empty(0),
        "positional_scores": torch.zeros(1),
    }
