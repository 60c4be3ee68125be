"""Adding two languages: the claims, and once the whole, with four directions and few updates."""

import subprocess
import sys

import pytest
from console import ROOT

if str(ROOT) not in sys.path:  # examples/ is not installed
    sys.path.insert(0, str(ROOT))

from examples.add_languages import claims, plan  # noqa: E402
from examples.add_languages.report import report  # noqa: E402

SMALL = """
from examples.demo import prepare, train
every = ",".join(prepare.DIRECTIONS)
prepare.PAIRS = ("en-de", "en-gu")
prepare.DIRECTIONS = ("de-en", "gu-en", *prepare.PAIRS)
prepare.VOCAB_SIZE = 800
prepare.SPLIT.update(num_valid=8, num_test=8)
train.FLAGS = train.FLAGS.replace(every, ",".join(prepare.DIRECTIONS))
from examples.add_languages import claims, plan
names = ("base", "base_words", "frozen", "frozen_words")
plan.MODELS = [model._replace(updates=3) for model in plan.MODELS if model.name in names]
claims.CLAIMS = [claim for claim in claims.CLAIMS if "stays the same" in claim.text]
from examples.demo import report
report.SEARCH = report.SEARCH._replace(max_len_b=10)
from examples.add_languages import run
run.main()
"""


def results(new, changed=0):
    """Return results in which all directions of a model have the same scores."""
    chrf = {"base": 90, "scratch": 80, "base_words": 0, "tuned": 89.5, **new}
    return claims.Results([
        {"name": model.name, "seed": 1, "changed": [changed, 100], "cpu_seconds": 9,
         "provenance": "here", "scores": {
             pair: {part: {"chrf": chrf[model.name], "bleu": 1, "exact": 2,
                           "floor_nearest_chrf": 3} for part in ("random", "composed")}
             for pair in model.scored
         }}
        for model in plan.MODELS
    ])


@pytest.mark.parametrize("chrf, changed, hold", [
    (80, 0, [True] * 7), (60, 1, [False, False, True, False, True, False, True]),
])
def test_claims_hold_only_at_their_bounds(chrf, changed, hold):
    found = results({name: chrf for name in ("frozen", "frozen_words", "tuned_new")}, changed)
    assert [claim.check(found)[0] for claim in claims.CLAIMS] == hold
    worse = results({"frozen": 80, "frozen_words": 80, "tuned_new": 80, "tuned": 71})
    assert [claim.check(worse)[0] for claim in claims.CLAIMS][-3:] == [False, True, False]


def test_the_report_has_every_claim_and_every_model():
    text = report(results(dict.fromkeys(("frozen", "frozen_words", "tuned_new"), 70)).models)
    for claim in claims.CLAIMS:
        assert f"| {claim.text} | " in text
    for model in plan.MODELS:
        assert text.count(f"\n| {model.title} | ") == 1 + sum(
            set(pairs) <= set(model.scored) for pairs in (plan.NEW, plan.OLD)
        )
    assert "| en-gu | others frozen | 1.0 | 70.0 | 2.0 | 3.0 | 1.0 | 70.0 | 2.0 | 3.0 |" in text


@pytest.mark.slow
def test_frozen_directions_translate_as_before_and_a_second_run_trains_nothing(tmp_path):
    command = [sys.executable, "-c", SMALL, "--out", tmp_path]
    first, second = (
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert "done earlier" not in first and second.count("done earlier") == 4
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert text.count("stays the same | holds | 0 of 32 translations differ |") == 2
