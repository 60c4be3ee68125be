"""All experiments by one command, in a size that takes minutes on a CPU: from text to results.md.

`make test-all` runs them.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from console import ROOT

RUN_ALL = "examples/software15/run_all.sh"
SUBSET = ["dense_base", "target_target"]
ROWS = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
DENSE = {"dense_base", "dense_big", "dense_equal", "bilingual", "distilled", "distilled_sequence"}
DIRECTIONS = ["en-de", "de-en", "en-ru", "ru-en"]
ZERO_SHOT = ["de-ru", "ru-de"]


def environment(runs, rows, **more):
    folder = str(Path(sys.executable).parent)
    return {
        **os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "RUNS": str(runs),
        "ROWS": " ".join(rows), "OMP_NUM_THREADS": "1", **more,
    }


def run_all(runs, rows, size="smoke", **more):
    return subprocess.run(
        [RUN_ALL, size], cwd=ROOT, env=environment(runs, rows, **more), text=True,
        capture_output=True,
    )


def kill_at(runs, rows, text):
    """Start the recipe, and kill it with its child processes when it prints a text."""
    process = subprocess.Popen(
        [RUN_ALL, "smoke"], cwd=ROOT, env=environment(runs, rows), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )
    for line in process.stdout:
        if text in line:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL


def rows_of(results):
    """Return the cells of the first table of results.md, by row."""
    table = results.split("## Rows")[1].split("\n\n")[1].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[2:]}


def check_rows(runs, rows):
    table = rows_of((runs / "results.md").read_text(encoding="utf-8"))
    assert sorted(table) == ROWS
    assert [row for row in ROWS if table[row]["BLEU, ours"] != "not run"] == sorted(rows)
    for row in rows:
        if row == "bilingual":
            files = [runs / row / pair / "evaluation" / "results.json" for pair in DIRECTIONS]
            expected = [[pair] for pair in DIRECTIONS]
        else:
            files = [runs / row / "evaluation" / "results.json"]
            expected = [[*DIRECTIONS, *ZERO_SHOT]]
            assert table[row]["updates"] == "4"
        for file, pairs in zip(files, expected, strict=True):
            directions = json.loads(file.read_text())["directions"]
            assert sorted(directions) == sorted(pairs)
            assert all(score["sentences"] == 200 for score in directions.values())


def check_extraction(runs, row):
    facts = json.loads((runs / row / "subnets" / "checks.json").read_text())
    assert facts["hypotheses"] == 200 * len(DIRECTIONS)
    assert facts["different"] == facts["of_which_ties"]
    assert facts["max_abs_logprob_diff"] < 1e-4
    assert facts["bleu_subnet"].keys() == facts["bleu_full"].keys() == set(DIRECTIONS)
    if facts["different"] == 0:
        assert facts["bleu_subnet"] == facts["bleu_full"]
    assert facts["parameters_subnet"] < facts["parameters_full"]


@pytest.mark.slow
def test_some_rows_after_a_kill(tmp_path):
    runs = tmp_path / "smoke"
    kill_at(runs, SUBSET, f"{runs}/target_target/trained: train")
    before = (runs / "dense_base" / "evaluation" / "results.json").stat().st_mtime_ns
    done = run_all(runs, SUBSET)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{runs}/prepared: there already" in done.stdout
    assert (runs / "dense_base" / "evaluation" / "results.json").stat().st_mtime_ns == before
    check_rows(runs, SUBSET)
    check_extraction(runs, "target_target")
    first = (runs / "results.md").read_text(encoding="utf-8")
    again = run_all(runs, SUBSET)
    assert again.returncode == 0 and " train " not in again.stdout
    assert (runs / "results.md").read_text(encoding="utf-8") == first


@pytest.mark.slow
def test_every_row_and_figure(tmp_path):
    runs = tmp_path / "smoke"
    done = run_all(runs, [])  # all rows, teachers before students
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    check_rows(runs, ROWS)
    for row in ("target_target", "token_target"):
        check_extraction(runs, row)
    tables = {path.name for path in (runs / "tables").iterdir()}
    assert tables >= {f"table{n}.md" for n in (1, 2, 4, 5, 6, 7, 8, 9)}
    assert tables >= {f"figure{n}.png" for n in (2, 3, 4)}
    for row in set(ROWS) - DENSE:
        figures = {path.name for path in (runs / row / "routing").glob("*.png")}
        assert figures >= {"routing.png", "last_layers.png"}, row
    results = (runs / "results.md").read_text(encoding="utf-8")
    for section in ("## Extraction", "## Routing", "## Figures"):
        assert "not run" not in results.split(section)[1].split("\n## ")[0]


@pytest.mark.slow
def test_a_corpus_in_shards(tmp_path):
    runs = tmp_path / "smoke"
    subprocess.run(["examples/software15/prepare.sh", "smoke", runs], cwd=ROOT, check=True,
                   env=environment(runs, []), capture_output=True)
    data = runs / "data-bin"
    whole = data.rename(runs / "whole")
    shutil.copytree(whole, data / "shard00")
    shutil.copytree(whole, data / "shard01", ignore=shutil.ignore_patterns("valid.*", "test.*"))
    rows = ["token_token", "distilled_sequence"]
    done = run_all(runs, rows, SEEDS="3")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for shard in ("shard00", "shard01"):
        assert (runs / "distilled-data.seed3" / shard / "distillation.json").exists()
    table = rows_of((runs / "results.md").read_text(encoding="utf-8"))
    assert [row for row in ROWS if table[row]["BLEU, ours"] != "not run"] == sorted(rows)
    student = (runs / "distilled_sequence.seed3" / "trained").read_text()
    assert f"{runs}/token_token.seed3/checkpoint_best.pt" in student
    assert f"{runs}/distilled-data.seed3/shard00:{runs}/distilled-data.seed3/shard01" in student


@pytest.mark.parametrize("size, rows, more, named", [
    ("huge", [], {}, "SIZE 'huge'"),
    ("smoke", ["dense_base", "tokn_token"], {}, "configs/tokn_token.yaml"),
    ("smoke", ["distilled", "token_token"], {}, "distilled needs its teacher token_token"),
    ("smoke", ["token_token"], {"SEEDS": "1 two"}, "SEEDS: 'two'"),
    ("smoke", ["token_token"], {"BASELINE": "dense"}, "BASELINE: 'dense'"),
    ("smoke", ["bilingual"], {"BASELINE": "bilingual"}, "BASELINE: 'bilingual'"),
])
def test_invalid_settings_are_refused_in_one_line(size, rows, more, named, tmp_path):
    done = run_all(tmp_path / "runs", rows, size, **more)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and named in done.stderr
    assert not (tmp_path / "runs").exists()
