"""A pool of worker processes that returns results in order and reads few items ahead."""

import multiprocessing
import os
import threading
from collections import deque
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Callable, Deque, Iterable, Iterator, Optional, TypeVar

from fairseq_taskmoe.errors import refuse

Item = TypeVar("Item")
Result = TypeVar("Result")
ITEMS_PER_WORKER = 2  # one in work, one waiting: more would only take memory


class WorkerPool:
    """Worker processes; without an executor, this process does the work."""

    def __init__(self, executor: Optional[Executor], workers: int):
        self.executor = executor
        self.workers = workers

    def ordered_map(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """Yield function(item) for every item, in order. Items are read only as they are needed.

        A killed worker is refused; the usual cause is too little memory.
        """
        if self.executor is None:
            yield from map(function, items)
            return
        waiting: Deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(self.executor.submit(function, item))
                if len(waiting) >= ITEMS_PER_WORKER * self.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            refuse(f"--workers {self.workers}: a worker was killed; use fewer if memory is short")
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def worker_pool(workers: int) -> Iterator[WorkerPool]:
    """Start worker processes, and end them."""
    if workers == 1:
        yield WorkerPool(None, 1)
        return
    # forked: a new interpreter would take seconds to import torch, which no worker needs
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, context, initializer=_exit_with_parent) as executor:
        yield WorkerPool(executor, workers)


def _exit_with_parent() -> None:
    """End this worker when its parent is killed; otherwise it would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
