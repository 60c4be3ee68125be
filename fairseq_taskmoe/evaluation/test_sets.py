"""A direction's test set as text: raw text where it is given, else detokenized from the data."""

import os
from typing import List, NamedTuple, Optional

from ..data.detokenize import TextOf
from ..data.task_pair_dataset import TaskPairDataset
from ..errors import refuse
from ..metrics.lang_pairs import split_pair
from ..read_files import read_lines
from ..tasks.translation_task_moe import TranslationTaskMoeTask


class TestSet(NamedTuple):
    """Both sides of a set, in the order of its file."""

    sources: List[str]
    references: List[str]
    num_unknown: int  # words in the references that are not in the dictionary


class PairSets(NamedTuple):
    """The sets that a direction is scored with; binarized sets are read only then."""

    test: TaskPairDataset
    sources: Optional[List[str]]  # raw text, if given
    references: Optional[List[str]]  # raw text, if given
    train: Optional[TaskPairDataset]  # for the floors, if the pair has training data


def find_sets(
    task: TranslationTaskMoeTask, lang_pair: str, split: str, folder: Optional[str], floors: bool
) -> PairSets:
    """Return a direction's sets, with the raw text of a folder; refuses missing files."""
    manager = task.data_manager
    test = manager.load_pair(split, lang_pair)
    sources = references = None
    if folder:
        source, target = split_pair(lang_pair)
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
    """Return the raw text of one side of a direction, None if the folder does not have it.

    Files are named as for fairseq-preprocess, folder/test.en-de.de. For a pivoted pair, its rows
    are taken from the files of the pairs that it was made from. Refuses a file whose number of
    lines differs from the data.
    """
    pivoted = task.data_manager.pivoted.get((split, lang_pair))
    source, target = split_pair(lang_pair)
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
                    f"--references {folder}: {split}.{pair}.{lang} has {len(lines)} lines, the "
                    f"data {length} sentences"
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
