"""Scores of one direction, and the averages over directions that the paper reports.

BLEU, chrF and chrF++ are sacrebleu's, on detokenized text, one reference a sentence, all from 0 to
100.
A direction is named as in --lang-pairs: "en-de" is English to German.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Optional

from sacrebleu.metrics import BLEU, CHRF

from ..errors import refuse

# keyed by the code before the first underscore: zh_CN and zho_Hans are Chinese as well
TOKENIZERS = {
    "zh": "zh",
    "zho": "zh",
    "cmn": "zh",
    "ja": "ja-mecab",
    "jpn": "ja-mecab",
    "ko": "ko-mecab",
    "kor": "ko-mecab",
}
DEFAULT_TOKENIZER = "13a"
ENGLISH = ("en", "eng")
SCORE_FIELDS = ("bleu", "chrf", "chrfpp", "floor_copy_chrf", "floor_nearest_chrf")
FIXED_GROUPS = ("all", "xx-en", "en-xx", "zero-shot")

Average = dict[str, Optional[float]]


class DirectionScore(NamedTuple):
    """Scores of one direction, in the order in which results.json lists them."""

    signature: str  # sacrebleu's, of the BLEU score
    bleu: float
    chrf: float  # chrF2: character 6-grams, no word n-grams
    sentences: int
    floor_copy_chrf: Optional[float]  # chrF of the sources taken for translations
    floor_nearest_chrf: Optional[float]  # chrF of the translations of the nearest training sources
    chrf_signature: str
    chrfpp: Optional[float] = None  # chrF2++: word 1- and 2-grams as well; None in older results
    chrfpp_signature: Optional[str] = None


def split_pair(lang_pair: str) -> tuple[str, str]:
    """Return (source, target) of "en-de"; refuses what is not two codes around one hyphen."""
    languages = lang_pair.split("-")
    if len(languages) != 2 or not all(languages):
        refuse(f"not a language pair: {lang_pair!r}, expected a form such as en-de")
    return languages[0], languages[1]


def is_english(language: str) -> bool:
    """Tell whether a language code is English, whatever its region or script (en, en_XX)."""
    return _base_code(language) in ENGLISH


def bleu_metric(lang_pair: str, tokenize: Optional[str] = None) -> BLEU:
    """Return sacrebleu's BLEU with the tokenizer that suits the target language.

    Without tokenize: zh for Chinese, MeCab for Japanese and Korean (single characters where its
    package is missing, which the signature then shows as tok:char), 13a for all others.
    tokenize overrides this for every language, with one exception: "intl" stands for the paper's
    setting, SacreBLEU with intl except zh for Chinese (A.1). Refuses an unknown or missing one.
    """
    _, target = split_pair(lang_pair)
    suited = TOKENIZERS.get(_base_code(target), DEFAULT_TOKENIZER)
    if tokenize is not None and tokenize not in BLEU.TOKENIZERS:
        names = ", ".join(sorted(BLEU.TOKENIZERS))
        refuse(f"unknown BLEU tokenizer {tokenize!r}, sacrebleu knows: {names}")
    if tokenize is None or (tokenize == "intl" and suited == "zh"):
        name = suited
    else:
        name = tokenize
    try:
        return BLEU(tokenize=name)
    # RuntimeError: MeCab is missing; AssertionError: it has another dictionary than sacrebleu's;
    # OSError: a SentencePiece model that sacrebleu would have to download
    except (RuntimeError, AssertionError, ImportError, OSError) as error:
        if tokenize is None:
            return BLEU(tokenize="char")
        reason = " ".join(str(error).split()) or type(error).__name__
        refuse(f"BLEU tokenizer {name} does not work here: {reason}")


def score_direction(
    lang_pair: str,
    hypotheses: Sequence[str],
    references: Sequence[str],
    sources: Optional[Sequence[str]] = None,
    nearest: Optional[Sequence[str]] = None,
    tokenize: Optional[str] = None,
) -> DirectionScore:
    """Score N detokenized hypotheses against N references, line by line.

    sources (N) gives the floor that copying the input reaches, nearest (N; for every source the
    translation of the training source most like it) the floor that a look-up reaches: a model
    that has learnt to translate is above both. tokenize: see bleu_metric.
    Refuses an empty test set and unequal numbers of lines.
    """
    if not references:
        refuse(f"{lang_pair}: no references to score against")
    texts = {"hypotheses": hypotheses, "sources": sources, "nearest neighbours": nearest}
    for name, lines in texts.items():
        if lines is not None and len(lines) != len(references):
            refuse(f"{lang_pair}: {len(lines)} {name} but {len(references)} references")

    bleu, chrf, chrfpp = bleu_metric(lang_pair, tokenize), CHRF(), CHRF(word_order=2)
    bleu_score, chrf_score, chrfpp_score = (
        metric.corpus_score(hypotheses, [references]).score for metric in (bleu, chrf, chrfpp)
    )
    copy_score, nearest_score = (
        None if lines is None else chrf.corpus_score(lines, [references]).score
        for lines in (sources, nearest)
    )
    return DirectionScore(
        signature=str(bleu.get_signature()),
        bleu=bleu_score,
        chrf=chrf_score,
        sentences=len(references),
        floor_copy_chrf=copy_score,
        floor_nearest_chrf=nearest_score,
        chrf_signature=str(chrf.get_signature()),
        chrfpp=chrfpp_score,
        chrfpp_signature=str(chrfpp.get_signature()),
    )


def averages(
    directions: Mapping[str, DirectionScore],
    resources: Optional[Mapping[str, str]] = None,
    zero_shot: Optional[Collection[str]] = None,
) -> dict[str, Average]:
    """Return unweighted means over the groups of directions that group_directions makes.

    Each value is {"bleu", "chrf", "chrfpp", "floor_copy_chrf", "floor_nearest_chrf",
    "directions"}: directions counts the group, the others are None where the group is empty or
    where one of its directions lacks the number.
    """
    groups = group_directions(list(directions), resources, zero_shot)
    return {name: _mean([directions[pair] for pair in group]) for name, group in groups.items()}


def group_directions(
    pairs: Sequence[str],
    resources: Optional[Mapping[str, str]] = None,
    zero_shot: Optional[Collection[str]] = None,
) -> dict[str, list[str]]:
    """Return pairs in groups, as in the paper's Table 1.

    Groups: "all" (zero-shot directions included, as in the paper's averages over 32), "xx-en" and
    "en-xx" always; "zero-shot" where there are such directions: those named by zero_shot, or all
    without English. resources maps a language to its class ("high", "low", ...) and adds one
    group a class. A direction belongs to the class of its language other than English; one
    without English to the class that its two languages share, else to none; a direction named in
    resources itself ("fr-de") to the class given there. Refuses a language without a class.
    """
    english = {pair: tuple(map(is_english, split_pair(pair))) for pair in pairs}
    groups: dict[str, list[str]] = {
        "all": list(pairs),
        "xx-en": [pair for pair in pairs if english[pair] == (False, True)],
        "en-xx": [pair for pair in pairs if english[pair] == (True, False)],
    }
    if zero_shot is None:
        unseen = [pair for pair in pairs if english[pair] == (False, False)]
    else:
        unseen = [pair for pair in pairs if pair in zero_shot]
    if unseen:
        groups["zero-shot"] = unseen
    if resources is not None:
        classes = {pair: _resource_class(pair, resources) for pair in pairs}
        for name in dict.fromkeys(resources.values()):
            if name in FIXED_GROUPS:
                refuse(f"{name!r} cannot be a resource class: it is the name of another average")
            groups[name] = [pair for pair in pairs if classes[pair] == name]
    return groups


def _base_code(language: str) -> str:
    return language.split("_")[0].lower()


def _resource_class(lang_pair: str, resources: Mapping[str, str]) -> Optional[str]:
    if lang_pair in resources:
        return resources[lang_pair]
    languages = [code for code in split_pair(lang_pair) if not is_english(code)]
    for language in languages:
        if language not in resources:
            refuse(f"{lang_pair}: no resource class given for {language}")
    classes = {resources[language] for language in languages}
    return classes.pop() if len(classes) == 1 else None


def _mean(scores: list[DirectionScore]) -> Average:
    def mean(field: str) -> Optional[float]:
        values = [getattr(score, field) for score in scores]
        return None if not values or None in values else math.fsum(values) / len(values)

    return {**{field: mean(field) for field in SCORE_FIELDS}, "directions": len(scores)}
