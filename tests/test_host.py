"""What is freed stays with the process, so that the next step need not ask the system for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from console import ROOT

MEGABYTES = 64
PROGRAM = f"""
import resource, sys, torch
from fairseq_taskmoe.host import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(30):  # glibc looks for a larger block than it gives, and takes a few at first
    torch.ones({MEGABYTES} * 2**18)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.ones({MEGABYTES} * 2**18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone is told to")
def test_memory_is_not_fetched_page_by_page_again():
    faults = {}
    for way in ("keep", "default"):
        command = [sys.executable, "-c", PROGRAM, way]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        faults[way] = int(subprocess.run(
            command, env=env, cwd=Path(ROOT), capture_output=True, text=True, check=True
        ).stdout)
    pages = 4 * MEGABYTES * 2**20 // os.sysconf("SC_PAGE_SIZE")
    assert faults["keep"] < pages / 100
    assert faults["default"] > faults["keep"] * 10
