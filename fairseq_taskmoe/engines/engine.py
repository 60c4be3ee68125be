"""What all engines have in common: pieces in, ranked pieces out, for one direction at a time."""

from typing import Dict, List, NamedTuple, Protocol, Sequence, Tuple

MAX_BATCH_TOKENS = 4000
Sentence = Sequence[str]  # pieces, without tags and without the end of the sentence


class SearchOptions(NamedTuple):
    """How a translation is searched for."""

    beam: int = 4
    n_best: int = 1  # hypotheses that are given back, at most beam
    length_penalty: float = 1.0  # as --lenpen of fairseq-generate
    min_length: int = 1  # pieces, without tags and without the end of the sentence
    max_length: int = 200


class Hypothesis(NamedTuple):
    """A translation of a sentence.

    Its score is the log-probability of its pieces and its end, over their number ** length_penalty.
    Where a piece cannot be chosen (padding; the end, before min_length) CTranslate2 shares its
    probability out among the others, and fairseq does not: Engine.score gives equal numbers.
    """

    pieces: List[str]
    score: float


class Tags(NamedTuple):
    """The language tags of a direction."""

    source: List[str]  # in front of the source
    target: List[str]  # in front of the target; forced, and no part of hypotheses and scores


class Engine(Protocol):
    """A loaded model."""

    tags: Dict[str, Tags]  # of each direction that the model translates
    max_positions: Tuple[int, int]  # of sources and targets, tags and end of the sentence counted

    def translate(
        self, lang_pair: str, sources: Sequence[Sentence], options: SearchOptions,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
    ) -> List[List[Hypothesis]]:
        """Return the n_best hypotheses of each source, the best first.

        A batch has at most max_batch_tokens of sources, padding counted, or one sentence.
        """

    def score(
        self, lang_pair: str, sources: Sequence[Sentence], targets: Sequence[Sentence]
    ) -> List[float]:
        """Return the log-probability of each target, its end counted, given its source."""
