"""Loading binarized data: fairseq's multilingual data manager, with task ids in examples."""

import argparse
import logging
import os
from typing import Any, Dict, List, NamedTuple, NoReturn, Optional, Tuple

from fairseq.data import Dictionary, FairseqDataset, ListDataset, SampledMultiDataset
from fairseq.data.multilingual.multilingual_data_manager import MultilingualDatasetManager
from fairseq.data.multilingual.sampling_method import SamplingMethod
from fairseq.utils import split_paths

from ..errors import refuse
from ..metrics.lang_pairs import split_pair
from .epoch_batches import redraw_virtual_epoch
from .indexed_files import SUFFIXES
from .indexed_sentences import BINARIZE, IndexedSentences
from .task_pair_dataset import TaskPairDataset
from .task_table import TaskTable
from .temperature_schedule import TemperatureSchedule, follow

logger = logging.getLogger(__name__)


class RowSelection(NamedTuple):
    """A selection of sentences of a set."""

    rows: List[int]
    total: int  # number of sentences of the set

    def of(self, dataset: FairseqDataset) -> ListDataset:
        return ListDataset([dataset[row] for row in self.rows], dataset.sizes[self.rows])


class PivotedPair(NamedTuple):
    """A pair without files of its own, aligned through a third language (pivot)."""

    pivot: str  # a language with data for both languages of the pair
    source: RowSelection  # rows of the data of source and pivot
    target: RowSelection  # rows of the data of pivot and target, in the same order


class TaskDatasetManager(MultilingualDatasetManager):
    """Loads datasets of the pairs of a task table, with fairseq's sampling."""

    def __init__(
        self, args: argparse.Namespace, lang_pairs: List[str], langs: List[str],
        dictionary: Dictionary, table: TaskTable,
    ):
        dicts = {lang: dictionary for lang in langs}
        super().__init__(args, lang_pairs, langs, dicts, SamplingMethod(args, None))
        self.table = table
        self.schedule = TemperatureSchedule.parse(
            args.sampling_temperature_schedule, str(args.sampling_method), args.sampling_temperature
        )
        self.pivoted: Dict[Tuple[str, str], PivotedPair] = {}  # by split and pair

    def load_split(self, split: str, training: bool, epoch: int, combine: bool) -> FairseqDataset:
        """Return the dataset of a split with all pairs, in training with new samples each epoch."""
        for pair in self.lang_pairs:
            self.check_pair(split, pair)
        dataset = self.load_dataset(
            split, training, epoch, combine, self.estimate_global_pass_epoch(epoch)
        )
        if self.schedule is not None and isinstance(dataset, SampledMultiDataset):
            follow(self.schedule, dataset)
        if training and len(split_paths(self.args.data)) == 1:
            redraw_virtual_epoch(dataset, epoch)
        return dataset

    def load_pair(self, split: str, lang_pair: str) -> TaskPairDataset:
        """Return the dataset of one pair, in the order of its file."""
        self.check_pair(split, lang_pair)
        params = self.get_split_data_param_list(split, epoch=1)
        param = next(p for p in params if f"{p['src']}-{p['tgt']}" == lang_pair)
        return self.load_a_dataset(combine=False, **param)

    def check_pair(self, split: str, lang_pair: str) -> None:
        """Refuse a pair without data in the folder, in either order of its languages."""
        if not self.has_pair(split, lang_pair):
            refuse_missing_pair(split_paths(self.args.data)[0], split, lang_pair)

    def has_pair(self, split: str, lang_pair: str) -> bool:
        """Return whether a pair can be loaded, from its own files or through a pivot."""
        folder = split_paths(self.args.data)[0]
        return (split, lang_pair) in self.pivoted or holds_pair(folder, split, lang_pair)

    @classmethod
    def load_data(cls, path: str, vdict: Dictionary, impl: Optional[str]) -> IndexedSentences:
        """As in fairseq, with checks; impl is not used, since files contain their format."""
        sentences = IndexedSentences(path, len(vdict))
        logger.info("loaded %s examples from: %s", f"{len(sentences):,}", path)
        return sentences

    def get_data_paths_and_lang_pairs(self, split: str) -> Tuple[Any, Dict[str, List[str]]]:
        """As in fairseq, without missing pairs, for which fairseq has no shards."""
        paths, lang_pairs = super().get_data_paths_and_lang_pairs(split)
        existing = [pair for pair in lang_pairs["main"] if self.has_pair(split, pair)]
        return paths, {**lang_pairs, "main": existing}

    def get_split_num_data_shards(self, split: str) -> Dict[str, int]:
        """As in fairseq, plus pivoted pairs."""
        shards = dict(super().get_split_num_data_shards(split))
        for pivoted_split, lang_pair in self.pivoted:
            if pivoted_split == split:
                shards[self.get_dataset_key("main", *split_pair(lang_pair))] = 1
        return shards

    def load_a_dataset(self, **kwargs: Any) -> TaskPairDataset:
        """As in fairseq, with the pair's task id in every example."""
        dataset = super().load_a_dataset(**kwargs)
        return TaskPairDataset(dataset, self.table.task_id(f"{kwargs['src']}-{kwargs['tgt']}"))

    def load_lang_dataset(
        self, data_path: str, split: str, src: str, src_dict: Dictionary, tgt: str, *args: Any,
        **kwargs: Any,
    ) -> Tuple[Any, Any, Any]:
        """As in fairseq, plus pivoted pairs; refuses two sides of different length."""
        pivoted = self.pivoted.get((split, f"{src}-{tgt}"))
        if pivoted is not None:
            (source, *_), (_, target, _) = (
                self.load_lang_dataset(data_path, split, left, src_dict, right, *args, **kwargs)
                for left, right in ((src, pivoted.pivot), (pivoted.pivot, tgt))
            )
            return pivoted.source.of(source), pivoted.target.of(target), None
        source, target, alignments = super().load_lang_dataset(
            data_path, split, src, src_dict, tgt, *args, **kwargs
        )
        if len(source) != len(target):
            refuse(
                f"{data_path}: {split} data of {src}-{tgt} has {len(source)} sentences in {src} "
                f"and {len(target)} in {tgt}"
            )
        return source, target, alignments


def holds_pair(folder: str, split: str, lang_pair: str) -> bool:
    """Return whether a folder has both sides of a pair, in either order of its languages."""
    return pair_prefix(folder, split, lang_pair) is not None


def pair_prefix(folder: str, split: str, lang_pair: str) -> Optional[str]:
    """Return the path of a pair's files up to the dot before the language, or None."""
    for prefix in _prefixes(folder, split, lang_pair):
        if all(map(os.path.exists, _files(prefix, lang_pair))):
            return prefix
    return None


def refuse_missing_pair(folder: str, split: str, lang_pair: str) -> NoReturn:
    """Refuse a folder without data of a pair."""
    refuse_part_of_pair(folder, split, lang_pair)
    source, target = split_pair(lang_pair)
    refuse(f"{folder} has no {split} data for {lang_pair} (nor for {target}-{source})")


def refuse_part_of_pair(folder: str, split: str, lang_pair: str) -> None:
    """Refuse a folder with only some of a pair's files, or with its unprocessed text."""
    for prefix in _prefixes(folder, split, lang_pair):
        files = _files(prefix, lang_pair)
        missing = [file for file in files if not os.path.exists(file)]
        if len(missing) < len(files):
            refuse(f"{missing[0]}: no such file, although other files of the {split} "
                   f"data of {lang_pair} exist")
        raw = [f"{prefix}.{lang}" for lang in split_pair(lang_pair)]
        if all(map(os.path.exists, raw)):
            refuse(f"{raw[0]}: {split} data of {lang_pair} as text; {BINARIZE}")


def _prefixes(folder: str, split: str, lang_pair: str) -> List[str]:
    source, target = split_pair(lang_pair)
    return [os.path.join(folder, f"{split}.{pair}")
            for pair in (f"{source}-{target}", f"{target}-{source}")]


def _files(prefix: str, lang_pair: str) -> List[str]:
    return [f"{prefix}.{lang}{suffix}" for lang in split_pair(lang_pair) for suffix in SUFFIXES]


def manager_namespace(settings: Dict[str, Any]) -> argparse.Namespace:
    """Return the namespace for fairseq's manager: its defaults, updated with settings."""
    parser = argparse.ArgumentParser()
    MultilingualDatasetManager.add_args(parser)
    SamplingMethod.add_arguments(parser)
    args = parser.parse_args([os.fspath(settings["data"])])
    args.left_pad_source, args.left_pad_target = True, False
    for name, value in settings.items():
        setattr(args, name, value)
    return args
