"""The interface of all engines: they translate pieces of one direction at a time."""

from typing import Callable, Dict, Iterator, List, NamedTuple, Protocol, Sequence, Tuple

MAX_BATCH_TOKENS = 4000
Sentence = Sequence[str]  # pieces, without tags and end of sentence


class SearchOptions(NamedTuple):
    """Options of beam search."""

    beam: int = 4
    n_best: int = 1  # hypotheses to return, at most beam
    length_penalty: float = 1.0  # as --lenpen of fairseq-generate
    min_length: int = 1  # pieces, without tags and end of sentence
    max_length: int = 200


class Hypothesis(NamedTuple):
    """A translation of a sentence.

    The score is the log-probability of its pieces and its end, divided by their number **
    length_penalty. If a piece cannot be chosen (padding; the end, before min_length), CTranslate2
    normalises the probabilities without it, and fairseq does not; Engine.score is equal for both.
    """

    pieces: List[str]
    score: float


class Tags(NamedTuple):
    """The language tags of a direction."""

    source: List[str]  # before the source
    target: List[str]  # before the target; forced, and not part of hypotheses and scores


class Engine(Protocol):
    """A loaded model."""

    tags: Dict[str, Tags]  # by direction
    max_positions: Tuple[int, int]  # of sources and targets, with tags and end of sentence

    def translate(
        self, lang_pair: str, sources: Sequence[Sentence], options: SearchOptions,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
    ) -> List[List[Hypothesis]]:
        """Return the n_best hypotheses of each source, the best first.

        A batch has at most max_batch_tokens source tokens with padding, or one sentence.
        """

    def score(
        self, lang_pair: str, sources: Sequence[Sentence], targets: Sequence[Sentence]
    ) -> List[float]:
        """Return the log-probability of each target and its end, given its source."""


def translate_in_batches(
    sources: Sequence[Sentence], max_batch_tokens: int,
    translate: Callable[[List[Sentence]], List[List[Hypothesis]]],
) -> List[List[Hypothesis]]:
    """Return the hypotheses of each source; translate gets sources of similar length."""
    hypotheses: List[List[Hypothesis]] = [[] for _ in sources]
    for batch in _batches_by_length(sources, max_batch_tokens):
        found = translate([sources[i] for i in batch])
        for i, ranked in zip(batch, found, strict=True):
            hypotheses[i] = ranked
    return hypotheses


def _batches_by_length(
    sources: Sequence[Sentence], max_batch_tokens: int
) -> Iterator[List[int]]:
    """Yield batches of sources of similar length, as indices (see Engine.translate)."""
    batch: List[int] = []
    for i in sorted(range(len(sources)), key=lambda i: len(sources[i])):
        if batch and len(sources[i]) * (len(batch) + 1) > max_batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
