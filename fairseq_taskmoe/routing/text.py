"""The text that routing is measured on: references or translations, all sentences or common ones.

B sentences of a batch, S source and T target positions, P language pairs.
"""

from typing import Any, Dict, Iterator, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np
import torch
from fairseq.data.data_utils import collate_tokens
from fairseq.dataclass.configs import GenerationConfig
from torch import Tensor

from ..data.detokenize import TextOf
from ..errors import refuse
from ..evaluation.translate import Batch, Batching, batches
from ..metrics.lang_pairs import split_pair
from ..models.folded_model import fold_model
from ..models.transformer_task_moe import TransformerTaskMoeModel
from ..tasks.translation_task_moe import TranslationTaskMoeTask

Sentence = Tuple[int, ...]  # token ids, without tags and end of sentence


class TextChoice(NamedTuple):
    """The text that the decoder reads, and the sentences of a test set that are used."""

    split: str = "test"
    beam: int = 0  # 0: the references; otherwise the translations of a beam search of that width
    multi_parallel: bool = False  # only sentences that all directions have

    @property
    def decoder_reads(self) -> str:
        """Return a short description for routing.npz and figures."""
        return f"own translations, beam {self.beam}" if self.beam else "references"


class RoutedText:
    """The batches of a model's test sets."""

    def __init__(
        self, model: TransformerTaskMoeModel, task: TranslationTaskMoeTask, choice: TextChoice,
        batching: Batching,
    ):
        self.model = model
        self.task = task
        self.choice = choice
        self.batching = batching
        self.kept: Dict[str, Set[int]] = {}
        if choice.multi_parallel:
            self.kept = common_sentences(task, choice.split, task.served)

    def batches(self, lang_pair: str) -> Iterator[Batch]:
        """Yield a direction's batches; prev_output_tokens is the text that the decoder reads."""
        beam = self.choice.beam
        translator = Translator(self.model, self.task, lang_pair, beam) if beam else None
        for batch in batches(
            self.model, self.task, lang_pair, self.choice.split, self.batching
        ):
            if self.kept:
                batch = only_sentences(batch, self.kept[lang_pair])
            if len(batch["id"]):
                yield translator.with_translations(batch) if translator else batch


class Translator:
    """Replaces references by a model's own translations.

    Without a capacity, routing a finished hypothesis at once is the same, up to rounding, as
    routing it token by token during the search; hypotheses that the search discarded are not
    counted. With a capacity it differs: the tokens of a batch compete for the experts, here those
    of all positions, in the search those of one position.
    """

    def __init__(
        self, model: TransformerTaskMoeModel, task: TranslationTaskMoeTask, lang_pair: str,
        beam: int,
    ):
        self.task = task
        self.model = fold_model(model, task.task_table.task_id(lang_pair))
        self.generator = task.build_generator([self.model], GenerationConfig(beam=beam))

    def with_translations(self, batch: Batch) -> Batch:
        """Return the batch with prev_output_tokens (B, T) of the best hypotheses."""
        found = self.task.inference_step(self.generator, [self.model], batch)
        dictionary = self.task.dictionary
        tokens = [ranked[0]["tokens"].to(batch["id"].device) for ranked in found]
        inputs = collate_tokens(
            tokens, dictionary.pad(), dictionary.eos(), move_eos_to_beginning=True
        )
        return {**batch, "net_input": {**batch["net_input"], "prev_output_tokens": inputs}}


def only_sentences(batch: Batch, kept: Set[int]) -> Batch:
    """Return the batch with only those sentences whose index in the file is in kept."""
    rows = torch.tensor([index in kept for index in batch["id"].tolist()], dtype=torch.bool)
    rows = rows.to(batch["id"].device)
    net_input = {
        name: value[rows] if isinstance(value, Tensor) else value
        for name, value in batch["net_input"].items()
    }
    return {**batch, "id": batch["id"][rows], "net_input": net_input}


def common_sentences(
    task: TranslationTaskMoeTask, split: str, lang_pairs: Sequence[str]
) -> Dict[str, Set[int]]:
    """Return for each direction the indices of the sentences that all directions have.

    Sentences are compared in the language that all directions have, as source or reference, and
    must be equal word by word. A sentence that occurs several times in a direction is used once,
    where it occurs first.
    """
    lang = shared_language(lang_pairs)
    indices: Dict[str, Dict[Sentence, int]] = {}
    common: Optional[Set[Sentence]] = None
    for pair in lang_pairs:
        indices[pair] = first_indices(task, split, pair, lang)
        common = set(indices[pair]) if common is None else common & set(indices[pair])
        if not common:
            refuse(
                f"--multi-parallel: no {lang} sentence of {', '.join(list(indices)[:-1]) or pair} "
                f"is in the {split} set of {pair}"
            )
    assert common is not None
    return {pair: {indices[pair][sentence] for sentence in common} for pair in lang_pairs}


def shared_language(lang_pairs: Sequence[str]) -> str:
    """Return the language that all directions have, English if there are two."""
    shared: Set[str] = set.intersection(*(set(split_pair(pair)) for pair in lang_pairs))
    if not shared:
        refuse(f"--multi-parallel: {', '.join(lang_pairs)} have no language in common")
    return "en" if "en" in shared else min(shared)


def first_indices(
    task: TranslationTaskMoeTask, split: str, lang_pair: str, lang: str
) -> Dict[Sentence, int]:
    """Return the index at which each sentence of a language occurs first in a direction's set."""
    dataset = task.data_manager.load_pair(split, lang_pair)
    side: Any = dataset.src if split_pair(lang_pair)[0] == lang else dataset.tgt
    left_out = list(TextOf(task.dictionary, task.tags).left_out)
    indices: Dict[Sentence, int] = {}
    for index in range(len(dataset)):
        words = side[index].numpy()
        indices.setdefault(tuple(words[~np.isin(words, left_out)].tolist()), index)
    return indices
