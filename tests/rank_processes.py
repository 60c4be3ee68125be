"""Real processes that are ranks of one gloo group, started in no time.

One process imports torch and the package, and forks the ranks of all tests that need some.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List

from console import ROOT

NURSERY = """
import json, os, sys, time
from importlib import import_module
import torch
import torch.distributed as dist
from fairseq_taskmoe.distributed.lost_ranks import watch_ranks
torch.set_num_threads(1)
for module in sys.argv[1:]:
    import_module(module)

def serve():
    # answer requests in the parent; return a program in a child that is to run it
    born, statuses = [], {}
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        if "program" in request:
            born.clear(), statuses.clear()
            for rank, log in enumerate(request["logs"]):
                born.append(os.fork())
                if born[-1] == 0:
                    os.environ.update(request["env"], RANK=str(rank))
                    file = os.open(log, os.O_WRONLY | os.O_CREAT)
                    os.dup2(file, 1), os.dup2(file, 2), os.close(0)
                    return request["program"]
            answer = born
        else:
            deadline = time.monotonic() + request["wait"]
            while len(statuses) < len(born) and time.monotonic() < deadline:
                for pid in set(born) - set(statuses):
                    ended, status = os.waitpid(pid, os.WNOHANG)
                    if ended:
                        statuses[pid] = os.waitstatus_to_exitcode(status)
                time.sleep(0.02)
            answer = [statuses.get(pid) for pid in born]
        print(json.dumps(answer), flush=True)

program = serve()
if program is not None:
    sys.stdout = open(1, "w", closefd=False)
    exec(program)
"""


class Ranks:
    """Processes that run the same program as ranks of one group, each with its log."""

    def __init__(self, nursery: "subprocess.Popen[str]", program: str, folder: Path, size: int):
        self.nursery = nursery
        self.logs = [folder / f"{rank}.log" for rank in range(size)]
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        env = {"WORLD_SIZE": str(size), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        request = {"program": program, "logs": list(map(str, self.logs)), "env": env}
        self.pids: List[int] = self._ask(request)
        self.ended: List[Any] = []

    def _ask(self, request: Dict[str, Any]) -> Any:
        assert self.nursery.stdin and self.nursery.stdout
        self.nursery.stdin.write(json.dumps(request) + "\n")
        self.nursery.stdin.flush()
        return json.loads(self.nursery.stdout.readline())

    def said(self, rank: int) -> str:
        """Return what a rank has said so far."""
        return self.logs[rank].read_text() if self.logs[rank].exists() else ""

    def wait_until_said(self, word: str) -> None:
        """Wait until every rank has said a word."""
        for rank in range(len(self.pids)):
            deadline = time.monotonic() + 60
            while word not in self.said(rank):
                assert time.monotonic() < deadline, self.said(rank)
                time.sleep(0.02)

    def send(self, rank: int, number: int) -> None:
        os.kill(self.pids[rank], number)

    def statuses(self, timeout: float = 20) -> List[int]:
        """Return how the ranks ended: None for one that still runs."""
        self.ended = self._ask({"wait": timeout})
        return list(self.ended)

    def kill(self) -> None:
        """End what has not ended."""
        for pid, status in zip(self.pids, self.ended or [None] * len(self.pids), strict=True):
            if status is None:
                os.kill(pid, signal.SIGKILL)
        if None in self.ended or not self.ended:
            self._ask({"wait": 10})


def start_nursery(*modules: str) -> Iterator["subprocess.Popen[str]"]:
    """Give the process that forks ranks, with more modules imported; a fixture."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
           "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [sys.executable, "-c", NURSERY, *modules], env=env, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )
    yield process
    process.communicate()  # it ends with its input
