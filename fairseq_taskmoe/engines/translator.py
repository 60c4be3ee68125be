"""Translation of text: SentencePiece and an engine."""

import sys
from typing import List, NamedTuple, Optional, Sequence

from ..piece_model import load_pieces
from .engine import MAX_BATCH_TOKENS, Engine, SearchOptions

# characters that SentencePiece's normalisation may combine into one: a letter and its accents
MAX_COMBINED_CHARACTERS = 4


class Translation(NamedTuple):
    """One translation of a text."""

    text: str
    score: float  # as of a Hypothesis; 0 for the empty translation of an empty text


class TooLong(ValueError):
    """A text has more pieces than the model supports."""

    def __init__(self, size: str, limit: int):
        super().__init__(f"{size}, and the model reads at most {limit} pieces")
        self.index = 0  # of the text, if there are several


class Translator:
    """An engine and a SentencePiece model; without the latter, texts consist of pieces."""

    def __init__(
        self, engine: Engine, sentencepiece_model: Optional[str], max_source_pieces: int,
        max_target_pieces: int,
    ):
        self.engine = engine
        self.lang_pairs = sorted(engine.tags)
        self.max_source_pieces = max_source_pieces
        self.max_target_pieces = max_target_pieces
        self.pieces = load_pieces(sentencepiece_model) if sentencepiece_model else None
        self.max_characters = sys.maxsize
        if self.pieces:
            numbers = range(self.pieces.get_piece_size())
            longest = max(len(self.pieces.id_to_piece(number)) for number in numbers)
            self.max_characters = max_source_pieces * longest * MAX_COMBINED_CHARACTERS

    def encode(self, text: str) -> List[str]:
        """Return the pieces of a text. Raises TooLong; very long texts are not encoded for it."""
        if len(text) > self.max_characters:
            text = " ".join(text.split())  # SentencePiece joins white space too
        if len(text) > self.max_characters:
            raise TooLong(f"{len(text)} characters", self.max_source_pieces)
        pieces = self.pieces.encode(text, out_type=str) if self.pieces else text.split()
        if len(pieces) > self.max_source_pieces:
            raise TooLong(f"{len(pieces)} pieces", self.max_source_pieces)
        return pieces

    def encode_all(self, texts: Sequence[str]) -> List[List[str]]:
        """Return the pieces of each text. Raises TooLong with the index of the text."""
        sources = []
        for index, text in enumerate(texts):
            try:
                sources.append(self.encode(text))
            except TooLong as problem:
                problem.index = index
                raise
        return sources

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
        return self.translate_pieces(lang_pair, self.encode_all(texts), options, max_batch_tokens)

    def translate_pieces(
        self, lang_pair: str, sources: Sequence[List[str]], options: SearchOptions,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
    ) -> List[List[Translation]]:
        """As translate, for the pieces of texts."""
        options = options._replace(max_length=min(options.max_length, self.max_target_pieces))
        translations = [[Translation("", 0.0)] for _ in sources]
        nonempty = [i for i, source in enumerate(sources) if source]
        found = self.engine.translate(
            lang_pair, [sources[i] for i in nonempty], options, max_batch_tokens
        )
        for i, hypotheses in zip(nonempty, found, strict=True):
            translations[i] = [
                Translation(self.decode(pieces), score) for pieces, score in hypotheses
            ]
        return translations
