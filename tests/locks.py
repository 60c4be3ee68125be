"""A folder at which another process is at work."""

import multiprocessing
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # preprocess is not installed
    sys.path.insert(0, str(ROOT))

from preprocess.stages import only_run  # noqa: E402


@contextmanager
def held_by_another_process(lock: Path) -> Iterator[None]:
    """Let a process hold the lock that `only_run` takes: one's own would be let in again."""
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()

    def hold() -> None:
        with only_run(lock):
            ready.set()
            done.wait(60)

    process = context.Process(target=hold)
    process.start()
    assert ready.wait(60)
    yield
    done.set()
    process.join()
