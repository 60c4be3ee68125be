"""Checks that a model can translate its test sets, before it translates any."""

from typing import NamedTuple, Optional, Sequence

from fairseq.models import BaseFairseqModel
from fairseq.utils import resolve_max_positions

from ..data.task_pair_dataset import TaskPairDataset
from ..tasks.lengths import admit_sources, check_fits_batch, check_references
from ..tasks.translation_task_moe import TranslationTaskMoeTask


class Batching(NamedTuple):
    """How sentences are batched for translation, which changes only the speed."""

    max_tokens: Optional[int] = None  # without either limit: devices.TOKENS of the device
    batch_size: Optional[int] = None
    skip_long: bool = False  # sources that are too long get an empty translation, no refusal


def check_lengths(
    model: BaseFairseqModel, task: TranslationTaskMoeTask, lang_pairs: Sequence[str], split: str,
    batching: Batching, read_references: bool = False,
) -> None:
    """Refuse a test set with sentences too long for the model or for a batch.

    Called before work starts. With read_references, references are checked too, for a model that
    reads them.
    """
    for lang_pair in lang_pairs:
        dataset, name = task.data_manager.load_pair(split, lang_pair), set_name(split, lang_pair)
        admit(model, task, dataset, batching, name)
        if read_references:
            check_references(dataset, [model], name)


def admit(
    model: BaseFairseqModel, task: TranslationTaskMoeTask, dataset: TaskPairDataset,
    batching: Batching, name: str, warned: bool = False,
) -> TaskPairDataset:
    """Return a dataset whose sentences fit the model and its batches; refuses one that does not.

    warned: check_lengths has already warned about the sentences that get an empty translation.
    """
    limit, _ = resolve_max_positions(task.max_positions(), model.max_positions())
    dataset = admit_sources(dataset, limit, batching.skip_long, warned)
    check_fits_batch(dataset, batching.max_tokens, name)
    return dataset


def set_name(split: str, lang_pair: str) -> str:
    return f"the {split} set of {lang_pair}"
