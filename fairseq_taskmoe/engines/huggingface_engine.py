"""Translation with Hugging Face's transformers."""

import math
from typing import Any, Dict, List, Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GenerationConfig

from .engine import (
    MAX_BATCH_TOKENS,
    Hypothesis,
    SearchOptions,
    Sentence,
    Tags,
    translate_in_batches,
)
from .huggingface_files import load_huggingface


class HuggingFaceEngine:
    """Runs a folder of `taskmoe extract --format huggingface` (see Engine)."""

    def __init__(self, folder: str, tags: Dict[str, Tags], device: str):
        self.tags = tags
        self.tokenizer: Any = Tokenizer.from_file(f"{folder}/tokenizer.json")
        self.model = load_huggingface(folder).to(device)
        # that of FSMT's class ends translations of the maximum length one piece early
        self.model.generation_config = GenerationConfig()
        config = self.model.config
        self.max_positions = (config.max_position_embeddings, config.max_position_embeddings)
        self.special = {
            "pad_token_id": config.pad_token_id, "eos_token_id": config.eos_token_id,
            "decoder_start_token_id": config.decoder_start_token_id,
        }
        self.unknown = int(self.tokenizer.token_to_id("<unk>") or 3)  # as in fairseq

    def translate(
        self, lang_pair: str, sources: Sequence[Sentence], options: SearchOptions,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
    ) -> List[List[Hypothesis]]:
        return translate_in_batches(
            sources, max_batch_tokens, lambda batch: self._ranked(lang_pair, batch, options)
        )

    def _ranked(
        self, lang_pair: str, sources: Sequence[Sentence], options: SearchOptions
    ) -> List[List[Hypothesis]]:
        found = self._translate(lang_pair, sources, options)
        repeated = [source for source in sources for _ in range(options.n_best)]
        scores = self.score(lang_pair, repeated, found)
        scored = [
            Hypothesis(pieces, score / (len(pieces) + 1) ** options.length_penalty)
            for pieces, score in zip(found, scores, strict=True)
        ]
        return [
            sorted(scored[first : first + options.n_best], key=lambda each: -each.score)
            for first in range(0, len(scored), options.n_best)
        ]

    def _translate(
        self, lang_pair: str, sources: Sequence[Sentence], options: SearchOptions
    ) -> List[List[str]]:
        """Return n_best translations of each source, one source's after the other's."""
        start = [self.special["decoder_start_token_id"], *self._ids(self.tags[lang_pair].target)]
        search = GenerationConfig(
            num_beams=options.beam, num_return_sequences=options.n_best, do_sample=False,
            early_stopping=True, length_penalty=options.length_penalty,
            min_new_tokens=options.min_length, max_new_tokens=options.max_length,
            suppress_tokens=[self.special["pad_token_id"]], **self.special,
        )
        with torch.inference_mode():
            found = self.model.generate(
                **self._inputs(lang_pair, sources), generation_config=search,
                decoder_input_ids=torch.tensor([start] * len(sources), device=self.model.device),
            )
        ends = (self.special["eos_token_id"], self.special["pad_token_id"])
        return [
            [self.tokenizer.id_to_token(i) for i in row if i not in ends]
            for row in found[:, len(start):].tolist()
        ]

    def score(
        self, lang_pair: str, sources: Sequence[Sentence], targets: Sequence[Sentence]
    ) -> List[float]:
        start, end = self.special["decoder_start_token_id"], self.special["eos_token_id"]
        tags = self._ids(self.tags[lang_pair].target)
        rows = [[*tags, *self._ids(target), end] for target in targets]
        previous = self._padded([[start, *row[:-1]] for row in rows])
        with torch.inference_mode():
            logits = self.model(
                **self._inputs(lang_pair, sources), decoder_input_ids=previous,
                use_cache=False,  # with it FSMT has no causal mask
            ).logits
        log_probs = logits.float().log_softmax(dim=2)
        wanted = self._padded(rows)
        scores = log_probs.gather(2, wanted.unsqueeze(2)).squeeze(2)
        padding = wanted.eq(self.special["pad_token_id"])
        totals = scores.masked_fill(padding, 0)[:, len(tags):].sum(dim=1).tolist()
        return [total if math.isfinite(total) else math.nan for total in totals]

    def _inputs(self, lang_pair: str, sources: Sequence[Sentence]) -> Dict[str, Tensor]:
        end = self.special["eos_token_id"]
        tags = self.tags[lang_pair].source
        tokens = self._padded([[*self._ids([*tags, *source]), end] for source in sources])
        return {
            "input_ids": tokens,
            "attention_mask": tokens.ne(self.special["pad_token_id"]).long(),
        }

    def _ids(self, pieces: Sentence) -> List[int]:
        found = map(self.tokenizer.token_to_id, pieces)
        return [self.unknown if number is None else number for number in found]

    def _padded(self, rows: List[List[int]]) -> Tensor:
        longest = max(map(len, rows))
        pad = self.special["pad_token_id"]
        padded = [[*row, *[pad] * (longest - len(row))] for row in rows]
        return torch.tensor(padded, device=self.model.device)
