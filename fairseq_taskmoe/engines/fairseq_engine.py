"""Translation with fairseq: with its own transformer, or with transformer_task_moe."""

from functools import cache
from typing import Any, Callable, Dict, List, Sequence, Tuple

import torch
from fairseq.data import Dictionary
from fairseq.data.data_utils import collate_tokens
from fairseq.models import BaseFairseqModel
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor

from ..checkpoint.contents import TrainedModel
from ..checkpoint.load_models import load_stock, load_task_moe
from ..models.folded_model import fold_model
from ..models.transformer_task_moe import TransformerTaskMoeModel
from .engine import (
    MAX_BATCH_TOKENS,
    Hypothesis,
    SearchOptions,
    Sentence,
    Tags,
    translate_in_batches,
)


class FairseqEngine:
    """Runs a model of fairseq for each direction (see Engine)."""

    def __init__(
        self, model_of: Callable[[str], BaseFairseqModel], dictionary: Dictionary,
        tags: Dict[str, Tags], device: str, max_positions: Tuple[int, int],
    ):
        self.tags = tags
        self.max_positions = max_positions
        self.model_of = model_of
        self.dictionary = dictionary
        self.device = device

    def translate(
        self, lang_pair: str, sources: Sequence[Sentence], options: SearchOptions,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
    ) -> List[List[Hypothesis]]:
        return translate_in_batches(
            sources, max_batch_tokens, lambda batch: self._translate(lang_pair, batch, options)
        )

    def _translate(
        self, lang_pair: str, sources: Sequence[Sentence], options: SearchOptions
    ) -> List[List[Hypothesis]]:
        tags, model = self.tags[lang_pair], self.model_of(lang_pair)
        generator = SequenceGenerator(
            [model], self.dictionary, beam_size=options.beam,
            max_len_b=len(tags.target) + options.max_length,
            min_len=len(tags.target) + options.min_length, len_penalty=options.length_penalty,
        )
        inputs = self._inputs(lang_pair, sources)
        prefix = None
        if tags.target:
            prefix = self._ids(tags.target).expand(len(sources), -1).to(self.device)
        with torch.inference_mode():
            found = generator.generate([model], {"net_input": inputs}, prefix_tokens=prefix)
        return [
            [self._hypothesis(h, len(tags.target), options) for h in ranked[: options.n_best]]
            for ranked in found
        ]

    def score(
        self, lang_pair: str, sources: Sequence[Sentence], targets: Sequence[Sentence]
    ) -> List[float]:
        tags, model = self.tags[lang_pair], self.model_of(lang_pair)
        sentences = [self._sentence([*tags.target, *target]) for target in targets]
        inputs = self._inputs(lang_pair, sources)
        pad, eos = self.dictionary.pad(), self.dictionary.eos()
        inputs["prev_output_tokens"] = collate_tokens(
            sentences, pad, eos, move_eos_to_beginning=True
        ).to(self.device)
        target = collate_tokens(sentences, pad, eos).to(self.device)
        with torch.inference_mode():
            log_probs = model.get_normalized_probs(model(**inputs), log_probs=True)
        scores = log_probs.gather(2, target.unsqueeze(2)).squeeze(2).masked_fill(target.eq(pad), 0)
        return scores[:, len(tags.target):].sum(dim=1).tolist()

    def _inputs(self, lang_pair: str, sources: Sequence[Sentence]) -> Dict[str, Any]:
        tokens = [self._sentence([*self.tags[lang_pair].source, *source]) for source in sources]
        inputs: Dict[str, Any] = {
            "src_tokens": collate_tokens(
                tokens, self.dictionary.pad(), self.dictionary.eos(), left_pad=True
            ).to(self.device),
            "src_lengths": torch.tensor([len(sentence) for sentence in tokens]).to(self.device),
        }
        model = self.model_of(lang_pair)
        if isinstance(model, TransformerTaskMoeModel):
            task_id = model.task_table.task_id(lang_pair)
            inputs["task_ids"] = torch.full((len(tokens),), task_id, device=self.device)
        return inputs

    def _sentence(self, pieces: Sentence) -> Tensor:
        return torch.cat([self._ids(pieces), torch.tensor([self.dictionary.eos()])])

    def _ids(self, pieces: Sentence) -> Tensor:
        return torch.tensor([self.dictionary.index(piece) for piece in pieces], dtype=torch.long)

    def _hypothesis(
        self, found: Dict[str, Tensor], num_tags: int, options: SearchOptions
    ) -> Hypothesis:
        """Return a hypothesis of fairseq without its tags, and with a score without them."""
        tokens = found["tokens"][num_tags:]
        pieces = [self.dictionary[i] for i in tokens.tolist() if i != self.dictionary.eos()]
        score = float(found["positional_scores"][num_tags:].sum())
        return Hypothesis(pieces, score / len(tokens) ** options.length_penalty)


def stock_engine(folder: str, tags: Dict[str, Tags], device: str) -> FairseqEngine:
    """Return an engine for a folder of `taskmoe extract --format fairseq`."""
    model, dictionary = load_stock(folder)
    model.to(device)
    return FairseqEngine(
        lambda lang_pair: model, dictionary, tags, device, model.max_positions()
    )


def task_moe_engine(
    trained: TrainedModel, tags: Dict[str, Tags], device: str, fold: bool = True
) -> FairseqEngine:
    """Return an engine for directions of a checkpoint of transformer_task_moe.

    With fold, the experts of a direction are folded at its first use; other weights are shared.
    Without fold, experts in half precision stay memory-mapped.
    """
    model, dictionary = load_task_moe(trained, list(tags), widen_experts=fold)
    model.to(device)

    @cache
    def model_of(lang_pair: str) -> BaseFairseqModel:
        return fold_model(model, model.task_table.task_id(lang_pair)) if fold else model

    return FairseqEngine(model_of, dictionary, tags, device, model.max_positions())
