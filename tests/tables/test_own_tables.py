"""`taskmoe tabulate --only-run`: tables of anybody's systems, of the languages that are there."""

import csv
import json
import shutil
import subprocess

import pytest
from console import refused, run
from fake_runs import make_runs, save_results, score, write_json

PAIRS = ("en-pt_BR", "pt_BR-en", "sw-fr")
FIRST, SECOND = (20.0, 30.0, 10.0), (20.01, 28.0, 13.0)


@pytest.fixture
def systems(tmp_path):
    """Two evaluations, and the report that compares them."""
    for name, scores in (("dense", FIRST), ("task_moe", SECOND)):
        save_results(tmp_path / name, {
            pair: score(bleu) for pair, bleu in zip(PAIRS, scores, strict=True)})
    tests = {pair: {"delta_bleu": other - one, "p": p} for pair, one, other, p in zip(
        PAIRS, FIRST, SECOND, (0.9, 0.04, 0.2), strict=True)}
    write_json(tmp_path / "significance.json",
               {"baseline": "dense", "metric": "bleu", "rows": {"task_moe": tests}})
    return [tmp_path / name / "evaluation" for name in ("dense", "task_moe")]


def tabulate(systems, out, *flags):
    run("taskmoe", "tabulate", *systems, "--only-run", "--out", out, *flags)
    return {file.name: file.read_text(encoding="utf-8") for file in out.iterdir()}


def cells(markdown):
    table = [line for line in markdown.split("\n\n")[1].splitlines()]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_the_best_is_bold_and_what_differs_significantly_has_a_star(systems, tmp_path):
    said = tabulate(systems, tmp_path / "out", "--significance", tmp_path / "significance.json")
    assert not any(name.startswith(("table1", "figure")) for name in said)
    assert "paper" not in "".join(said.values())
    header, _, *rows = cells(said["directions.md"])
    assert header == ["direction", "dense", "task_moe"]
    assert rows == [  # 20.0 and 20.01 are shown alike: neither is better
        ["en-pt_BR", "20.0", "20.0"],
        ["pt_BR-en", "**30.0**", "28.0*"],
        ["sw-fr", "10.0", "**13.0**"],
        ["average of 3", "20.0", "**20.3**"],
    ]
    assert "differs from dense" in said["directions.md"]
    (header, _, *rows) = cells(said["systems.md"])
    assert header[:5] == ["system", "run", "BLEU average", "BLEU xx→en", "BLEU en→xx"]
    assert [row[3] for row in rows] == ["**30.0**", "28.0"]
    numbers = list(csv.reader(said["directions-bleu.tsv"].splitlines(), delimiter="\t"))
    assert numbers[2] == ["pt_BR-en", "30.00", "28.00"]
    assert json.loads(said["tables.json"])["tables"]["directions-bleu"]["rows"][2]["dense"][
        "mean"] == 10.0


def test_a_bar_in_the_name_of_a_system_makes_no_column(systems, tmp_path):
    save_results(tmp_path / "a|b", {PAIRS[0]: score(1.0)})
    said = tabulate([systems[0], tmp_path / "a|b" / "evaluation"], tmp_path / "out")
    assert "| direction | dense | a\\|b |" in said["directions.md"]


def test_latex_has_booktabs_rules_and_is_escaped(systems, tmp_path):
    said = tabulate(systems, tmp_path / "out", "--formats", "tex", "--significance",
                    tmp_path / "significance.json")
    assert set(said) == {"systems.tex", "directions.tex"}
    assert "pt\\_BR-en & \\textbf{30.0} & 28.0* \\\\" in said["directions.tex"]
    for text in said.values():
        assert text.count("\\toprule") == text.count("\\midrule") == text.count("\\bottomrule") > 0
        assert text.count("{") == text.count("}") and "**" not in text and "`" not in text
    if shutil.which("pdflatex"):
        head = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
        document = head + "".join(said.values()) + "\\end{document}"
        (tmp_path / "t.tex").write_text(document, encoding="utf-8")
        subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True)


def test_an_experiments_folder_is_tabulated_without_the_paper_too(tmp_path):
    said = tabulate([make_runs(tmp_path / "runs")], tmp_path / "out", "--formats", "md")
    header, _, *rows = cells(said["systems.md"])
    assert [row[0] for row in rows] == [
        "bilingual", "dense_base", "distilled", "token_target", "token_token"]
    assert any("±" in cell for cell in rows[3])  # two seeds


@pytest.mark.parametrize("words, named", [
    (("dense", "dense"), "a second system dense"),
    (("dense", "nothing"), "nothing/evaluation/results.json"),
    (("dense", "task_moe", "--significance", "no.json"), "--significance no.json: no such file"),
    (("dense", "--formats", "html"), "'html' is none of md, tex, tsv, json"),
    (("dense", "direction"), "a system named `direction`"),
    (("dense", "task_moe", "--significance", "text.json"), "text.json: expected a baseline"),
])
def test_mistakes_are_refused(words, named, systems, tmp_path):
    save_results(tmp_path / "direction", {PAIRS[0]: score(1.0)})
    write_json(tmp_path / "text.json", {
        "baseline": "dense", "rows": {"task_moe": {PAIRS[0]: {"delta_bleu": "1", "p": "0.01"}}}})
    words = [f"{word}/evaluation" if word in ("dense", "task_moe", "nothing", "direction") else word
             for word in words]
    ended = run("taskmoe", "tabulate", *words, "--only-run", "--out", "out", cwd=tmp_path,
                check=False)
    assert named in refused(ended)
    assert not (tmp_path / "out").exists()
    two = run("taskmoe", "tabulate", *systems, "--out", tmp_path / "out", check=False)
    assert "--only-run" in refused(two)
