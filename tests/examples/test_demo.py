"""What the demo demands of the models that it cuts out, and that it says so."""

import pytest

from examples.demo import deploy, report

PAIRS = ("en-de", "de-en")


def facts(**changes):
    """Return what a demo may have measured, with other figures of one variant and direction."""
    found = {
        variant: {pair: {"same": 0.9, "chrf_change": 1.0, "bytes": 5} for pair in PAIRS}
        for variant in deploy.VARIANTS
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
    "changes, said",
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
def test_exports_that_fall_short_are_named(changes, said):
    found = deploy.failures(facts(**changes))
    assert len(found) == len(said)
    assert all(part in line for part, line in zip(said, found, strict=True))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({}, []),
        ({"subnet_hypotheses_different": 2, "of_which_ties": 2, "without_plugin_different": 2}, []),
        ({"subnet_hypotheses_different": 2, "of_which_ties": 1}, ["do not compute what the full"]),
        ({"subnet_max_abs_logprob_diff": 1e-3}, ["do not compute what the full"]),
        ({"subnet_max_abs_logprob_diff": float("nan")}, ["do not compute what the full"]),
        ({"without_plugin_different": 3}, ["without the plugin 3 translations differ"]),
    ],
)
def test_subnetworks_that_are_not_the_full_model_are_named(changes, said):
    found = report.failures({
        "subnet_max_abs_logprob_diff": 1e-5, "subnet_hypotheses_different": 0, "of_which_ties": 0,
        "without_plugin_different": 0, **changes,
    })
    assert len(found) == len(said)
    assert all(part in line for part, line in zip(said, found, strict=True))


def test_translations_are_compared_with_the_full_models():
    texts, full = ["Open the file", "Save it", "Close"], ["Open the file", "Save it", "Quit"]
    found = deploy.compare("de-en", texts, full, ["Open the file", "Save it", "Close"])
    assert found["same"] == 0.6667 and found["chrf_change"] > 0
    assert deploy.compare("de-en", full, full, texts) == {"same": 1, "chrf_change": 0}
