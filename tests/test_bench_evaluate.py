"""`taskmoe bench evaluate` compares equal work, sees when it is not, and refuses what fails."""

import json
import sys

import pytest
from console import refused, run
from refusals import refusal

from fairseq_taskmoe.benchmarks.evaluate import (
    Search,
    bench_evaluate,
    count_different,
    read_generated,
    timed,
)
from fairseq_taskmoe.benchmarks.random_corpus import Made


def test_sentences_are_compared_by_number():
    assert count_different(["a", "b"], {1: "b", 0: "a"}) == 0
    assert count_different(["a", "b"], {0: "b", 1: "a"}) == 2
    assert count_different(["a"], {0: "a", 1: ""}) == 1
    assert count_different(["a", "b"], {1: "b"}) == 1


def test_the_best_hypothesis_counts_without_tags(tmp_path):
    printed = tmp_path / "printed"
    printed.write_text("S-1\tin\nH-1\t-0.1\tbest one\nH-1\t-0.2\tother\nT-0\tx\nH-0\t-0.3\t\n")
    assert read_generated(printed) == {1: "best one", 0: ""}
    printed.write_text("H-0\t-0.1\ta __zh__ b\n")
    assert read_generated(printed, ["__de__", "__zh__"]) == {0: "a b"}


def test_a_process_is_timed_alone_and_refused_where_it_fails(tmp_path):
    busy = timed([sys.executable, "-c", "sum(range(10**7))"], tmp_path / "busy", threads=1)
    idle = timed([sys.executable, "-c", "import time; time.sleep(0.5)"], tmp_path / "idle", None)
    assert busy.cpu_seconds > 2 * idle.cpu_seconds and idle.seconds >= 0.5
    failing = [sys.executable, "-c", "raise ValueError('bad news')"]
    assert "status 1: ValueError: bad news" in refusal(timed, failing, tmp_path / "bad", None)


@pytest.mark.parametrize(
    "flags,named",
    [
        (("--path", "model.pt"), "--data"),
        (("--directions", 0), "--directions 0"),
        (("--data", "nowhere", "--path", "nothing.pt"), "nothing.pt"),
    ],
)
def test_what_cannot_be_measured_is_refused(flags, named):
    assert named in refused(run("taskmoe", "bench", "evaluate", *flags, check=False))


@pytest.mark.slow
def test_on_real_pieces_both_say_the_same(corpus, train):
    made = Made(str(corpus.data), str(train("for-evaluate", "--max-update", 5)))
    report = bench_evaluate(made, ["en-de"], Search(beam=2, max_len_b=8, threads=1), repeats=1)
    assert report["hypotheses"] == 101 and report["different_hypotheses"] == 0
    assert report["ratio"] == report["generate"]["seconds"] / report["evaluate"]["seconds"]


@pytest.mark.slow
def test_random_models_translate_the_same(tmp_path):
    out = tmp_path / "report.json"
    printed = run(
        "taskmoe", "bench", "evaluate", "--directions", 2, "--sentences", 6, "--beam", 2,
        "--max-len-b", 6, "--threads", 1, "--out", out,
    ).stdout
    report = json.loads(out.read_text())
    assert report["hypotheses"] == 12 and report["different_hypotheses"] == 0
    assert report["distinct_hypotheses"] > 8  # or mixed-up sentences would not show
    assert report["words"] == 12 * 6  # nothing but the limit ends a translation
    assert report["settings"]["lang_pairs"] == ["cs-en", "de-en"]
    assert report["processes"] == {"evaluate": 1, "generate": 2}
    assert report["evaluate"]["seconds"] < report["generate"]["seconds"]
    assert report["evaluate"]["spread"] is None
    assert "taskmoe evaluate" in printed and "0 of 12 translations differ" in printed
