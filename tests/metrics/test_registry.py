"""A registered metric is in results.json, in results.md and in the scores of validation."""

import json

import pytest
import torch
from fairseq.logging import metrics
from sacrebleu.metrics import CHRF

from fairseq_taskmoe.benchmarks.decode.search import DecodingLoad, make_batch, make_task
from fairseq_taskmoe.benchmarks.decode.variants import build_own, make_config
from fairseq_taskmoe.evaluation.results import Results, load_results
from fairseq_taskmoe.evaluation.significance import compare_systems
from fairseq_taskmoe.metrics.registry import METRICS, register_metric
from fairseq_taskmoe.metrics.scoring import score_direction
from fairseq_taskmoe.tasks.validation_scores import ValidationScores

HYPOTHESES, REFERENCES = ["a cat", "the dog"], ["a cat", "a dog"]


@pytest.fixture
def letters():
    """Register a metric that compares only single characters."""

    @register_metric("letters", "Letters")
    def letters_metric(lang_pair, tokenize=None):
        return CHRF(char_order=1)

    yield CHRF(char_order=1)
    del METRICS["letters"]


def test_a_new_metric_is_in_the_results(letters, tmp_path):
    expected = letters.corpus_score(HYPOTHESES, [REFERENCES]).score
    scores = {"de-en": score_direction("de-en", HYPOTHESES, REFERENCES)}
    Results.collect("toy", scores).save(tmp_path)
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["directions"]["de-en"]["letters"] == expected
    assert "nc:1" in content["directions"]["de-en"]["letters_signature"]
    assert content["averages"]["all"]["letters"] == expected
    report = (tmp_path / "results.md").read_text()
    assert "| BLEU | chrF | chrF++ | Letters |" in report
    assert f"| {expected:.1f} |" in report and "- Letters signature: `" in report
    assert load_results(tmp_path / "results.json").directions == scores


def test_results_without_the_metric_still_load(letters, tmp_path):
    scores = score_direction("de-en", HYPOTHESES, REFERENCES)
    without = {name: value for name, value in scores.items() if not name.startswith("letters")}
    Results.collect("older", {"de-en": {**without, "letters_signature": None}}).save(tmp_path)
    assert load_results(tmp_path / "results.json").directions["de-en"]["letters"] is None


def test_a_new_metric_is_logged_at_validation(letters):
    load = DecodingLoad(arch="tiny", vocab_size=60, length=6, output_length=6, beam=1)
    task = make_task(load.vocab_size)
    model = build_own(make_config(load, 4, "target"), task, load)
    batch = make_batch(task, 2, load)
    scores = ValidationScores(task, model)
    logged = scores.statistics({**batch, "target": batch["net_input"]["src_tokens"]})
    with metrics.aggregate(new_root=True) as found:
        scores.log([logged])
    values = found.get_smoothed_values()
    assert {"bleu", "chrf", "letters", "letters_en-de"} <= set(values)
    assert "chrfpp" not in values
    assert torch.is_tensor(logged["_letters_statistics"])


def test_an_unknown_metric_of_compare_is_refused_by_name():
    with pytest.raises(Exception, match="--metric meteor: choose from bleu, chrf, chrfpp"):
        compare_systems("a", ["b"], "meteor")
