"""The cipher study: with tasks that only compete, experts of their own are what makes the model."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # examples/ is not installed
    sys.path.insert(0, str(ROOT))

from examples.mechanism import claims, models  # noqa: E402
from examples.mechanism.ciphers import LENGTH, NUM_WORDS, Ciphers  # noqa: E402
from examples.mechanism.plan import MAIN_COUNT, Training, trainings  # noqa: E402
from examples.mechanism.report import report  # noqa: E402
from examples.mechanism.run import measure  # noqa: E402

UPDATES = 600


def test_each_language_has_its_own_one_to_one_dictionary():
    ciphers = Ciphers.make(3)
    batch, dictionary = models.held_out(ciphers), ciphers.dictionary
    found = {}
    for sentence, target, task_id in zip(
        dictionary.string(batch.src_tokens).split("\n"),
        dictionary.string(batch.target).split("\n"), batch.task_ids.tolist(), strict=True,
    ):
        tag, *words = sentence.split()
        assert tag == f"__c0{task_id}__" and len(words) == LENGTH
        for word, translation in zip(words, target.split(), strict=True):
            assert found.setdefault((task_id, word), translation) == translation
    for task_id in range(3):
        translations = {t for (task, _), t in found.items() if task == task_id}
        assert len(translations) == NUM_WORDS
    same = [found[0, f"s{n}"] == found[1, f"s{n}"] for n in range(NUM_WORDS)]
    assert sum(same) < NUM_WORDS / 8


def test_the_report_has_every_claim_and_every_model():
    measured = measure(Training("target_target", 4, 1), num_updates=2)
    assert measured["extraction"]["different"] == 0
    results = [
        {**measured, **one._asdict(), "provenance": "here",
         "accuracy": [0.96 if "target" in one.row else 0.25] * one.ciphers}
        for one in trainings()
    ]
    text = report(json.loads(json.dumps(results)))
    for claim in claims.CLAIMS:
        assert f"| {claim.text} | " in text
    assert text.count("holds |") + text.count("**fails** |") == len(claims.CLAIMS)
    assert "| target/token | 96.0 ± 0.0 | 96.0 | 96.0 |" in text
    assert "| dense | 25.0 ± 0.0 | 25.0 ± 0.0 |" in text


@pytest.mark.parametrize("wins, trials, p", [(5, 5, 1 / 32), (13, 16, 697 / 2**16), (0, 3, 1)])
def test_sign_test(wins, trials, p):
    assert claims.sign_test(wins, trials) == pytest.approx(p)


@pytest.mark.slow
def test_target_routing_learns_16_ciphers_where_a_dense_model_cannot():
    ciphers = Ciphers.make(MAIN_COUNT)
    dense, routed = (models.train(row, ciphers, 1, UPDATES) for row in ("dense", "target_target"))
    assert min(models.accuracy(routed, ciphers)) >= 0.9
    accuracy = models.accuracy(dense, ciphers)
    assert sum(accuracy) / len(accuracy) <= 0.5
    exact = models.extraction(routed, "target_target", ciphers)
    assert exact.different == 0 and exact.max_abs_logprob_diff < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("row", models.ROWS)
def test_every_row_can_be_measured(row):
    measured = measure(Training(row, 4, 1), num_updates=2)
    assert (measured["extraction"] is not None) == models.can_extract(row)
