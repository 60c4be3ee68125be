"""The limits that the demo checks its exported models and sub-networks against."""

import pytest

from examples.demo import deploy, report

PAIRS = ("en-de", "de-en")


def facts(**changes):
    """Return figures of a demo; changes are to one direction, by format."""
    found = {
        variant: {pair: {"same": 0.9, "chrf_change": 1.0, "bytes": 5} for pair in PAIRS}
        for variant in deploy.FORMATS
    }
    for variant, figures in changes.items():
        found[variant]["de-en"].update(figures)
    return {"ctranslate2": found, **deploy.overall(found)}


def test_means_and_the_largest_file():
    found = facts(int8={"same": 0.85, "chrf_change": -2.0, "bytes": 7})
    assert found["ctranslate2_int8_same"] == 0.875
    assert found["ctranslate2_int8_chrf_change"] == -0.5
    assert found["ctranslate2_int8_bytes"] == 7 and found["ctranslate2_float32_bytes"] == 5


@pytest.mark.parametrize(
    "changes, messages",
    [
        ({}, []),
        ({"trimmed": {"same": 0.1, "chrf_change": 9.0}, "int8": {"same": 0.1}}, []),
        ({"float32": {"same": 0.89}}, ["all directions: CTranslate2 in float32 makes 89.5% of"]),
        ({"float32": {"same": 0.79}}, ["all directions: CTranslate2 in float32 makes 84.5% of",
                                       "de-en: CTranslate2 in float32 makes 79.0% of"]),
        ({"float32": {"same": float("nan")}}, ["all directions: CTranslate2 in float32 makes nan%",
                                               "de-en: CTranslate2 in float32 makes nan% of"]),
        ({"int8": {"chrf_change": -3.0}}, []),  # 1 and -3: -1 on average
        ({"int8": {"chrf_change": -3.1}}, ["int8 changes chrF by -1.05 on average"]),
        ({"int8": {"chrf_change": 1.1}}, ["int8 changes chrF by +1.05 on average"]),
    ],
)
def test_exports_beyond_a_limit_are_named(changes, messages):
    found = deploy.failures(facts(**changes))
    assert len(found) == len(messages)
    assert all(part in line for part, line in zip(messages, found, strict=True))


@pytest.mark.parametrize(
    "changes, messages",
    [
        ({}, []),
        ({"subnet_hypotheses_different": 2, "of_which_ties": 2, "without_plugin_different": 2}, []),
        ({"subnet_hypotheses_different": 2, "of_which_ties": 1}, ["do not compute what the full"]),
        ({"subnet_max_abs_logprob_diff": 1e-3}, ["do not compute what the full"]),
        ({"subnet_max_abs_logprob_diff": float("nan")}, ["do not compute what the full"]),
        ({"without_plugin_different": 3}, ["without the plugin 3 translations differ"]),
    ],
)
def test_subnetworks_that_are_not_the_full_model_are_named(changes, messages):
    found = report.failures({
        "subnet_max_abs_logprob_diff": 1e-5, "subnet_hypotheses_different": 0, "of_which_ties": 0,
        "without_plugin_different": 0, **changes,
    })
    assert len(found) == len(messages)
    assert all(part in line for part, line in zip(messages, found, strict=True))


def test_translations_are_compared_with_the_full_models():
    texts, full = ["Open the file", "Save it", "Close"], ["Open the file", "Save it", "Quit"]
    found = deploy.compare("de-en", texts, full, ["Open the file", "Save it", "Close"])
    assert found["same"] == 0.6667 and found["chrf_change"] > 0
    assert deploy.compare("de-en", full, full, texts) == {"same": 1, "chrf_change": 0}
