"""Sentences of random words with the scores that the full model gives their translations.

They go into the manifest of an extracted model, which has to give the same scores.
"""

import math
import random
from typing import Dict, List, Optional, Sequence, Set

from ..checkpoint.contents import TrainedModel
from ..checkpoint.reading import Unreadable
from ..data.languages import LanguageTags, real_words
from ..engines.engine import Engine, SearchOptions, Tags
from ..engines.fairseq_engine import task_moe_engine
from ..engines.manifest import Check
from ..host import release_pages, return_freed_memory

NUM_SENTENCES = 8
MIN_PIECES, MAX_PIECES = 3, 12
TOLERANCE = 1e-4  # of the log-probability of a piece, in float32
QUANTIZED_TOLERANCE = 0.5  # which a broken model exceeds, and int8 does not


def full_model_checks(
    trained: TrainedModel, lang_pairs: Sequence[str], used: Optional[Set[str]]
) -> List[Check]:
    """Return check sentences of some pairs, translated and scored by the model of a checkpoint.

    Experts are not folded there: the router of each layer decides. With used, sentences are of
    those words. Raises Unreadable for a checkpoint that does not hold the weights of a model.
    """
    engine = task_moe_engine(trained, tags_of(trained.tags, lang_pairs), "cpu", fold=False)
    draw = random.Random(1)
    words = [word for word in real_words(trained.words) if used is None or word in used]
    kept, checks = set(words), []
    for number in range(max(NUM_SENTENCES, len(lang_pairs))):
        pair = lang_pairs[number % len(lang_pairs)]
        source = draw.choices(words, k=draw.randint(MIN_PIECES, MAX_PIECES))
        _check_finite(engine.score(pair, [source], [[]]))  # which the search does not stand
        search = SearchOptions(beam=1, max_length=MAX_PIECES)
        (found,) = engine.translate(pair, [source], search)
        # words that are trimmed away have no place in a sentence that checks the rest
        target = [piece for piece in found[0].pieces if piece in kept]
        (score,) = engine.score(pair, [source], [target])
        _check_finite([score])
        checks.append(Check(pair, source, target, score, None))
    del engine
    _give_back(trained)
    return checks


def _give_back(trained: TrainedModel) -> None:
    """Give back the memory that scoring took, copies in float32 too, before others need it."""
    release_pages(trained.weights.values())
    return_freed_memory()


def _check_finite(scores: Sequence[float]) -> None:
    if not all(map(math.isfinite, scores)):
        raise Unreadable("diverged: its log-probabilities are no numbers")


def with_scores(checks: Sequence[Check], engine: Engine) -> List[Check]:
    """Return check sentences with the scores of an extracted model."""
    return [
        check._replace(score=score)
        for check, score in zip(checks, _scores(engine, checks), strict=True)
    ]


def scores_of(trained: TrainedModel, checks: Sequence[Check]) -> List[float]:
    """Return the scores that the model of a checkpoint gives to check sentences, in fairseq."""
    pairs = sorted({check.lang_pair for check in checks})
    tags = tags_of(trained.tags, pairs)
    scores = _scores(task_moe_engine(trained, tags, "cpu", fold=False), checks)
    _give_back(trained)
    return scores


def _scores(engine: Engine, checks: Sequence[Check]) -> List[float]:
    return [
        engine.score(check.lang_pair, [check.source], [check.target])[0] for check in checks
    ]


def worst_difference(checks: Sequence[Check]) -> float:
    """Return the largest difference between the two scores of a sentence, per piece."""
    return max(
        abs(check.full_score - check.score) / (len(check.target) + 1)
        for check in checks if check.score is not None
    )


def tags_of(tags: LanguageTags, lang_pairs: Sequence[str]) -> Dict[str, Tags]:
    """Return the tags of each direction."""
    return {pair: Tags(*tags.of_pair(pair)) for pair in lang_pairs}
