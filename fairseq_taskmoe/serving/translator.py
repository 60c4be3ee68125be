"""Text in, text out: an engine, and the pieces of SentencePiece."""

from typing import List, NamedTuple, Optional, Sequence

import sentencepiece

from .engine import MAX_BATCH_TOKENS, Engine, SearchOptions


class Translation(NamedTuple):
    """One translation of a text."""

    text: str
    score: float  # as of a Hypothesis; 0 for the empty translation of an empty text


class TooLong(ValueError):
    """A text has more pieces than the model can read."""

    def __init__(self, index: int, num_pieces: int, limit: int):
        super().__init__(f"{num_pieces} pieces, and the model reads at most {limit}")
        self.index = index  # of the text among those given


class Translator:
    """An engine, and the SentencePiece model of its texts; without one, texts are pieces."""

    def __init__(
        self, engine: Engine, sentencepiece_model: Optional[str], max_source_pieces: int,
        max_target_pieces: int,
    ):
        self.engine = engine
        self.lang_pairs = sorted(engine.tags)
        self.max_source_pieces = max_source_pieces
        self.max_target_pieces = max_target_pieces
        self.pieces = sentencepiece_model and sentencepiece.SentencePieceProcessor(
            model_file=sentencepiece_model
        )

    def encode(self, text: str) -> List[str]:
        """Return the pieces of a text."""
        return self.pieces.encode(text, out_type=str) if self.pieces else text.split()

    def decode(self, pieces: List[str]) -> str:
        """Return the text of pieces."""
        return self.pieces.decode(pieces) if self.pieces else " ".join(pieces)

    def translate(
        self, lang_pair: str, texts: Sequence[str], options: SearchOptions,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
    ) -> List[List[Translation]]:
        """Return the n_best translations of each text, in the order of the texts.

        An empty text has the empty translation. Raises TooLong, before anything is translated.
        """
        sources = [self.encode(text) for text in texts]
        for index, source in enumerate(sources):
            if len(source) > self.max_source_pieces:
                raise TooLong(index, len(source), self.max_source_pieces)
        options = options._replace(max_length=min(options.max_length, self.max_target_pieces))
        translations = [[Translation("", 0.0)] for _ in texts]
        full = [i for i, source in enumerate(sources) if source]
        found = self.engine.translate(
            lang_pair, [sources[i] for i in full], options, max_batch_tokens
        )
        for i, hypotheses in zip(full, found, strict=True):
            translations[i] = [
                Translation(self.decode(pieces), score) for pieces, score in hypotheses
            ]
        return translations
