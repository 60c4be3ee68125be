"""Loading binarized pairs: fairseq's multilingual data manager, with task ids in its examples."""

import argparse
import os
from typing import Any, Dict, List, Optional, Tuple

from fairseq.data import Dictionary, FairseqDataset
from fairseq.data.multilingual.multilingual_data_manager import MultilingualDatasetManager
from fairseq.data.multilingual.sampling_method import SamplingMethod
from fairseq.utils import split_paths

from ..errors import refuse
from .epoch_batches import redraw_virtual_epoch
from .task_pair_dataset import TaskPairDataset
from .task_table import TaskTable


class TaskDatasetManager(MultilingualDatasetManager):
    """Makes datasets of the pairs of a task table, sampled as fairseq samples them."""

    def __init__(
        self, args: argparse.Namespace, lang_pairs: List[str], langs: List[str],
        dictionary: Dictionary, table: TaskTable,
    ):
        dicts = {lang: dictionary for lang in langs}
        super().__init__(args, lang_pairs, langs, dicts, SamplingMethod(args, None))
        self.table = table

    def load_split(self, split: str, training: bool, epoch: int, combine: bool) -> FairseqDataset:
        """Return the dataset of all pairs for a split, sampled anew each epoch where trained on."""
        for pair in self.lang_pairs:
            self.check_pair(split, pair)
        dataset = self.load_dataset(
            split, training, epoch, combine, self.estimate_global_pass_epoch(epoch)
        )
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
        """Refuse a pair that the data folder does not hold, in either order of its languages."""
        folder = split_paths(self.args.data)[0]
        if not holds_pair(folder, split, lang_pair, self.args.dataset_impl):
            source, target = lang_pair.split("-")
            refuse(f"{folder} holds no {split} data for {lang_pair} (nor for {target}-{source})")

    def load_a_dataset(self, **kwargs: Any) -> TaskPairDataset:
        """As in fairseq, with the pair's task id in every example."""
        dataset = super().load_a_dataset(**kwargs)
        return TaskPairDataset(dataset, self.table.task_id(f"{kwargs['src']}-{kwargs['tgt']}"))

    def load_lang_dataset(
        self, data_path: str, split: str, src: str, src_dict: Dictionary, tgt: str, *args: Any,
        **kwargs: Any,
    ) -> Tuple[Any, Any, Any]:
        """As in fairseq, refusing two sides of different length."""
        source, target, alignments = super().load_lang_dataset(
            data_path, split, src, src_dict, tgt, *args, **kwargs
        )
        if len(source) != len(target):
            refuse(
                f"{data_path}: {split} data of {src}-{tgt} has {len(source)} sentences in {src} "
                f"and {len(target)} in {tgt}"
            )
        return source, target, alignments


def holds_pair(
    folder: str, split: str, lang_pair: str, dataset_impl: Optional[str] = None
) -> bool:
    """Say whether a folder holds both sides of a pair, in either order of its languages."""
    return pair_prefix(folder, split, lang_pair, dataset_impl) is not None


def pair_prefix(
    folder: str, split: str, lang_pair: str, dataset_impl: Optional[str] = None
) -> Optional[str]:
    """Return the path of a pair's files up to the dot before the language, None without them."""
    source, target = lang_pair.split("-")
    for left, right in ((source, target), (target, source)):
        if all(
            MultilingualDatasetManager.split_exists(split, left, right, lang, folder, dataset_impl)
            for lang in (left, right)
        ):
            return os.path.join(folder, f"{split}.{left}-{right}")
    return None


def manager_namespace(settings: Dict[str, Any]) -> argparse.Namespace:
    """Return the namespace that fairseq's manager wants: its own defaults, and our settings."""
    parser = argparse.ArgumentParser()
    MultilingualDatasetManager.add_args(parser)
    SamplingMethod.add_arguments(parser)
    args = parser.parse_args([os.fspath(settings["data"])])
    args.left_pad_source, args.left_pad_target = True, False
    for name, value in settings.items():
        setattr(args, name, value)
    return args
