"""Real processes that are ranks of one gloo group, started in no time."""

import signal
import socket
import time
from pathlib import Path
from typing import Any, List, Optional

from forked_processes import command_environment, fork_server

# What programs of ranks may use without importing it
IMPORTS = """
import json, os, sys, time
import torch
import torch.distributed as dist
"""


class Ranks:
    """Processes that run the same program as ranks of one group, each with its log.

    The program comes before a console command, if one is given.
    """

    def __init__(self, program: str, folder: Path, size: int, *command: Any):
        self.logs = [folder / f"{rank}.log" for rank in range(size)]
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        group = {"WORLD_SIZE": str(size), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        self.processes = []
        for rank, log in enumerate(self.logs):
            env = {**command_environment(), **group, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            with open(log, "a") as file:
                self.processes.append(fork_server().start(
                    command, IMPORTS + program, env=env, stdout=file, stderr=file
                ))

    def said(self, rank: int) -> str:
        """Return what a rank has said so far."""
        return self.logs[rank].read_text() if self.logs[rank].exists() else ""

    def wait_until_said(self, word: str) -> None:
        """Wait until every rank has said a word."""
        for rank in range(len(self.processes)):
            deadline = time.monotonic() + 60
            while word not in self.said(rank):
                assert time.monotonic() < deadline, self.said(rank)
                time.sleep(0.02)

    def send(self, rank: int, number: int) -> None:
        self.processes[rank].send(number)

    def statuses(self, timeout: float = 20) -> List[Optional[int]]:
        """Return how the ranks ended: None for one that still runs."""
        deadline = time.monotonic() + timeout
        return [each.wait(max(0, deadline - time.monotonic())) for each in self.processes]

    def kill(self) -> None:
        """End what has not ended."""
        for process in self.processes:
            process.send(signal.SIGKILL)
        for process in self.processes:
            process.wait()
