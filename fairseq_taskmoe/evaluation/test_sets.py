"""The two sides of a direction's set as text: raw where it is at hand, else detokenized."""

import os
from typing import List, NamedTuple, Optional

from ..data.detokenize import TextOf
from ..data.task_pair_dataset import TaskPairDataset
from ..errors import refuse
from ..read_files import read_lines
from ..tasks.translation_task_moe import TranslationTaskMoeTask


class TestSet(NamedTuple):
    """Both sides of a set, in the order of its file."""

    sources: List[str]
    references: List[str]
    num_unknown: int  # unknown words in the references: the dictionary lost their spelling


class PairSets(NamedTuple):
    """What a direction is scored with; binarized sets stay on the disk until then."""

    test: TaskPairDataset
    sources: Optional[List[str]]  # raw ones
    references: Optional[List[str]]  # raw ones
    train: Optional[TaskPairDataset]  # for the floors, where the pair has one


def find_sets(
    task: TranslationTaskMoeTask, lang_pair: str, split: str, folder: Optional[str], floors: bool
) -> PairSets:
    """Return a direction's sets, with the raw text of a folder, refusing what is not there."""
    manager = task.data_manager
    test = manager.load_pair(split, lang_pair)
    sources = references = None
    if folder:
        source, target = lang_pair.split("-")
        sources = read_raw(task, folder, split, lang_pair, source, len(test))
        references = read_raw(task, folder, split, lang_pair, target, len(test))
        if references is None:
            refuse(f"--references {folder} has no {split} references of {lang_pair} in {target}: "
                   f"neither {split}.{lang_pair}.{target} nor the other order of the pair")
    with_train = floors and (
        lang_pair in task.task_table.trained or manager.has_pair("train", lang_pair)
    )
    train = manager.load_pair("train", lang_pair) if with_train else None
    return PairSets(test, sources, references, train)


def read_raw(
    task: TranslationTaskMoeTask, folder: str, split: str, lang_pair: str, lang: str, length: int
) -> Optional[List[str]]:
    """Return the raw text of one side of a direction, None where the folder does not have it.

    Files are named as fairseq-preprocess wants them, folder/test.en-de.de. A pivoted pair has its
    rows of those that it was made from. Refuses another number of lines than the data has.
    """
    pivoted = task.data_manager.pivoted.get((split, lang_pair))
    source, target = lang_pair.split("-")
    rows = None
    if pivoted is not None:
        side = pivoted.source if lang == source else pivoted.target
        source, target, rows, length = lang, pivoted.pivot, side.rows, side.total
    for pair in (f"{source}-{target}", f"{target}-{source}"):
        path = os.path.join(folder, f"{split}.{pair}.{lang}")
        if os.path.isfile(path):
            lines = read_lines(path)
            if len(lines) != length:
                refuse(
                    f"--references {folder}: {len(lines)} lines in {split}.{pair}.{lang} for the "
                    f"{length} sentences of the data"
                )
            return lines if rows is None else [lines[row] for row in rows]
    return None


def read_test_set(task: TranslationTaskMoeTask, dataset: TaskPairDataset) -> TestSet:
    """Return a direction's set as text, detokenized from its binarized form."""
    text = TextOf(task.dictionary, task.tags)
    sources, targets = (
        [side[i] for i in range(len(dataset))] for side in (dataset.src, dataset.tgt)
    )
    num_unknown = sum(int(target.eq(task.dictionary.unk()).sum()) for target in targets)
    return TestSet(list(map(text, sources)), list(map(text, targets)), num_unknown)
