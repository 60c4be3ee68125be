"""Whether a model can translate its test sets, checked before it translates any."""

from typing import NamedTuple, Optional, Sequence

from fairseq.models import BaseFairseqModel
from fairseq.utils import resolve_max_positions

from ..data.task_pair_dataset import TaskPairDataset
from ..tasks.lengths import admit_sources, check_fits_batch, check_references
from ..tasks.translation_task_moe import TranslationTaskMoeTask


class Batching(NamedTuple):
    """How sentences are put together for translation, which changes speed alone."""

    max_tokens: Optional[int] = None  # with neither limit, TOKENS of the device
    batch_size: Optional[int] = None
    skip_long: bool = False  # over-long sources translate to an empty line, and are not refused


def check_lengths(
    model: BaseFairseqModel, task: TranslationTaskMoeTask, lang_pairs: Sequence[str], split: str,
    batching: Batching, read_references: bool = False,
) -> None:
    """Refuse what a model cannot read or a batch cannot hold, in any direction's test set.

    To be called before work starts; read_references checks references too, for a model that is to
    read them.
    """
    for lang_pair in lang_pairs:
        dataset, name = task.data_manager.load_pair(split, lang_pair), set_name(split, lang_pair)
        admitted(model, task, dataset, batching, name)
        if read_references:
            check_references(dataset, [model], name)


def admitted(
    model: BaseFairseqModel, task: TranslationTaskMoeTask, dataset: TaskPairDataset,
    batching: Batching, name: str, warned: bool = False,
) -> TaskPairDataset:
    """Return a dataset that the model can read and that fits batches, or refuse it.

    warned is true where check_lengths has already warned of what translates to an empty line.
    """
    limit, _ = resolve_max_positions(task.max_positions(), model.max_positions())
    dataset = admit_sources(dataset, limit, batching.skip_long, warned)
    check_fits_batch(dataset, batching.max_tokens, name)
    return dataset


def set_name(split: str, lang_pair: str) -> str:
    return f"the {split} set of {lang_pair}"
