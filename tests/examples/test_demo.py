"""The demo: its corpus, its split, its limits and its output; once the whole, at a small size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # examples are not installed
    sys.path.insert(0, str(ROOT))

from examples.demo import deploy, prepare, report, stages  # noqa: E402
from examples.demo.split import Phrase, split_phrases  # noqa: E402


@pytest.fixture(scope="module")
def corpus():
    return prepare.read_corpus()


def test_the_corpus_is_what_its_builder_writes():
    from examples.demo.build_corpus import SEED, rows

    with_header = [list(prepare.COLUMNS), *rows(SEED)]
    assert prepare.corpus_text() == "".join("\t".join(r) + "\n" for r in with_header)


def test_no_held_out_text_is_in_the_training_data_of_any_language(corpus):
    split = split_phrases(corpus, **prepare.SPLIT)
    held_out = [*split.valid, *split.random, *split.composed]
    for language in prepare.LANGUAGES:
        trained = {phrase.texts[language] for phrase in split.train}
        assert not trained & {phrase.texts[language] for phrase in held_out}
    assert len(split.random) == len(split.composed) == prepare.SPLIT["num_test"]
    assert sum(map(len, split)) == len(corpus)


def test_weekdays_of_composed_dates_were_never_seen_in_their_month(corpus):
    """Read from the English text, not from the column that the split uses."""
    split = split_phrases(corpus, **prepare.SPLIT)

    def weekday_and_month(phrase):
        weekday, _, month, _ = phrase.texts["en"].split()
        return weekday, month

    def dates(phrases):
        return {weekday_and_month(p) for p in phrases if p.kind == "date" and p.combinations}

    assert dates(split.composed) and not dates(split.composed) & dates(split.train)


def test_members_of_composed_lists_were_never_seen_together(corpus):
    split = split_phrases(corpus, **prepare.SPLIT)

    def members(phrase):
        return set(phrase.texts["en"].replace(" and ", ", ").replace(" or ", ", ").split(", "))

    for kind in ("countries", "languages"):
        trained = [members(phrase) for phrase in split.train if phrase.kind == kind]
        for phrase in (one for one in split.composed if one.kind == kind):
            assert all(len(members(phrase) & other) < 2 for other in trained)


def test_composed_phrases_have_held_out_combinations_only():
    """Weekdays x months: a phrase with a held-out and another combination is dropped."""
    phrases = [
        Phrase("date", {f"day{d}+month{m}"}, {"en": f"{d} {m} {n}"})
        for d in range(7) for m in range(12) for n in range(3)
    ]
    phrases += [Phrase("list", {"day0+month0", f"x+{n}"}, {"en": f"list {n}"}) for n in range(9)]
    split = split_phrases(phrases, num_valid=5, num_test=10, seed=1)
    trained = set().union(*(phrase.combinations for phrase in split.train + split.valid))
    assert len(split.composed) == 10 and {p.kind for p in split.composed} == {"date", "list"}
    assert not any(phrase.combinations & trained for phrase in split.composed)
    assert split == split_phrases(phrases, num_valid=5, num_test=10, seed=1)


def row(part="random", kind="date", output="1 May", reference="1 May"):
    return report.Row(part, kind, "1. Mai", output, reference, "2 May")


def test_scores_are_of_each_part_and_count_exact_translations():
    rows = [row(), row(output="2 May"), row("composed"), row("composed")]
    scores = report.by_part("de-en", rows)
    assert scores["random"]["exact"] == 50 and scores["composed"]["exact"] == 100
    assert scores["composed"]["chrf"] == pytest.approx(100)
    assert scores["random"]["floor_copy_chrf"] < scores["random"]["floor_nearest_chrf"] < 100
    kinds = report.by_kind([*rows, row("composed", "money", "2 May")])
    assert kinds == {"date": {"random": 50, "composed": 100}, "money": {"composed": 0}}


@pytest.mark.parametrize("chrf, marked", [(60.0, False), (50.0, True), (40.0, True)])
def test_a_direction_that_is_not_above_both_floors_is_marked(tmp_path, chrf, marked):
    good = {"bleu": 70.0, "chrf": 80.0, "exact": 60.0, "floor_copy_chrf": 20.0,
            "floor_nearest_chrf": 50.0}
    both = {part: good for part in report.PARTS}
    directions = {"de-en": both, "en-de": {**both, "composed": {**good, "chrf": chrf}}}
    kinds = {"date": {"random": 50.0, "composed": 100.0}, "money": {"composed": 3.0}}
    text = json.dumps({"directions": directions, "kinds": kinds})
    (tmp_path / "parts.json").write_text(text, encoding="utf-8")
    lines = {line.split("  ")[0]: line for line in report.tables(tmp_path).splitlines()}
    assert ("*" in lines["en-de"]) == marked and "*" not in lines["de-en"]
    assert list(lines)[2:7] == ["de-en", "into English", "en-de", "out of English", "all"]
    assert lines["money"].split() == ["money", "-", "3", "%"]


@pytest.mark.parametrize(
    "changes, fails",
    [
        ({}, False),
        ({"subnet_hypotheses_different": 2, "of_which_ties": 2}, False),
        ({"subnet_hypotheses_different": 2, "of_which_ties": 1}, True),
        ({"subnet_max_abs_logprob_diff": 1e-3}, True),
        ({"subnet_max_abs_logprob_diff": float("nan")}, True),
    ],
)
def test_subnetworks_that_are_not_the_full_model_are_reported(changes, fails):
    facts = {"subnet_max_abs_logprob_diff": 1e-5, "subnet_hypotheses_different": 0,
             "of_which_ties": 0, **changes}
    assert bool(deploy.problem(facts)) == fails


def test_progress_without_a_terminal_is_a_line_with_the_time_left(capsys, monkeypatch):
    clock = iter([9.0, 14.0, 29.0])
    monkeypatch.setattr(stages.time, "monotonic", lambda: next(clock))
    shown = stages.Progress(200, "updates")
    for done in (100, 110, 140):  # resumed at 100
        shown.show(done, "loss 1.00")
    assert capsys.readouterr().out == "      140 of 200 updates, 30 s left, loss 1.00\n"


SMALL = """
from examples.demo import run, train
prepare, every = run.prepare, ",".join(run.prepare.DIRECTIONS)
prepare.PAIRS = ("en-de", "en-ru")
prepare.DIRECTIONS = train.DIRECTIONS = ("de-en", "ru-en", *prepare.PAIRS)
prepare.VOCAB_SIZE = 800
prepare.SPLIT.update(num_valid=8, num_test=8)
train.FLAGS = train.FLAGS.replace(every, ",".join(prepare.DIRECTIONS))
train.FLAGS = train.FLAGS.replace(str(train.MAX_UPDATE), "6").replace("interval 20", "interval 1")
train.MAX_UPDATE = 6
from examples.demo import report
report.SAMPLES = {"en-de": "date", "ru-en": "money"}
run.main()
"""


@pytest.mark.slow
def test_the_demo_runs_and_a_second_run_shows_the_same_without_work(tmp_path):
    command = [sys.executable, "-c", SMALL, "--out", tmp_path / "demo"]
    runs = [
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert not any("arning" in run.stderr for run in runs)
    first, second = (run.stdout for run in runs)
    for number in range(1, 8):
        assert f"[{number}/7] " in first
    assert first.count(": ") and second.count("done earlier") == 7
    assert first.partition("into English")[2] == second.partition("into English")[2]
    assert {"de-en", "ru-en", "en-de", "en-ru", "source", "reference", "int8"} <= set(first.split())
    out = tmp_path / "demo"
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    facts = json.loads((out / "demo.json").read_text(encoding="utf-8"))
    assert {"bleu", "chrf", "floor_copy_chrf", "floor_nearest_chrf"} <= set(
        results["directions"]["en-ru"]
    )
    assert facts["subnet_hypotheses"] == 4 * 8 and facts["subnet_max_abs_logprob_diff"] < 1e-4
    assert facts["params_subnet"] < facts["params_full"]
    for path in ("spm.model", "dict.txt", "data-bin", "results.md", "subnets/en-de/model.pt",
                 "int8/en/model.bin", "routing.png"):
        assert (out / path).exists()
