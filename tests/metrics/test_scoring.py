"""Scores are sacrebleu's; averages are the paper's."""

import re

import pytest
import sacrebleu
from refusals import refusal
from sacrebleu.metrics import BLEU

from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.metrics.lang_pairs import is_english
from fairseq_taskmoe.metrics.registry import bleu_metric
from fairseq_taskmoe.metrics.scoring import averages, score_direction

HYPOTHESES = ["The cat sat on the mat.", "A dog, barks loudly at night!"]
REFERENCES = ["The cat sat on a mat.", "A dog barks loudly at night!"]
SOURCES = ["Die Katze saß auf der Matte.", "Ein Hund bellt laut in der Nacht!"]
CHINESE = ["你好世界今天天气很好", "打开文件并保存"]
CHINESE_REFERENCES = ["你好世界今天天气不好", "打开文件然后保存"]

# language: xx->en, en->xx of the paper's token/target model (Tables 5-6), by size of the data
PAPER_HIGH = {
    "cs": (30.5, 22.5),
    "fr": (37.1, 39.9),
    "ru": (35.4, 25.6),
    "zh": (21.4, 27.0),
    "es": (34.3, 33.5),
    "fi": (27.9, 20.5),
    "de": (32.0, 27.1),
    "et": (27.3, 20.5),
}
PAPER_LOW = {
    "lv": (19.4, 17.6),
    "lt": (25.9, 14.4),
    "ro": (36.2, 26.6),
    "hi": (20.1, 13.3),
    "kk": (11.6, 3.0),
    "tr": (21.2, 19.2),
    "gu": (9.0, 5.7),
}


def score(bleu, chrf=50.0, copy=None, nearest=None, chrfpp=45.0):
    return {
        "bleu": bleu, "chrf": chrf, "sentences": 10, "floor_copy_chrf": copy,
        "floor_nearest_chrf": nearest, "chrfpp": chrfpp,
    }


def bleu_and_chrf(hypotheses):
    scored = score_direction("de-en", hypotheses, REFERENCES)
    return scored["bleu"], scored["chrf"]


def mean_bleu(groups):
    return {name: (group["bleu"], group["directions"]) for name, group in groups.items()}


def test_scores_are_sacrebleus():
    scored = score_direction("de-en", HYPOTHESES, REFERENCES)
    assert scored["bleu"] == sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score
    assert scored["chrf"] == sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score
    expected = sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES], word_order=2).score
    assert scored["chrfpp"] == expected != scored["chrf"]
    assert 0 < scored["bleu"] < 100 and 0 < scored["chrf"] < 100 and 0 < scored["chrfpp"] < 100
    assert scored["sentences"] == 2
    assert scored["signature"] == (
        f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
    )
    assert "nc:6|nw:0" in scored["chrf_signature"]
    assert "nc:6|nw:2" in scored["chrfpp_signature"]
    assert (scored["floor_copy_chrf"], scored["floor_nearest_chrf"]) == (None, None)


def test_perfect_and_worthless_translations():
    assert bleu_and_chrf(REFERENCES) == pytest.approx((100, 100))
    assert bleu_and_chrf(["", ""]) == (0, 0)


def test_floors_are_the_chrf_of_the_alternatives():
    scored = score_direction("de-en", HYPOTHESES, REFERENCES, SOURCES, nearest=REFERENCES)
    assert scored["floor_copy_chrf"] == sacrebleu.corpus_chrf(SOURCES, [REFERENCES]).score
    assert scored["floor_nearest_chrf"] == pytest.approx(100)
    without = score_direction("de-en", HYPOTHESES, REFERENCES)
    for name in ("signature", "bleu", "chrf", "sentences"):
        assert scored[name] == without[name]


@pytest.mark.parametrize(
    "lang_pair, tokenize, expected",
    [
        ("en-de", None, "13a"),
        ("en-zh", None, "zh"),
        ("en-zh_CN", None, "zh"),
        ("eng_Latn-zho_Hans", None, "zh"),
        ("zh-en", None, "13a"),  # the target decides
        ("en-de", "intl", "intl"),
        ("en-zh", "intl", "zh"),  # as the paper has it
        ("en-zh", "char", "char"),
        ("en-de", "none", "none"),
    ],
)
def test_tokenizer_follows_the_target_language(lang_pair, tokenize, expected):
    metric = bleu_metric(lang_pair, tokenize)
    metric.corpus_score(HYPOTHESES, [REFERENCES])
    assert f"|tok:{expected}|" in str(metric.get_signature())


def test_chinese_is_scored_by_character():
    scored = score_direction("en-zh", CHINESE, CHINESE_REFERENCES)
    expected = sacrebleu.corpus_bleu(CHINESE, [CHINESE_REFERENCES], tokenize="zh").score
    assert scored["bleu"] == expected
    # without spaces, 13a sees one word a line, all of them wrong
    assert scored["bleu"] > 30
    assert score_direction("en-zh", CHINESE, CHINESE_REFERENCES, tokenize="13a")["bleu"] == 0


@pytest.mark.parametrize("lang_pair, tokenizer", [("en-ja", "ja-mecab"), ("en-ko", "ko-mecab")])
def test_without_mecab_characters_are_scored_and_shown_in_the_signature(lang_pair, tokenizer):
    try:
        BLEU(tokenize=tokenizer)
    except RuntimeError:
        signature = score_direction(lang_pair, CHINESE, CHINESE_REFERENCES)["signature"]
        assert "|tok:char|" in signature
        with pytest.raises(Refusal, match=f"{tokenizer} does not work here: .*pip install"):
            bleu_metric(lang_pair, tokenizer)
    else:
        assert tokenizer in score_direction(lang_pair, CHINESE, CHINESE_REFERENCES)["signature"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("de-en", HYPOTHESES[:1], REFERENCES), "de-en: 1 hypotheses but 2 references"),
        (("de-en", HYPOTHESES, REFERENCES, SOURCES * 2), "de-en: 4 sources but 2 references"),
        (("de-en", HYPOTHESES, REFERENCES, None, []), "0 nearest neighbours but 2 references"),
        (("de-en", [], []), "de-en: no references"),
        (("deen", HYPOTHESES, REFERENCES), "not a language pair: 'deen'"),
        (("de-", HYPOTHESES, REFERENCES), "not a language pair: 'de-'"),
        (("de-en", HYPOTHESES, REFERENCES, None, None, "14a"), "unknown BLEU tokenizer '14a'"),
    ],
)
def test_refusals_are_one_line(arguments, message):
    assert re.search(message, refusal(score_direction, *arguments))


@pytest.mark.parametrize(
    "language, expected",
    [("en", True), ("en_XX", True), ("eng_Latn", True), ("et", False), ("enm", False)],
)
def test_is_english(language, expected):
    assert is_english(language) is expected


def test_averages_by_hand():
    directions = {
        "de-en": score(30, 60, copy=10, nearest=35, chrfpp=None),
        "fr-en": score(20, 50, copy=20, nearest=40),
        "en-de": score(10, 40, copy=30, nearest=None),
    }
    groups = averages(directions)
    assert list(groups) == ["all", "xx-en", "en-xx"]
    assert groups["all"] == {
        "bleu": 20,
        "chrf": 50,
        "chrfpp": None,  # an older result
        "floor_copy_chrf": 20,
        "floor_nearest_chrf": None,  # one direction has none: a mean over others would mislead
        "directions": 3,
    }
    assert groups["xx-en"]["floor_nearest_chrf"] == 37.5
    assert mean_bleu(groups) == {"all": (20, 3), "xx-en": (25, 2), "en-xx": (10, 1)}


def test_zero_shot_directions_count_only_in_the_average_of_all():
    directions = {"de-en": score(30), "en-de": score(20), "de-fr": score(4), "fr-de": score(6)}
    expected = {"all": (15, 4), "xx-en": (30, 1), "en-xx": (20, 1), "zero-shot": (5, 2)}
    assert mean_bleu(averages(directions)) == expected


def test_zero_shot_directions_can_be_named():
    directions = {"de-en": score(30), "de-fr": score(4), "fr-de": score(6)}
    assert mean_bleu(averages(directions, zero_shot=["fr-de"]))["zero-shot"] == (6, 1)
    assert "zero-shot" not in averages(directions, zero_shot=[])


def test_an_empty_group_has_no_mean():
    group = averages({"de-en": score(30)})["en-xx"]
    assert group["directions"] == 0
    assert {value for name, value in group.items() if name != "directions"} == {None}


def test_averages_reproduce_the_papers_table_1():
    directions, resources = {}, {}
    for name, languages in (("high", PAPER_HIGH), ("low", PAPER_LOW)):
        for language, (into, out_of) in languages.items():
            directions[f"{language}-en"], directions[f"en-{language}"] = score(into), score(out_of)
            resources[language] = name
    directions["de-fr"], directions["fr-de"] = score(27.7), score(22.4)
    groups = mean_bleu(averages(directions, resources))
    # the paper's row: 23.6, 26.0, 21.1, 28.5, 17.4
    assert {name: (round(bleu, 1), count) for name, (bleu, count) in groups.items()} == {
        "all": (23.6, 32),
        "xx-en": (26.0, 15),
        "en-xx": (21.1, 15),
        "zero-shot": (25.0, 2),
        "high": (28.5, 18),
        "low": (17.4, 14),
    }


def test_resource_class_of_a_direction_without_english():
    directions = {"de-gu": score(4), "gu-de": score(6), "de-en": score(30)}
    classes = {"de": "high", "gu": "low", "gu-de": "low"}
    # de-gu belongs to neither class; gu-de is named
    groups = mean_bleu(averages(directions, classes))
    assert (groups["high"], groups["low"]) == ((30, 1), (6, 1))


@pytest.mark.parametrize(
    "resources, message",
    [({"fr": "high"}, "de-en: no resource class given for de"), ({"de": "all"}, "'all' cannot")],
)
def test_resource_classes_are_checked(resources, message):
    with pytest.raises(Refusal, match=message):
        averages({"de-en": score(30)}, resources)
