"""`taskmoe compare`: sacrebleu's paired bootstrap on evaluation folders, and what it refuses."""

import json
import random
import re
from statistics import fmean

import pytest
from console import refused, run
from sacrebleu.metrics import BLEU

from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.evaluation.folder import EvaluationFolder, write_lines
from fairseq_taskmoe.evaluation.results import Results
from fairseq_taskmoe.evaluation.significance import compare_systems, comparison_table
from fairseq_taskmoe.evaluation.significance_inputs import SEARCH
from fairseq_taskmoe.evaluation.translate import Search
from fairseq_taskmoe.metrics.scoring import score_direction

WORDS = "the red house of my old friend stands near a quiet river in spring".split()


def sentences(number, seed):
    draw = random.Random(seed)
    return [" ".join(draw.sample(WORDS, 8)) for _ in range(number)]


def damaged(lines, share, seed):
    """Return lines with a share of them replaced by others."""
    draw = random.Random(seed)
    return [draw.choice(WORDS) + " x y z" if draw.random() < share else line for line in lines]


REFERENCES = sentences(120, seed=1)
WORSE, BETTER = damaged(REFERENCES, 0.5, 2), damaged(REFERENCES, 0.2, 3)


def write_evaluation(runs, row, hypotheses, references=REFERENCES, pairs=("en-de",), **config):
    """Write an evaluation as `taskmoe evaluate` does, all pairs with the same translations."""
    out = runs / row / "evaluation"
    folder = EvaluationFolder(out, "test")
    for pair in pairs:
        write_lines(folder.hypotheses(pair), hypotheses)
        write_lines(folder.references(pair), references)
    scores = {pair: score_direction(pair, hypotheses, references) for pair in pairs}
    Results.collect({"gen_subset": "test", "tokenize": None, **config}, scores).save(out)
    return str(out)


def test_a_better_system_is_found_and_an_equal_one_is_not(tmp_path):
    base = write_evaluation(tmp_path, "dense", WORSE)
    better = write_evaluation(tmp_path, "moe", BETTER)
    same = write_evaluation(tmp_path, "copy", WORSE)
    report = compare_systems(base, [better, same], samples=200)
    assert (report["baseline"], report["metric"], set(report["rows"])) == (
        "dense", "bleu", {"moe", "copy"}
    )
    found, equal = report["rows"]["moe"]["en-de"], report["rows"]["copy"]["en-de"]
    assert found["score"] == BLEU().corpus_score(BETTER, [REFERENCES]).score
    assert found["baseline"] == BLEU().corpus_score(WORSE, [REFERENCES]).score
    assert found["delta"] == found["delta_bleu"] == found["score"] - found["baseline"] > 10
    assert found["p"] < 0.01
    assert (equal["delta"], equal["p"]) == (0, 1)
    assert "|bs:200|seed:12345|" in report["signature"]["en-de"]


def test_the_seed_draws_the_samples(tmp_path, monkeypatch):
    monkeypatch.delenv("SACREBLEU_SEED", raising=False)
    base = write_evaluation(tmp_path, "dense", WORSE)
    other = write_evaluation(tmp_path, "other", damaged(REFERENCES, 0.43, 4))
    p = [
        compare_systems(base, [other], samples=100, seed=seed)["rows"]["other"]["en-de"]["p"]
        for seed in (1, 1, 2, 3)
    ]
    assert p[0] == p[1] and len(set(p)) > 1


def test_each_metric_is_compared_beside_the_difference_in_bleu(tmp_path):
    base = write_evaluation(tmp_path, "dense", WORSE)
    other = write_evaluation(tmp_path, "moe", BETTER)
    reports = {
        name: compare_systems(base, [other], name, samples=20)
        for name in ("bleu", "chrf", "chrfpp")
    }
    tests = {name: report["rows"]["moe"]["en-de"] for name, report in reports.items()}
    expected = score_direction("en-de", BETTER, REFERENCES)
    for name, test in tests.items():
        assert test["score"] == expected[name]
        assert test["delta_bleu"] == tests["bleu"]["delta"]
    assert "|nw:2|" in reports["chrfpp"]["signature"]["en-de"]


def test_a_system_is_compared_in_the_directions_that_it_has(tmp_path):
    base = write_evaluation(tmp_path, "dense", WORSE, pairs=["en-de", "en-zh"])
    one = write_evaluation(tmp_path, "one", BETTER, pairs=["en-zh"])
    two = write_evaluation(tmp_path, "two", BETTER, pairs=["en-de", "en-zh", "en-ru"])
    report = compare_systems(base, [one, two], samples=20)
    assert {row: list(tests) for row, tests in report["rows"].items()} == {
        "one": ["en-zh"], "two": ["en-de", "en-zh"]
    }
    assert "tok:zh" in report["signature"]["en-zh"] and "tok:13a" in report["signature"]["en-de"]
    table = comparison_table(report).splitlines()
    assert table[0].split() == ["bleu", "dense", "one", "two"]
    assert table[1].split()[2] == "-"
    deltas = {row: [test["delta"] for test in tests.values()]
              for row, tests in report["rows"].items()}
    assert re.fullmatch(r"[+-][\d.]+ \(p 0\.\d{3}\)", re.split(r" {2,}", table[2])[2])
    assert table[-3].split()[2:] == [f"{fmean(values):+.2f}" for values in deltas.values()]
    assert re.split(r" {2,}", table[-2]) == ["better, p < 0.05", "1 of 1", "2 of 2"]
    assert re.split(r" {2,}", table[-1]) == ["worse, p < 0.05", "0 of 1", "0 of 2"]


def test_the_verb_writes_a_file_and_prints_the_table(tmp_path):
    base = write_evaluation(tmp_path, "dense", WORSE)
    other = write_evaluation(tmp_path, "moe", BETTER)
    out = tmp_path / "significance.json"
    ended = run("taskmoe", "compare", base, base, other, "--out", out, "--samples", 20)
    assert json.loads(out.read_text()) == compare_systems(base, [other], samples=20)
    assert ended.stdout.splitlines()[-2].endswith("1 of 1")


def test_models_for_a_direction_each_are_one_system(tmp_path):
    pairs = ["en-de", "en-fr"]
    base = write_evaluation(tmp_path, "dense", WORSE, pairs=pairs)
    write_evaluation(tmp_path / "bilingual", "en-de", BETTER)
    write_evaluation(tmp_path / "bilingual", "en-fr", WORSE, pairs=["en-fr"])
    report = compare_systems(base, [str(tmp_path / "bilingual")], samples=20)
    whole = write_evaluation(tmp_path / "both", "bilingual", BETTER, pairs=pairs)
    expected = compare_systems(base, [whole], samples=20)["rows"]["bilingual"]["en-de"]
    assert list(report["rows"]) == ["bilingual"]
    tests = report["rows"]["bilingual"]
    assert tests["en-de"] == expected and tests["en-fr"]["delta"] == 0
    as_baseline = compare_systems(str(tmp_path / "bilingual"), [base], samples=20)
    assert as_baseline["rows"]["dense"]["en-de"]["delta"] == -expected["delta"]
    write_evaluation(tmp_path / "bilingual", "again", BETTER)
    with pytest.raises(Refusal, match="evaluations have results for en-de: .*again.*en-de"):
        compare_systems(base, [str(tmp_path / "bilingual")], samples=20)


def test_all_that_decides_on_a_search_is_compared():
    assert SEARCH == ("gen_subset", *Search._fields)


@pytest.mark.parametrize("setting", SEARCH)
def test_translations_of_another_search_are_refused(tmp_path, setting):
    search = {"gen_subset": "test", **Search()._asdict()}
    base = write_evaluation(tmp_path, "dense", WORSE, **search)
    other = write_evaluation(tmp_path, "moe", BETTER, **search)
    compare_systems(base, [other], samples=20)
    results = tmp_path / "moe" / "evaluation" / "results.json"
    content = json.loads(results.read_text())
    content["config"][setting] = "valid" if setting == "gen_subset" else 7
    results.write_text(json.dumps(content))
    for kind in ("hypotheses", "references"):
        text = tmp_path / "moe" / "evaluation" / kind / "test.en-de.de"
        text.with_name("valid.en-de.de").write_text(text.read_text())
    ended = run("taskmoe", "compare", base, other, "--out", tmp_path / "c.json", check=False)
    line = refused(ended)
    assert base in line and other in line and f"{setting} {content['config'][setting]}" in line
    content["config"].update({**search, "beam": None})
    results.write_text(json.dumps(content))
    with pytest.raises(Refusal, match=r"with beam 5, .*moe/evaluation with beam unknown"):
        compare_systems(base, [other], samples=20)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(references=[*REFERENCES[:7], "another", *REFERENCES[8:]]),
         "differ from line 8 on; .* the same --references DIR"),
        (dict(references=REFERENCES[:-1], hypotheses=BETTER[:-1]), "differ from line 120 on"),
        (dict(pairs=["en-fr"]), "no common direction"),
        (dict(gen_subset=None), "gen_subset"),
        (dict(row="dense.seed2/x/dense"), "two of the folders belong to a row dense"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, change, message):
    base = write_evaluation(tmp_path, "dense", WORSE)
    other = write_evaluation(tmp_path, **{"row": "moe", "hypotheses": BETTER, **change})
    with pytest.raises(Refusal, match=message):
        compare_systems(base, [other], samples=20)


def test_a_folder_without_references_is_refused_by_name(tmp_path):
    base = write_evaluation(tmp_path, "dense", WORSE)
    other = write_evaluation(tmp_path, "moe", BETTER)
    (tmp_path / "moe/evaluation/references/test.en-de.de").unlink()
    ended = run("taskmoe", "compare", base, other, "--out", tmp_path / "c.json", check=False)
    assert "moe/evaluation/references/test.en-de.de" in refused(ended)
    assert not (tmp_path / "c.json").exists()


def test_translations_that_were_cut_off_are_refused(tmp_path):
    base = write_evaluation(tmp_path, "dense", WORSE)
    other = write_evaluation(tmp_path, "moe", BETTER)
    write_lines(tmp_path / "moe/evaluation/hypotheses/test.en-de.de", BETTER[:100])
    with pytest.raises(Refusal, match="100 lines for 120 references"):
        compare_systems(base, [other], samples=20)


@pytest.mark.parametrize(
    "words, named",
    [
        (("--seed", 0), "--seed 0"),
        (("--samples", 0), "--samples 0"),
        (("--out", "/nowhere/c.json"), "/nowhere"),
    ],
)
def test_mistakes_are_refused_in_one_line(tmp_path, words, named):
    base = write_evaluation(tmp_path, "dense", WORSE)
    other = write_evaluation(tmp_path, "moe", BETTER)
    ended = run("taskmoe", "compare", base, other, "--out", tmp_path / "c.json", *words,
                check=False)
    assert named in refused(ended)
