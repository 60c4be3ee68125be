"""Tables and figures of an experiment: the paper's numbers hold, ours are those of the results."""

import json
import re
import shutil
import statistics
import subprocess
import sys

import numpy as np
import pytest
import yaml
from console import ROOT
from fake_runs import (
    LANGUAGES,
    PAIRS,
    SIGNATURE,
    make_runs,
    row,
    save_results,
    score,
    throughput,
    write_json,
)
from hypothesis import given
from hypothesis import strategies as st

from fairseq_taskmoe.cli import Parser
from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.metrics.lang_pairs import is_english, split_pair
from fairseq_taskmoe.metrics.scoring import averages
from fairseq_taskmoe.tables.experiment import read_experiment
from fairseq_taskmoe.tables.figure3 import smooth
from fairseq_taskmoe.tables.paper import Paper
from fairseq_taskmoe.tables.table import Column, Note, SeedMean, Table, markdown, tsv
from fairseq_taskmoe.tables.table2 import share_of_gain
from fairseq_taskmoe.tables.table7_table8 import count_web, count_wmt
from fairseq_taskmoe.tables.tabulate import score_tables, write_tables
from fairseq_taskmoe.verbs import tabulate

PAPER = Paper()
MILLION = 10**6


@pytest.fixture
def runs(tmp_path):
    return make_runs(tmp_path / "runs")


@pytest.fixture
def tabulated(runs):
    """Give a function that returns a table of scores by its rows' names."""

    def tabulated(name, whose="ours"):
        tables = score_tables(read_experiment(str(runs)))
        table = next(t for many in tables.values() for t in many if t.name == name)
        first = table.columns[0].key
        return {r[first]: r for r in table.rows if r.get("whose", whose) == whose}

    return tabulated


@pytest.fixture
def verb(capsys):
    """Give a function that runs the verb: verb(*words) -> what it printed."""

    def verb(*words):
        parser = Parser(allow_abbrev=False)
        tabulate.add_arguments(parser)
        tabulate.run(parser.parse_args([str(word) for word in words]))
        return capsys.readouterr().out

    return verb


# table 1's bilingual row does not follow from table 4
@pytest.mark.parametrize("name", [name for name in PAPER.content["directions"]
                                  if name != "bilingual"])
def test_the_papers_means_follow_from_its_directions(name):
    scores = {pair: score(bleu) for pair, bleu in PAPER.directions(name).items()}
    assert len(scores) == 32
    means = averages(scores, PAPER.resources)
    assert means["high"]["directions"] == 18 and means["low"]["directions"] == 14
    printed = PAPER.row("table1", name)
    for group in ("all", "xx-en", "en-xx", "high", "low"):
        assert means[group]["bleu"] == pytest.approx(printed[group], abs=0.0501), group


def test_bilingual_means_are_those_of_the_footnote():
    scores = {pair: score(bleu) for pair, bleu in PAPER.directions("bilingual").items()}
    means = averages(scores)
    (note,) = [n.text for n in PAPER.notes("table1") if "bilingual" in n.rows]
    for group in ("xx-en", "en-xx"):
        assert f"{means[group]['bleu']:.2f}" in note


def test_table_2_of_the_paper_agrees_with_its_directions():
    for name, printed in PAPER.content["table2"]["average"].items():
        scores = PAPER.content["table2"]["rows"][name]
        assert statistics.fmean(scores) == pytest.approx(printed, abs=0.07)
        in_appendix = [PAPER.directions(name).get(p) for p in PAPER.content["table2"]["pairs"]]
        if name not in ("bilingual", "distilled"):  # a footnote, and no row of the appendix
            assert in_appendix == scores


def test_the_papers_student_is_no_row_of_its_table_1():
    average = PAPER.content["table2"]["average"]
    for name in ("distilled", "distilled_sequence"):
        assert PAPER.row("table1", name) == {}
        (note,) = [n.text for n in PAPER.notes("table1") if name in n.rows]
        assert f"{average['distilled']} over 8 directions" in note
        assert f"dense_base has {average['dense_base']}" in note


def test_table_9_of_the_paper_agrees_with_its_classes():
    for name in PAPER.content["table9"]["rows"]:
        printed = PAPER.row("table9", name)
        assert (printed["en-xx"] + printed["xx-en"]) / 2 == pytest.approx(printed["all"], abs=0.02)
        for side in ("en-xx", "xx-en"):
            classes = [printed[f"{side} {group}"] for group in ("high", "mid", "low")]
            mean = sum(n * x for n, x in zip((25, 52, 25), classes, strict=True)) / 102
            assert mean == pytest.approx(printed[side], abs=0.1)


def save_routing(folder, **layers):
    """Write a routing file: for each layer, by its name with __, rows of shares by direction."""
    (folder / "routing").mkdir(parents=True)
    np.savez(
        folder / "routing" / "routing.npz", lang_pairs=np.array(["de-en", "en-de"]),
        **{name.replace("__", "."): np.array(rows, dtype=float) for name, rows in layers.items()},
    )


def test_experts_used_are_shown_for_each_measured_row(runs):
    few, three, all_four = (
        [[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0]], [[0.5, 0.5, 0, 0], [0.5, 0, 0.5, 0]],
        [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]],
    )
    save_routing(
        runs / "token_target", encoder__layers__1=few, encoder__layers__3=three,
        decoder__layers__1=all_four, decoder__layers__3=all_four,
    )
    save_routing(runs / "token_target.seed2", encoder__layers__1=all_four)
    save_routing(runs / "target_token", decoder__layers__1=three)  # nothing else of it is there
    table = score_tables(read_experiment(str(runs)))["table1"][0]
    shown = {row["system"]: row["experts"] for row in table.rows}
    assert shown.pop("token_target") == "2.5 of 4 / 4 of 4"
    assert shown.pop("target_token") == "- / 3 of 4"
    assert set(shown.values()) == {None}
    assert "| 2.5 of 4 / 4 of 4 |" in markdown([table])
    assert "Experts used:" in markdown([table])


def test_a_damaged_routing_file_is_refused(runs):
    (runs / "token_target" / "routing").mkdir()
    (runs / "token_target" / "routing" / "routing.npz").write_bytes(b"no archive")
    with pytest.raises(Refusal, match="routing.npz is not a routing file"):
        read_experiment(str(runs))


def test_both_denominators_of_the_share_of_the_gain(tabulated):
    printed = tabulated("table2", "paper")
    task, teacher = (f"distilled: % of {whose} gain" for whose in ("task", "teacher"))
    assert printed[task]["average"] == pytest.approx(32.3, abs=0.05)
    assert printed[teacher]["average"] == pytest.approx(43.5, abs=0.05)
    # ours: 10.5 dense, 11.5 student, 15.25 task model, 13.5 teacher over de-en and ru-en
    ours = tabulated("table2")
    assert ours[task]["average"] == pytest.approx(100 * 1 / 4.75)
    assert ours[teacher]["average"] == pytest.approx(100 * 1 / 3)
    assert ours[teacher]["de-en"] == pytest.approx(100 * 1 / 3) and ours[teacher]["en-de"] is None
    assert ours["distilled_sequence"]["run"] == "not run"


def test_no_share_of_no_gain():
    assert share_of_gain(11, 10, 10) == share_of_gain(11, 10, 9) == "no gain"
    assert share_of_gain(9, 10, 12) == -50
    assert share_of_gain(None, 10, 12) is None


def test_no_gain_of_the_teacher_is_not_taken_for_a_missing_score(runs, tabulated):
    row(runs, "token_token", 9.5)  # half a point below the dense model
    ours = tabulated("table2")
    teacher, task = (ours[f"distilled: % of {whose} gain"] for whose in ("teacher", "task"))
    assert teacher["de-en"] == teacher["average"] == "no gain" and teacher["en-de"] is None
    assert task["average"] == pytest.approx(100 * 1 / 4.75)
    assert ours["distilled: over dense"]["average"] == pytest.approx(1.0)
    assert ours["distilled: over teacher"]["de-en"] == pytest.approx(1.5)
    assert ours["distilled: over teacher"].get("en-de") is None
    assert "- no gain: the task model" in markdown(
        score_tables(read_experiment(str(runs)))["table2"]
    )
    printed = tabulated("table2", "paper")
    assert printed["distilled: over teacher"]["average"] == pytest.approx(26.9 - 28.2)


def test_parameters_of_the_wmt_models():
    counts = count_wmt(PAPER)
    assert counts["token_token"]["total"] / MILLION == pytest.approx(533, abs=0.5)
    assert counts["dense_base"]["effective"] / MILLION == pytest.approx(142, abs=0.5)
    assert counts["target_target"]["effective"] / MILLION == pytest.approx(155, abs=0.5)
    for hybrid in ("pair_token", "target_token", "token_pair", "token_target"):
        biases = 3 * 2 * (2048 + 512)  # of the experts, which paper.md's 343M leaves out
        assert (counts[hybrid]["effective"] - biases) / MILLION == pytest.approx(343.5, abs=0.7)
        assert PAPER.row("table7", hybrid)["effective"] == 338
    for name in counts:
        for part, printed in PAPER.row("table7", name).items():
            if printed not in (None, 338):
                assert counts[name][part] / MILLION == pytest.approx(printed, abs=0.7), part


def test_parameters_of_the_web_scale_models():
    counts = count_web(PAPER)
    assert counts["dense_big"]["total"] / MILLION == pytest.approx(473, abs=0.8)
    assert counts["token_token"]["total"] / 1e9 == pytest.approx(13.3, abs=0.05)
    assert counts["token_target"]["effective_decoder"] / MILLION == pytest.approx(201, abs=0.6)
    reduction = (
        counts["token_token"]["decoder"] / counts["token_target"]["effective_decoder"]
    )
    assert reduction == pytest.approx(32.5, abs=0.05)


def test_systems_are_those_of_the_configs():
    files = sorted((ROOT / "configs").glob("*.yaml"))
    assert {file.stem for file in files} <= set(PAPER.systems)
    for file in files:
        model = yaml.safe_load(file.read_text(encoding="utf-8")).get("model", {})
        system = PAPER.systems[file.stem]
        assert model.get("encoder_moe_router", "dense") == system.encoder, file
        assert model.get("decoder_moe_router", "dense") == system.decoder, file


def test_grid_has_means_over_all_directions_beside_the_papers(tabulated):
    table = tabulated("table1")
    dense = table["dense_base"]
    assert dense["all"].mean == statistics.fmean(range(10, 17))  # zero-shot de-ru included
    assert dense["xx-en"].mean == 11 and dense["en-xx"].mean == 14
    # de and ru both ways, and de-ru, whose languages share a class
    assert dense["high"].mean == statistics.fmean([10, 11, 13, 14, 16])
    assert dense["low"].mean == statistics.fmean([12, 15])
    assert dense["paper_all"] == 20.0 and dense["run"] == "7 directions"


def test_floors_stand_beside_the_scores(tabulated):
    dense = tabulated("table1-chrf")["dense_base"]
    assert dense["chrf all"].mean == 33 and dense["chrfpp all"].mean == 31
    assert (dense["floor_copy_chrf all"].mean, dense["floor_nearest_chrf all"].mean) == (10, 15)


def test_zero_shot_directions_have_no_nearest_floor_and_the_others_keep_theirs(runs, tabulated):
    scores = {pair: score(10.0) for pair in PAIRS}
    scores["de-ru"] = {**scores["de-ru"], "floor_nearest_chrf": None}
    save_results(runs / "dense_base", scores)
    dense = tabulated("table1-chrf")["dense_base"]
    assert dense["floor_nearest_chrf all"] is None
    for side in ("xx-en", "en-xx"):
        assert dense[f"floor_nearest_chrf {side}"].mean == 15
        assert dense[f"chrf {side}"].mean == 30


def test_floors_depend_only_on_the_data_and_need_one_seed(runs, tabulated):
    row(runs, "dense_base.seed2", 12.0)
    results = runs / "dense_base.seed2" / "evaluation" / "results.json"
    content = json.loads(results.read_text())
    for scored in content["directions"].values():
        scored.update(floor_copy_chrf=None, floor_nearest_chrf=None)
    write_json(results, content)
    dense = tabulated("table1-chrf")["dense_base"]
    assert dense["chrf all"].seeds == 2
    assert dense["floor_copy_chrf all"] == SeedMean(10, None, 1)


def test_zero_shot_directions_are_in_no_share_of_the_gain(runs, tabulated):
    shutil.rmtree(runs / "bilingual")  # which has none
    before = tabulated("table2")
    row(runs, "distilled", 11.0, [*PAIRS[:2], "de-ru"])
    after = tabulated("table2")
    assert after == before and after["distilled"]["average"].mean == 11.5


def test_rows_without_results_are_marked_not_run(tabulated):
    for name in ("table1", "table5", "table6", "table9"):
        assert tabulated(name)["dense_big"]["run"] == "not run"
        assert tabulated(name)["dense_big"].get("all") is None
    assert tabulated("table1")["distilled"]["run"] == "2 of 7 directions"
    assert tabulated("table5")["distilled"]["run"] == "2 of 3 directions"
    assert tabulated("table6")["distilled"]["run"] == "not run"
    assert tabulated("table5-zero-shot")["de-ru"]["distilled"] == "not run"


def test_planned_directions_are_those_of_all_languages(runs, tabulated):
    more = {**LANGUAGES, "fi": {"train_pairs": 5, "class": "low"}}
    write_json(runs / "languages.yaml", more)  # JSON is YAML
    assert tabulated("table1")["dense_base"]["run"] == "7 of 9 directions"


def test_rows_of_few_directions_are_compared_over_what_all_have(tabulated):
    common = tabulated("table1-common")
    assert [common[name]["all"].mean for name in ("bilingual", "dense_base", "distilled")] == [
        5.5, 10.5, 11.5
    ]


@pytest.mark.parametrize("more", [[], [12.0], [12.0, 20.5, 3.25]])
def test_spread_over_seeds(runs, tabulated, more):
    for number, first in enumerate(more, start=3):
        row(runs, f"token_target.seed{number}", first)
    firsts = [14.0, 15.5, *more]
    offsets = {
        ("table1", "all"): 3, ("table5", "ru"): 1, ("table6", "no"): 5,
        ("table9", "xx-en high"): 0.5,
    }
    for (table, column), offset in offsets.items():
        cell = tabulated(table)["token_target"][column]
        assert cell.mean == pytest.approx(statistics.mean(firsts) + offset)
        assert cell.stdev == pytest.approx(statistics.stdev(firsts))
        assert cell.seeds == len(firsts)
    assert tabulated("table1")["token_target"]["run"] == f"7 directions, {len(firsts)} seeds"


def test_every_score_of_several_seeds_has_its_deviation(runs):
    bilingual = runs / "bilingual.seed2"
    for i, pair in enumerate(PAIRS[:6]):
        save_results(bilingual / pair, {pair: score(6.0 + i)})
    names = set()
    for tables in score_tables(read_experiment(str(runs))).values():
        for table in tables:
            lines = markdown([table]).splitlines()[4:]
            for cells, line in zip(table.rows, lines, strict=False):
                own = cells.get("whose", "ours") == "ours"
                if cells.get("system") in ("token_target", "bilingual") and own:
                    scores = [
                        cells.get(column.key) for column in table.columns
                        if isinstance(cells.get(column.key), SeedMean) and "floor" not in column.key
                    ]
                    assert all(cell.stdev > 0 and cell.seeds == 2 for cell in scores)
                    assert line.count(" ± ") == len(scores) > 0, line
                    names.add(table.name)
    assert names == {"table1", "table1-chrf", "table1-common", "table2", "table2-chrfpp", "table5",
                    "table5-chrfpp", "table6", "table6-chrfpp", "table9", "table9-chrfpp"}


def test_seeds_of_different_directions_are_averaged_over_what_they_share(runs, tabulated):
    row(runs, "token_token.seed2", 13.0, PAIRS[:3])
    grid = tabulated("table1")["token_token"]
    assert grid["all"] == SeedMean(14.0, 0.0, 2) and grid["run"] == "3 of 7 directions, 2 seeds"


def test_direction_tables_hold_every_score(tabulated):
    into, out_of = tabulated("table5"), tabulated("table6")
    for name, first in (("bilingual", 5.0), ("dense_base", 10.0), ("token_token", 13.0)):
        for i, pair in enumerate(PAIRS[:6]):
            source, target = split_pair(pair)
            table, language = (into, source) if is_english(target) else (out_of, target)
            assert table[name][language].mean == first + i
    assert tabulated("table5", "paper")["token_target"]["gu"] == 9.0
    assert tabulated("table6", "paper")["token_target"]["gu"] == 5.7
    assert tabulated("table4")["xx→en"]["ru"].mean == 6.0
    assert tabulated("table5-chrfpp")["dense_base"]["de"].mean == 28.0
    assert tabulated("table5-zero-shot", "paper")["fr-de"]["token_target"] == 22.4


def test_significance_is_shown_where_it_was_tested(runs, tabulated):
    tests = {pair: {"delta_bleu": 2.0 - i, "p": 0.01 if i != 1 else 0.3}
             for i, pair in enumerate(PAIRS[:4])}
    write_json(runs / "significance.json", {"baseline": "dense_base", "rows": {"distilled": tests}})
    grid = tabulated("table1")
    assert grid["distilled"]["significance"] == "+0.5; 1 better, 1 worse of 4"
    assert grid["dense_base"]["significance"] == "baseline"
    assert tabulated("table5-significance")["distilled"]["ru"] == "+1.0 (p 0.300)"


def test_every_tested_seed_is_a_row_named_by_its_seed(runs, tabulated):
    test = {"de-en": {"delta_bleu": 1.0, "p": 0.01}}
    tested = dict.fromkeys(
        ["dense_base.seed2", "my_own", "token_target.seed10", "token_target.seed2", "token_target"],
        test,
    )
    write_json(runs / "significance.json", {"baseline": "dense_base", "rows": tested})
    assert list(tabulated("table5-significance")) == [
        "dense_base, seed 2", "token_target", "token_target, seed 2", "token_target, seed 10",
        "my_own",
    ]
    tables = score_tables(read_experiment(str(runs)))
    assert "Only the first seed of a row" in markdown(tables["table1"])
    assert "one training run with one run" in markdown(tables["table5"])


def test_mixed_signatures_are_warned_about(runs):
    save_results(runs / "pair_pair", {"en-de": score(9.0, SIGNATURE.replace("13a", "intl"))})
    tables = score_tables(read_experiment(str(runs)))
    for name, warned in (("table1", True), ("table6", True), ("table5", False)):
        assert ("**Warning**: en-de" in markdown(tables[name])) == warned


def test_rows_of_different_searches_are_warned_about(runs):
    def save(name, pair, **search):
        folder = runs / name
        save_results(folder, {pair: score(9.0)})
        content = json.loads((folder / "evaluation/results.json").read_text())
        write_json(folder / "evaluation/results.json", {**content, "config": search})

    shutil.rmtree(runs)
    known = {"gen_subset": "test", "beam": 4, "lenpen": 1.0, "max_len_a": 0, "max_len_b": 200}
    save("dense_base", "en-de", **known)
    save("pair_pair", "en-de", **known)
    save("bilingual/de-en", "de-en", **{**known, "max_len_b": 20})
    before = score_tables(read_experiment(str(runs)))
    assert "**Warning**" not in markdown(before["table6"] + before["table5"])
    assert "max_len_b 20 (bilingual), 200 (dense_base, pair_pair)" in markdown(before["table1"])
    save("pair_pair", "en-de", **{**known, "beam": 5, "lenpen": 0.6})
    tables = score_tables(read_experiment(str(runs)))
    assert ("- **Warning**: rows were translated by different searches, their scores are not "
            "comparable: beam 4 (dense_base), 5 (pair_pair); "
            "lenpen 1 (dense_base), 0.6 (pair_pair)\n"
            ) in markdown(tables["table6"])
    assert "**Warning**" not in markdown(tables["table5"])


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=20), st.integers(1, 25))
def test_trend_is_the_mean_of_neighbours(values, window):
    trend = smooth(values, window)
    assert len(trend) == len(values)
    for i, mean in enumerate(trend):
        near = [x for j, x in enumerate(values) if -((window - 1) // 2) <= j - i <= window // 2]
        assert mean == pytest.approx(statistics.fmean(near), abs=1e-9)


def test_footnotes_mark_the_papers_rows_only():
    rows = [{"system": "a", "whose": whose, "x": 1.25} for whose in ("ours", "paper")]
    columns = [Column("system", "system"), Column("whose", "whose"), Column("x", "x|y", 2)]
    table = Table("table1", "A table", columns, rows, [Note("for all"), Note("for a", ["a"])])
    lines = markdown([table]).splitlines()
    assert lines[0] == "# A table"
    assert lines[3:6] == ["| --- | --- | ---: |", "| a | ours | 1.25 |", "| a [1] | paper | 1.25 |"]
    assert lines[7:] == ["- [1] for a", "- for all"]


def test_tsv_has_a_column_for_the_spread():
    rows = [{"system": "a", "x": SeedMean(1.25, 0.5, 2)}, {"system": "b", "x": 1000.0}]
    table = Table("table1", "A table", [Column("system", "system"), Column("x", "x")], rows)
    assert tsv(table) == "system\tx\tx stdev\na\t1.25\t0.50\nb\t1000.00\t\n"


@pytest.mark.slow
def test_everything_is_written_and_always_the_same(runs, tmp_path, verb):
    write_json(runs / "throughput.json", throughput({"dense": [1, 3], "token_token": [2, 0]}))
    counts = ("total", "effective", "total_shared", "effective_shared")
    for name in ("dense_base", "token_target.seed2"):
        write_json(runs / name / "params.json", dict.fromkeys(counts, 2500000))
    printed = verb(runs, "--out", tmp_path / "one")
    verb(runs, "--out", tmp_path / "two")
    written = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    names = {f"table{n}.{kind}" for n in (1, 2, 4, 5, 6, 7, 8, 9) for kind in ("md", "tsv")}
    names |= {"tables.json", "figure3.png", "figure3.pdf", "figure3.tsv"}
    names |= {"figure2.png", "figure2.md", "figure2.tsv", "figure2-paper.tsv"}
    assert names <= set(written)
    assert "figure4: not run" in printed
    content = json.loads(written["tables.json"])
    dense = next(r for r in content["tables"]["table1"]["rows"] if r["system"] == "dense_base")
    assert dense["all"] == {"mean": 13.0, "stdev": None, "seeds": 1}
    own = {r["system"]: r for r in content["tables"]["table7-own"]["rows"]}
    assert own["dense_base"]["total"] == 2.5 and own["dense_big"]["run"] == "not run"
    assert "token_target.seed2" not in own
    assert b"prints 338M" in written["table7.md"] and b"= 32.5" in written["table8.md"]


def test_without_matplotlib_figures_are_their_points(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # what a missing package looks like
    lines = write_tables(read_experiment(str(runs)), str(tmp_path / "out"), ["json"], 3, False)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"figure3.tsv", "tables.json"}
    assert "matplotlib is missing" in lines[1]


def test_tables_are_replaced_only_when_asked_and_only_tables(runs, tmp_path, verb):
    out = tmp_path / "out"
    write_tables(read_experiment(str(runs)), str(out), ["md", "tsv"], 3, False)
    before = (out / "table1.md").read_bytes()
    row(runs, "dense_big", 20.0)
    with pytest.raises(Refusal, match="exists"):
        verb(runs, "--out", out)
    assert (out / "table1.md").read_bytes() == before
    (out / "my notes.txt").write_text("mine")
    with pytest.raises(Refusal, match="contains my notes.txt"):
        verb(runs, "--out", out, "--overwrite")
    assert (out / "table1.md").read_bytes() == before
    (out / "my notes.txt").unlink()
    verb(runs, "--out", out, "--overwrite", "--formats", "md")
    assert b"| dense_big [2] | dense Big | 7 directions |" in (out / "table1.md").read_bytes()
    assert not (out / "table1.tsv").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def broken(runs, name, text):
    (runs / name).parent.mkdir(parents=True, exist_ok=True)
    (runs / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("pair_pair/evaluation/results.json", "{", r"pair_pair/evaluation/results\.json is not"),
        ("pair_pair/params.json", "{}", r"pair_pair/params\.json: not written by taskmoe params"),
        ("throughput.json", '{"rows": [{}]}', r"throughput\.json: not written by taskmoe bench"),
        ("significance.json", "[1]", r"significance\.json: expected a baseline"),
        ("significance.json", "?", r"significance\.json: not JSON"),
        ("languages.yaml", "de: {train_pairs: 1, class: high}", r"languages\.yaml: no entry for"),
        ("languages.yaml", "de: {train_pairs: x, class: a}", r"languages\.yaml: de: train_pairs"),
        ("languages.yaml", "de: {train_pairs: 1, class: all}", r"languages\.yaml: de: class"),
        ("languages.yaml", "[", r"languages\.yaml: while parsing"),
        ("languages.yaml", "- de", r"languages\.yaml: write"),
    ],
)
def test_broken_files_are_named(runs, tmp_path, verb, name, text, message):
    broken(runs, name, text)
    with pytest.raises(Refusal, match=message):
        verb(runs, "--out", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_what_cannot_be_tabulated_is_refused(runs, tmp_path, verb):
    out = ("--out", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refusal, match="nowhere: no such folder"):
        verb(tmp_path / "nowhere", *out)
    with pytest.raises(Refusal, match="empty: no results"):
        verb(tmp_path / "empty", *out)
    with pytest.raises(Refusal, match="'pdf' is none of md, tex, tsv, json"):
        verb(runs, *out, "--formats", "md,pdf")
    with pytest.raises(Refusal, match="--window 0"):
        verb(runs, *out, "--window", "0")
    with pytest.raises(Refusal, match=re.escape("cannot read")):
        verb(runs, *out, "--languages", tmp_path / "none.yaml")
    save_results(runs / "bilingual" / "again", {"de-en": score(1.0)})
    with pytest.raises(Refusal, match="two of its results have scores for de-en"):
        verb(runs, *out)
    assert not (tmp_path / "out").exists()


def test_scores_are_tabulated_without_torch(runs):
    # the command's name keeps the package from registering itself with fairseq
    program = (
        "import sys; sys.argv[0] = 'taskmoe'\n"
        "from fairseq_taskmoe.tables import experiment, tabulate\n"
        f"tabulate.score_tables(experiment.read_experiment({str(runs)!r}))\n"
        "print([name for name in ('torch', 'fairseq') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
