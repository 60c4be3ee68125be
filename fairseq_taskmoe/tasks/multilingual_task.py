"""The data of the task: languages, tags, task ids, and datasets with task ids."""

import atexit
import os
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import torch
from fairseq.data import Dictionary, LanguagePairDataset, ListDataset, PrependTokenDataset
from fairseq.tasks import FairseqTask
from fairseq.utils import split_paths
from omegaconf import OmegaConf
from torch import Tensor

from ..checkpoint.contents import SHARD, task_state
from ..data.dataset_manager import TaskDatasetManager, manager_namespace
from ..data.indexed_sentences import refuse_unread_format
from ..data.languages import (
    LanguageTags,
    check_folders,
    check_words,
    languages_from_config,
    load_joined_dictionary,
    pairs_with_data,
    real_words,
)
from ..data.named_pairs import check_language, named_pairs
from ..data.task_pair_dataset import TaskPairDataset
from ..data.task_table import TaskTable
from ..errors import refuse
from ..files import remove_unless_translated
from ..metrics.lang_pairs import languages_of, split_pair
from ..modules.bf16_products import set_matmul_precision
from .config import TranslationTaskMoeConfig
from .inference import check_overrides
from .raw_text import find_run_pieces, warn_of_unknown


class MultilingualTask(FairseqTask):
    """Several language pairs, one joined dictionary, and a task table stored in checkpoints.

    In training the table follows from --lang-pairs. At inference languages, tags, ids and groups
    come from the checkpoint (`task_state`), and contradicting flags are refused.
    """

    def __init__(
        self, cfg: TranslationTaskMoeConfig, dictionary: Dictionary, served: Sequence[str] = ()
    ):
        """Create a task to train the pairs of cfg, or to translate the pairs `served`."""
        super().__init__(cfg)
        self.dictionary = dictionary
        self.words: List[str] = list(dictionary.symbols)  # without language tags
        self.served = list(served)
        self.num_read = 0  # number of lines that fairseq-interactive has read
        if not served:
            self._adopt(*languages_from_config(cfg))

    @classmethod
    def setup_task(cls, cfg: TranslationTaskMoeConfig, **kwargs: Any) -> "MultilingualTask":
        """Load the joined dictionary of the data folder."""
        if not cfg.data:
            refuse("give the folder of the binarized data")
        refuse_unread_format(cfg.dataset_impl)
        check_overrides(cfg)
        set_matmul_precision(str(cfg.float32_matmul_precision))
        if bool(cfg.source_lang) != bool(cfg.target_lang):
            refuse("give both -s/--source-lang and -t/--target-lang (in Python source_lang and "
                   "target_lang)")
        if cfg.source_lang and cfg.results_path:
            output = Path(cfg.results_path) / f"generate-{cfg.gen_subset}.txt"
            atexit.register(remove_unless_translated, output)
        if cfg.num_shards > 1:
            refuse(f"--num-shards {cfg.num_shards}: fairseq ignores it and would translate the "
                   "whole set; `taskmoe evaluate` under torchrun divides it among processes")
        check_folders(cfg.data)
        for flag, lang in (("-s", cfg.source_lang), ("-t", cfg.target_lang)):
            if lang:
                check_language(lang, flag)
        served = [f"{cfg.source_lang}-{cfg.target_lang}"] if cfg.source_lang else []
        pairs = served or pairs_with_data(cfg)
        langs = languages_of(pairs)
        return cls(cfg, load_joined_dictionary(split_paths(cfg.data)[0], langs), served)

    def _adopt(self, table: TaskTable, tags: LanguageTags) -> None:
        """Set the task table and tags, which come from flags or from a checkpoint."""
        self.task_table = table
        self.tags = tags
        tags.add_to(self.dictionary)
        pairs = self.served or pairs_with_data(self.cfg)
        settings = {
            "data": self.cfg.data,
            "lang_pairs": pairs,
            "lang_tok_style": tags.style,
            "langtoks": {"main": (tags.encoder_langtok, "tgt" if tags.decoder_langtok else None)},
        }
        for name in (
            "dataset_impl", "max_source_positions", "max_target_positions", "sampling_method",
            "sampling_temperature", "sampling_temperature_schedule", "seed", "train_subset",
            "truncate_source", "virtual_data_size", "virtual_epoch_size",
        ):
            settings[name] = getattr(self.cfg, name)
        self.data_manager = TaskDatasetManager(
            manager_namespace(settings), pairs, list(tags.langs), self.dictionary, table
        )

    def cut_sources_to(self, limit: int) -> None:
        """Set the maximum length for --truncate-source, with the source tag.

        fairseq truncates a source before prepending its tag.
        """
        num_tags = int(self.tags.encoder_langtok is not None)
        self.data_manager.args.max_source_positions = limit - num_tags

    def truncated(self, tokens: Tensor) -> Tensor:
        """Return a source (S,) truncated as --truncate-source does with binarized data."""
        limit = self.data_manager.args.max_source_positions
        return tokens if len(tokens) <= limit else torch.cat([tokens[: limit - 1], tokens[-1:]])

    # -- state in checkpoints

    def state_dict(self) -> Dict[str, Any]:
        """Return the languages, ids and tags that inference needs."""
        counts = self.dictionary.count[: len(self.words)]
        return task_state(self.task_table, self.tags, self.words, counts)

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """Set languages, ids and tags, refusing contradicting flags and dictionaries."""
        if "task_table" not in state_dict:
            refuse("the checkpoint has no task table: it was not trained by translation_task_moe")
        if SHARD in state_dict:
            refuse(
                f"the checkpoint is one of {state_dict[SHARD]['world_size']} shards, each "
                "with some of the experts: make one file of them with `taskmoe consolidate`"
            )
        table = TaskTable.from_state(state_dict["task_table"])
        tags = LanguageTags.from_state(state_dict["tags"])
        if hasattr(self, "tags"):
            if (table.trained, tags) != (self.task_table.trained, self.tags):
                refuse("the checkpoint was trained on other language pairs or tags than these")
        check_words(self.words, state_dict["words"])
        if not self.served:
            self.task_table = table
            return
        tags.check_flags(self.cfg)
        for pair in named_pairs(self.cfg.lang_pairs):
            if pair not in table.trained and pair not in self.served:
                refuse(f"--lang-pairs {pair} contradicts the checkpoint, which never trained it")
        for pair in self.served:
            only = state_dict.get("served_only", [pair])
            if pair not in only:
                refuse(f"the checkpoint is a sub-network for {', '.join(only)}, not for {pair}")
            for lang in split_pair(pair):
                if lang not in tags.langs:
                    refuse(f"unknown language {lang}: the checkpoint has {', '.join(tags.langs)}")
        self._adopt(table.with_pairs(self.served), tags)

    # -- data

    def has_sharded_data(self, split: str) -> bool:
        return self.data_manager.has_sharded_data(split)

    def load_dataset(
        self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any
    ) -> None:
        """Load the sampled training set or another set of all trained pairs, or the served pair."""
        if split in self.datasets:
            loaded = self.datasets.pop(split)
            if self.cfg.virtual_epoch_size is not None and not loaded.load_next_shard:
                self.datasets[split] = loaded
                return
        if self.served:
            self.datasets[split] = self.data_manager.load_pair(split, self.served[0])
        else:
            self.datasets[split] = self.data_manager.load_split(split, True, epoch, combine)

    def build_dataset_for_inference(
        self, src_tokens: List[Tensor], src_lengths: List[int], **kwargs: Any
    ) -> TaskPairDataset:
        """Return a dataset of the served pair for given sentences."""
        if not self.served:
            refuse("give the direction to translate: -s en -t de; in Python, "
                   'from_pretrained(..., source_lang="en", target_lang="de")')
        # only fairseq-interactive gives constraints, and calls this for each buffer of its input
        first = self.num_read if "constraints" in kwargs else 0
        self.num_read = first + len(src_tokens)
        warn_of_unknown(src_tokens, self.dictionary.unk(), first)
        source, target = split_pair(self.served[0])
        tag = self.data_manager.get_encoder_langtok(source, target, self.tags.encoder_langtok)
        if self.cfg.truncate_source:
            src_tokens = [self.truncated(tokens) for tokens in src_tokens]
            src_lengths = [len(tokens) for tokens in src_tokens]
        sentences = ListDataset(src_tokens, src_lengths)
        if tag is not None:
            sentences = PrependTokenDataset(sentences, tag)
        pairs = LanguagePairDataset(sentences, sentences.sizes, self.dictionary)
        return TaskPairDataset(pairs, self.task_table.task_id(self.served[0]), first)

    def build_bpe(self, args: Any) -> Any:
        """As in fairseq; without --bpe, fairseq-interactive uses the run's SentencePiece model."""
        bpe = super().build_bpe(args)
        if bpe is None and self.served and not self.datasets:  # fairseq-generate has loaded a set
            root: Any = self.cfg._get_root() if OmegaConf.is_config(self.cfg) else {}
            path = (root.get("common_eval") or {}).get("path") or ""
            bpe = find_run_pieces(path.split(os.pathsep)[0], self.cfg.data, real_words(self.words))
        return bpe

    def max_positions(self) -> Tuple[int, int]:
        """Return the maximum numbers of source and target tokens."""
        return self.cfg.max_source_positions, self.cfg.max_target_positions

    @property
    def source_dictionary(self) -> Dictionary:
        """The joined dictionary, with language tags once they are set."""
        return self.dictionary

    @property
    def target_dictionary(self) -> Dictionary:
        """The same joined dictionary."""
        return self.dictionary
