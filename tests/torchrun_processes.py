"""A command under a real torchrun, whose ranks can be found and killed."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Optional, Set

from console import ROOT


class Torchrun:
    """torchrun with its ranks on this machine; what all of them say goes into one file."""

    def __init__(self, ranks: int, log: Path, *command: Any):
        self.log = log
        words = ["torchrun", "--standalone", "--nproc_per_node", ranks, "--no-python", *command]
        folder = str(Path(sys.executable).parent)
        env = {
            **os.environ, "PATH": folder + os.pathsep + os.environ["PATH"],
            "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1",
        }
        with open(log, "w") as file:
            self.process = subprocess.Popen(
                list(map(str, words)), env=env, stdout=file, stderr=file, start_new_session=True
            )
        self.seen: Set[int] = set()  # processes of ranks

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until_said(self, text: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.said():
            assert self.process.poll() is None and time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def pids(self) -> Dict[int, int]:
        """Return the process of each rank that has been started."""
        found = {}
        for task in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            for pid in map(int, task.read_text().split()):
                with suppress(OSError):  # it has just ended
                    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                    ranks = [int(each[5:]) for each in variables if each.startswith(b"RANK=")]
                    found.update(dict.fromkeys(ranks, pid))
        self.seen.update(found.values())
        return found

    def wait(self, seconds: float) -> Optional[int]:
        """Return torchrun's status when all have ended, None if some have not in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            status = self.process.poll()
            if status is not None and not any(map(is_alive, self.seen)):
                return status
            time.sleep(0.02)
        return None

    def kill(self) -> None:
        """End what has not ended."""
        if self.process.poll() is None:
            self.pids()
            self.process.kill()
            self.process.wait()
        for pid in filter(is_alive, self.seen):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Say whether a process has not ended, although nobody may have asked for its status yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
