"""The comparison of upcycled models with models from scratch, in a size that takes a minute."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from console import ROOT

SCRIPT = ROOT / "examples" / "upcycling" / "run.py"


@pytest.mark.slow
def test_the_table_has_all_four_models_and_a_second_run_repeats_none(tmp_path):
    commands = str(Path(sys.executable).parent)
    env = {**os.environ, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
           "OMP_NUM_THREADS": "1"}
    command = [sys.executable, SCRIPT, "--out", tmp_path, "--seeds", "1", "--dense-updates", "4",
               "--updates", "3"]
    subprocess.run(command, env=env, check=True, capture_output=True)
    table = (tmp_path / "results.md").read_text()
    assert [line.split(" | ")[1] for line in table.splitlines()[2:]] == ["4", "4 + 3", "3", "6"]
    logs = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("train.log")}
    assert len(logs) == 4
    subprocess.run(command, env=env, check=True, capture_output=True)
    assert {file: file.stat().st_mtime_ns for file in logs} == logs
