"""An extracted model in CTranslate2."""

from typing import Dict, List, Sequence

import ctranslate2

from ..errors import refuse
from .engine import Hypothesis, SearchOptions, Sentence, Tags

NEVER = [["<pad>"]]  # as in fairseq, which has no probability for it


class Ctranslate2Engine:
    """Runs a folder of `taskmoe extract --format ctranslate2` (see Engine)."""

    def __init__(
        self, folder: str, tags: Dict[str, Tags], quantization: str, device: str, threads: int
    ):
        supported = ctranslate2.get_supported_compute_types(device)
        if quantization not in supported:
            refuse(f"{folder}: its {quantization} is not supported by this machine's {device}, "
                   f"which computes with {', '.join(sorted(supported))}; extract another one")
        self.tags = tags
        self.translator = ctranslate2.Translator(
            folder, device=device, compute_type=quantization, intra_threads=threads
        )

    def translate(
        self, lang_pair: str, sources: Sequence[Sentence], options: SearchOptions
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
            suppress_sequences=NEVER,
            return_scores=True,
        )
        return [
            [
                Hypothesis(pieces[len(tags.target):], score)
                for pieces, score in zip(result.hypotheses, result.scores, strict=True)
            ]
            for result in results
        ]

    def score(
        self, lang_pair: str, sources: Sequence[Sentence], targets: Sequence[Sentence]
    ) -> List[float]:
        tags = self.tags[lang_pair]
        results = self.translator.score_batch(
            [[*tags.source, *source] for source in sources],
            [[*tags.target, *target] for target in targets],
            max_input_length=0,
        )
        return [sum(result.log_probs[len(tags.target):]) for result in results]
