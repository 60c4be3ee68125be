"""A folder at which another process is at work."""

import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from forked_processes import fork_server

HOLD = """
import sys
from pathlib import Path
from preprocess.stages import only_run
with only_run(Path({lock!r})):
    print("ready", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another_process(lock: Path) -> Iterator[None]:
    """Let a process hold the lock that `only_run` takes: one's own would be let in again."""
    (read, said), (waits, end) = os.pipe(), os.pipe()
    process = fork_server().start(program=HOLD.format(lock=str(lock)), stdin=waits, stdout=said)
    os.close(said)
    os.close(waits)
    with open(read) as stream:
        assert stream.readline() == "ready\n"
        yield
        os.close(end)
        assert process.wait(60) == 0
