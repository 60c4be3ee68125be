"""Are the translations of a small model as good as the full one's?"""

from typing import Dict, List, Optional, Sequence

from fairseq.data.data_utils import post_process

from ..evaluation.scoring import DirectionScore, score_direction
from ..serving.engine import Engine
from .subnet_runs import Run
from .subnet_work import Sentences, Work

TIE = 1e-4  # log-probability of a piece: what float32 makes of another order of the same sums
Texts = Dict[int, str]  # pieces, by number of the sentence


def best_texts(run: Run, sentences: Sentences, work: Work, engine: Optional[Engine]) -> Texts:
    """Return the best hypothesis of each sentence.

    Where its search was cut off at a fixed length, before the end of the sentence, engine (the
    model that searched) says which is the best with its end, as fairseq-generate says it.
    """
    if engine is None:
        return {i: ranked[0] for i, ranked in run.hypotheses.items()}
    best = {}
    for i, ranked in run.hypotheses.items():
        targets = [text.split() for text in ranked]
        # a sentence at a time: together their probabilities of all words would be gigabytes
        scores = engine.score(work.lang_pair, [sentences.pieces[i]] * len(targets), targets)
        best[i] = ranked[scores.index(max(scores))]
    return best


def share_identical(own: Texts, full: Texts, sentences: Sentences) -> float:
    """Return the share of translations that are those of the full model."""
    total = len(sentences.pieces)
    return (total - len(differing(own, full, sentences))) / total


def share_tied(
    own: Texts, full: Texts, sentences: Sentences, work: Work, judge: Engine
) -> float:
    """Return the share of translations that are others, and to judge as probable a piece."""
    tied = 0
    for i in differing(own, full, sentences):
        targets = [own.get(i, "").split(), full.get(i, "").split()]
        scores = judge.score(work.lang_pair, [sentences.pieces[i]] * 2, targets)
        one, other = (
            score / (len(target) + 1) for score, target in zip(scores, targets, strict=True)
        )
        tied += abs(one - other) <= TIE
    return tied / len(sentences.pieces)


def differing(own: Texts, full: Texts, sentences: Sentences) -> List[int]:
    """Return the sentences whose translations differ otherwise than by tags."""
    return [
        i for i in range(len(sentences.pieces))
        if _without_tags(own.get(i, ""), sentences) != _without_tags(full.get(i, ""), sentences)
    ]


def score_texts(
    texts: Texts, references: Sequence[str], sentences: Sentences, work: Work
) -> DirectionScore:
    """Return BLEU and chrF of detokenized translations."""
    form = "sentencepiece" if sentences.has_marks else None
    lines = [
        post_process(_without_tags(texts.get(i, ""), sentences), form)
        for i in range(len(references))
    ]
    return score_direction(work.lang_pair, lines, references)


def _without_tags(text: str, sentences: Sentences) -> str:
    """Return pieces without language tags, which random weights put into their text."""
    return " ".join(piece for piece in text.split() if piece not in sentences.all_tags)
