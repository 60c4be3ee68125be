"""Scores of one direction, and the averages over directions that the paper reports.

Scores are those of the registered metrics (registry.py) on detokenized text, with one reference for
each sentence, from 0 to 100.
"""

import math
from typing import Any, Collection, Dict, List, Mapping, Optional, Sequence

from ..errors import refuse
from .lang_pairs import is_english, split_pair
from .registry import METRICS, ScoreMetric

# chrF of outputs that need no model, by their name in results.json: their titles in tables
FLOORS = {"floor_copy_chrf": "copy chrF", "floor_nearest_chrf": "nearest chrF"}
FIXED_GROUPS = ("all", "xx-en", "en-xx", "zero-shot")

# A direction in results.json: "sentences", each metric's score and signature, and each floor; None
# for a floor that was not computed and for what an older file lacks
DirectionScore = Dict[str, Any]
Average = Dict[str, Optional[float]]


def score_titles() -> Dict[str, str]:
    """Return the title of each score and floor, by its name in results.json."""
    return {**{metric.name: metric.title for metric in METRICS.values()}, **FLOORS}


def score_fields() -> List[str]:
    """Return all names that a DirectionScore has."""
    signatures = [metric.signature for metric in METRICS.values()]
    return ["sentences", *score_titles(), *signatures]


def score_direction(
    lang_pair: str,
    hypotheses: Sequence[str],
    references: Sequence[str],
    sources: Optional[Sequence[str]] = None,
    nearest: Optional[Sequence[str]] = None,
    tokenize: Optional[str] = None,
) -> DirectionScore:
    """Score N detokenized hypotheses against N references, line by line.

    sources (N) gives the floor of copying the input. nearest (N; for every source the translation
    of the most similar training source) gives the floor of a look-up. A model that has learnt to
    translate is above both. tokenize: see registry.bleu_metric.
    Refuses an empty test set and unequal numbers of lines.
    """
    if not references:
        refuse(f"{lang_pair}: no references to score against")
    texts = {"hypotheses": hypotheses, "sources": sources, "nearest neighbours": nearest}
    for name, lines in texts.items():
        if lines is not None and len(lines) != len(references):
            refuse(f"{lang_pair}: {len(lines)} {name} but {len(references)} references")

    def corpus_score(metric: ScoreMetric, lines: Sequence[str]) -> Dict[str, Any]:
        built = metric.build(lang_pair, tokenize)
        score = built.corpus_score(lines, [references]).score
        return {metric.name: score, metric.signature: str(built.get_signature())}

    scores: DirectionScore = {"sentences": len(references)}
    for metric in METRICS.values():
        scores.update(corpus_score(metric, hypotheses))
    chrf = METRICS["chrf"]
    for floor, lines in zip(FLOORS, (sources, nearest), strict=True):
        scores[floor] = None if lines is None else corpus_score(chrf, lines)[chrf.name]
    return scores


def averages(
    directions: Mapping[str, DirectionScore],
    resources: Optional[Mapping[str, str]] = None,
    zero_shot: Optional[Collection[str]] = None,
) -> Dict[str, Average]:
    """Return unweighted means over the groups of directions that group_directions makes.

    Each mean has the names of score_titles and "directions", the number of directions in the group.
    A score is None where the group is empty or where one of its directions lacks it.
    """
    groups = group_directions(list(directions), resources, zero_shot)
    return {name: _mean([directions[pair] for pair in group]) for name, group in groups.items()}


def group_directions(
    pairs: Sequence[str],
    resources: Optional[Mapping[str, str]] = None,
    zero_shot: Optional[Collection[str]] = None,
) -> Dict[str, List[str]]:
    """Return pairs in groups, as in the paper's Table 1.

    Groups: "all" (zero-shot directions included, as in the paper's averages over 32), "xx-en" and
    "en-xx" always; "zero-shot" where there are such directions: those named by zero_shot, or all
    without English. resources maps a language to its class ("high", "low", ...) and adds one
    group for each class. A direction belongs to the class of its language other than English; one
    without English to the class that its two languages share, else to none; a direction named in
    resources itself ("fr-de") to the class given there. Refuses a language without a class.
    """
    english = {pair: tuple(map(is_english, split_pair(pair))) for pair in pairs}
    groups: Dict[str, List[str]] = {
        "all": list(pairs),
        "xx-en": [pair for pair in pairs if english[pair] == (False, True)],
        "en-xx": [pair for pair in pairs if english[pair] == (True, False)],
    }
    if zero_shot is None:
        untrained = [pair for pair in pairs if english[pair] == (False, False)]
    else:
        untrained = [pair for pair in pairs if pair in zero_shot]
    if untrained:
        groups["zero-shot"] = untrained
    if resources is not None:
        classes = {pair: _resource_class(pair, resources) for pair in pairs}
        for name in dict.fromkeys(resources.values()):
            if name in FIXED_GROUPS:
                refuse(f"{name!r} cannot be a resource class: it is the name of another average")
            groups[name] = [pair for pair in pairs if classes[pair] == name]
    return groups


def _resource_class(lang_pair: str, resources: Mapping[str, str]) -> Optional[str]:
    if lang_pair in resources:
        return resources[lang_pair]
    languages = [code for code in split_pair(lang_pair) if not is_english(code)]
    for language in languages:
        if language not in resources:
            refuse(f"{lang_pair}: no resource class given for {language}")
    classes = {resources[language] for language in languages}
    return classes.pop() if len(classes) == 1 else None


def _mean(scores: List[DirectionScore]) -> Average:
    def mean(name: str) -> Optional[float]:
        values = [score[name] for score in scores if score.get(name) is not None]
        return math.fsum(values) / len(values) if values and len(values) == len(scores) else None

    return {**{name: mean(name) for name in score_titles()}, "directions": len(scores)}
