"""Whose text routing is measured on: references or own translations, all or what is common.

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
from ..models.folded_model import fold_model
from ..models.transformer_task_moe import TransformerTaskMoeModel
from ..tasks.translation_task_moe import TranslationTaskMoeTask

Sentence = Tuple[int, ...]  # words by their numbers, without tags and end


class TextChoice(NamedTuple):
    """Which text the decoder reads, and which sentences of a test set count."""

    split: str = "test"
    beam: int = 0  # 0: the references; otherwise what a beam search of that width translates
    multi_parallel: bool = False  # only sentences that all directions have

    @property
    def decoder_reads(self) -> str:
        """Say it in a word or two, for files."""
        return f"own translations, beam {self.beam}" if self.beam else "references"


class RoutedText:
    """The batches in which a model reads its test sets."""

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
        """Yield a direction's batches, prev_output_tokens being what the decoder is to read."""
        beam = self.choice.beam
        translator = Translator(self.model, self.task, lang_pair, beam) if beam else None
        found = batches(self.model, self.task, lang_pair, self.choice.split, self.batching)
        for batch in found:
            if self.kept:
                batch = only_sentences(batch, self.kept[lang_pair])
            if len(batch["id"]):
                yield translator.with_translations(batch) if translator else batch


class Translator:
    """Puts a model's own translations in the place of references.

    A hypothesis of a beam search is routed by its own words alone, so that reading it at once is
    routed as writing it word by word was, up to rounding. Hypotheses that the search gave up do not
    count. Where experts have a capacity it is another matter: then a batch's tokens compete for
    room, here those of all positions and in the search those of one.
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
        read = collate_tokens(
            tokens, dictionary.pad(), dictionary.eos(), move_eos_to_beginning=True
        )
        return {**batch, "net_input": {**batch["net_input"], "prev_output_tokens": read}}


def only_sentences(batch: Batch, kept: Set[int]) -> Batch:
    """Return the batch with those of its sentences whose place in the file is in kept."""
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
    """Return for each direction the places of the sentences that all directions have.

    Sentences are the same where they are word for word in the language that all directions share,
    source or reference; one that a direction has several times counts once, at its first place.
    """
    hub = shared_language(lang_pairs)
    places: Dict[str, Dict[Sentence, int]] = {}
    common: Optional[Set[Sentence]] = None
    for pair in lang_pairs:
        places[pair] = first_places(task, split, pair, hub)
        common = set(places[pair]) if common is None else common & set(places[pair])
        if not common:
            refuse(
                f"--multi-parallel: no {hub} sentence of {', '.join(list(places)[:-1]) or pair} is "
                f"in the {split} set of {pair}"
            )
    assert common is not None
    return {pair: {places[pair][sentence] for sentence in common} for pair in lang_pairs}


def shared_language(lang_pairs: Sequence[str]) -> str:
    """Return the language that all directions have, English if there are two."""
    shared: Set[str] = set.intersection(*(set(pair.split("-")) for pair in lang_pairs))
    if not shared:
        refuse(f"--multi-parallel: {', '.join(lang_pairs)} have no language in common")
    return "en" if "en" in shared else min(shared)


def first_places(
    task: TranslationTaskMoeTask, split: str, lang_pair: str, lang: str
) -> Dict[Sentence, int]:
    """Return where each sentence of a language comes first in a direction's test set."""
    dataset = task.data_manager.load_pair(split, lang_pair)
    side: Any = dataset.src if lang_pair.split("-")[0] == lang else dataset.tgt
    left_out = list(TextOf(task.dictionary, task.tags).left_out)
    places: Dict[Sentence, int] = {}
    for place in range(len(dataset)):
        words = side[place].numpy()
        places.setdefault(tuple(words[~np.isin(words, left_out)].tolist()), place)
    return places
