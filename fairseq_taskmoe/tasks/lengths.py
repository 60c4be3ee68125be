"""Length checks before any work: against the model's maximum, and against the batch size.

Lengths are in tokens, including language tag and end of sentence.
"""

import logging
import math
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np
from fairseq.data import ConcatDataset, FairseqDataset
from fairseq.modules import LearnedPositionalEmbedding
from fairseq.utils import resolve_max_positions

from ..data.task_pair_dataset import TaskPairDataset
from ..errors import refuse

logger = logging.getLogger(__name__)

SKIP = "--skip-invalid-size-inputs-valid-test"


def admit_sources(
    dataset: TaskPairDataset, limit: int, empty_long: bool, warned: bool = False
) -> TaskPairDataset:
    """Return dataset with no source of more than limit tokens, and the same number of sentences.

    Longer sources are refused, or with empty_long made empty, so that they translate to an empty
    line; fairseq would silently leave them out of its output. warned: the warning was given before.
    """
    too_long = np.flatnonzero(dataset.src_sizes > limit)
    if len(too_long) == 0:
        return dataset
    found = (
        f"{len(too_long)} source sentence(s) have more than {limit} tokens (--max-source-positions)"
        f": {numbers(too_long + dataset.first)}"
    )
    if not empty_long:
        refuse(f"{found}; --truncate-source cuts them, {SKIP} translates them to an empty line")
    if not warned:
        logger.warning("%s: translated to an empty line", found)
    return dataset.with_empty_sources(too_long)


def check_fits_batch(dataset: TaskPairDataset, max_tokens: Optional[int], name: str) -> None:
    """Refuse sentences of which either side has more than max_tokens tokens."""
    sizes = _sizes(dataset).max(axis=1)
    too_long = np.flatnonzero(sizes > (max_tokens or math.inf))
    if len(too_long):
        refuse(f"--max-tokens {max_tokens}: {name} has a sentence of {sizes.max()} tokens; too "
               f"long: {numbers(too_long + dataset.first)}")


def check_references(dataset: TaskPairDataset, models: Sequence[Any], name: str) -> None:
    """Refuse references that are longer than the learned positions of a model.

    Sinusoidal positions have no such limit.
    """
    limits = [
        model.max_decoder_positions() for model in models
        if isinstance(model.decoder.embed_positions, LearnedPositionalEmbedding)
    ]
    if not limits or dataset.tgt is None:
        return
    too_long = np.flatnonzero(_sizes(dataset)[:, 1] > min(limits))
    if len(too_long):
        refuse(
            f"{name} has {len(too_long)} reference(s) of more than {min(limits)} tokens "
            f"(--max-target-positions), for which the model has learned no positions: "
            f"{numbers(too_long)}"
        )


def admit_validation(
    dataset: FairseqDataset, name: str, lang_pairs: Sequence[str],
    max_positions: Optional[Tuple[int, int]], max_tokens: Optional[int], skip_long: bool,
) -> Any:
    """Return the maximum lengths (source, target) for batches of a validation set.

    Longer sentences than the model's positions or max_tokens are refused, or with skip_long left
    out.
    """
    sizes = _sizes(dataset)
    left_out = np.zeros(len(sizes), dtype=bool)
    in_a_batch = None if max_tokens is None else (max_tokens, max_tokens)
    for limits, flags in (
        (max_positions, "--max-source-positions, --max-target-positions"),
        (in_a_batch, f"--max-tokens {max_tokens}, or --max-tokens-valid"),
    ):
        if limits is None:
            continue
        too_long = (sizes > np.array(limits)).any(axis=1)
        left_out |= too_long
        if not too_long.any():
            continue
        rows = np.flatnonzero(too_long)
        found = (
            f"{len(rows)} of the {len(sizes)} sentences of the set {name} have more than "
            f"{limits[0]} source or {limits[1]} target tokens ({flags}): "
            f"{', '.join(_places(dataset, rows[:5], lang_pairs))}"
            f"{', ...' if len(rows) > 5 else ''}, counted from 0"
        )
        if not skip_long:
            refuse(f"{found}; {SKIP} leaves them out")
        if left_out.all():
            refuse(f"{found}; no other sentence is left to validate on")
        logger.warning("%s: left out", found)
    return resolve_max_positions(max_positions, max_tokens)


def numbers(rows: np.ndarray) -> str:
    """Return the numbers of the first five sentences as text."""
    first = ", ".join(str(row) for row in rows[:5])
    return f"number {first}{', ...' if len(rows) > 5 else ''}, counted from 0"


def _sizes(dataset: FairseqDataset) -> np.ndarray:
    """Return lengths of sources and targets (N, 2), or without targets of sources (N, 1)."""
    sizes = np.asarray(dataset.sizes)
    return sizes if sizes.ndim == 2 else sizes[:, None]


def _places(
    dataset: FairseqDataset, rows: np.ndarray, lang_pairs: Sequence[str]
) -> List[str]:
    if not isinstance(dataset, ConcatDataset):
        return [f"number {row}" for row in rows]
    found = []
    for row in rows:
        part, number = dataset._get_dataset_and_sample_index(int(row))
        found.append(f"number {number} of {lang_pairs[dataset.datasets[part].task_id]}")
    return found
