"""Translation with CTranslate2."""

import logging
import sys
from typing import Dict, List, NamedTuple, Sequence

from ..errors import refuse
from ..host import keep_freed_memory
from .ctranslate2_cpu import LOADED_BEFORE, ORIGINAL_ENVIRONMENT, ctranslate2, is_inexact
from .ctranslate2_file import PAD, check_vocabulary, num_positions, read_shapes
from .engine import MAX_BATCH_TOKENS, Hypothesis, SearchOptions, Sentence, Tags

logger = logging.getLogger(__name__)

SUPPRESSED = [[PAD]]  # fairseq gives padding no probability either
# of a batch on one core: with more, the probabilities of the vocabulary do not fit into the cache
MAX_CORE_TOKENS = 500


class Threads(NamedTuple):
    """How batches are divided among the threads of a CPU."""

    parallel_batches: int
    per_batch: int

    @classmethod
    def divide(cls, threads: int, for_throughput: bool) -> "Threads":
        """Return how to use a number of threads.

        With one thread for each batch, throughput is 10 to 25 % higher than with all threads for
        one batch; but a single sentence is translated by one thread.
        """
        return cls(threads, 1) if for_throughput else cls(1, threads)


class Ctranslate2Engine:
    """Runs a folder of `taskmoe extract --format ctranslate2` (see Engine)."""

    def __init__(
        self, folder: str, tags: Dict[str, Tags], quantization: str, device: str, threads: Threads
    ):
        supported = ctranslate2.get_supported_compute_types(device)
        if quantization not in supported:
            refuse(f"{folder}: {quantization} is not supported by this machine's {device}, which "
                   f"supports {', '.join(sorted(supported))}; extract one of these")
        if device == "cpu":
            keep_freed_memory()
            if is_inexact(quantization, LOADED_BEFORE, ORIGINAL_ENVIRONMENT):
                logger.warning(
                    "%s: 8-bit products overflow on this CPU, so that translations are worse: set "
                    "CT2_USE_MKL=1, or open a model before importing ctranslate2", folder
                )
        shapes = read_shapes(folder)
        check_vocabulary(folder, shapes)
        self.max_positions = num_positions(shapes)
        self.tags = tags
        self.max_batch_tokens = MAX_CORE_TOKENS if threads.parallel_batches > 1 else sys.maxsize
        self.translator = ctranslate2.Translator(
            folder, device=device, compute_type=quantization,
            inter_threads=threads.parallel_batches, intra_threads=threads.per_batch,
        )

    def translate(
        self, lang_pair: str, sources: Sequence[Sentence], options: SearchOptions,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
    ) -> List[List[Hypothesis]]:
        tags = self.tags[lang_pair]
        prefixes = [tags.target for _ in sources] if tags.target else None
        results = self.translator.translate_batch(
            [[*tags.source, *source] for source in sources],
            prefixes,
            beam_size=options.beam,
            num_hypotheses=options.n_best,
            length_penalty=options.length_penalty,
            min_decoding_length=len(tags.target) + options.min_length,
            max_decoding_length=len(tags.target) + options.max_length,
            max_input_length=0,
            max_batch_size=min(max_batch_tokens, self.max_batch_tokens),
            batch_type="tokens",
            suppress_sequences=SUPPRESSED,
            return_scores=True,
        )
        found = [
            [
                Hypothesis(pieces[len(tags.target):], score)
                for pieces, score in zip(result.hypotheses, result.scores, strict=True)
            ]
            for result in results
        ]
        return self._score_ends(lang_pair, sources, found, options)

    def _score_ends(
        self, lang_pair: str, sources: Sequence[Sentence], found: List[List[Hypothesis]],
        options: SearchOptions,
    ) -> List[List[Hypothesis]]:
        """Include the end of sentence in the scores of hypotheses that max_length has cut off.

        CTranslate2 does not.
        """
        cut = [
            (i, j) for i, hypotheses in enumerate(found)
            for j, each in enumerate(hypotheses) if len(each.pieces) == options.max_length
        ]
        if not cut:
            return found
        scores = self.score(
            lang_pair, [sources[i] for i, _ in cut], [found[i][j].pieces for i, j in cut]
        )
        for (i, j), score in zip(cut, scores, strict=True):
            length = options.max_length + 1
            found[i][j] = found[i][j]._replace(score=score / length**options.length_penalty)
        return [sorted(hypotheses, key=lambda each: -each.score) for hypotheses in found]

    def score(
        self, lang_pair: str, sources: Sequence[Sentence], targets: Sequence[Sentence]
    ) -> List[float]:
        tags = self.tags[lang_pair]
        results = self.translator.score_batch(
            [[*tags.source, *source] for source in sources],
            [[*tags.target, *target] for target in targets],
            max_input_length=0,
            max_batch_size=min(MAX_BATCH_TOKENS, self.max_batch_tokens),
            batch_type="tokens",
        )
        return [sum(result.log_probs[len(tags.target):]) for result in results]
