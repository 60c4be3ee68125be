"""Prepare the next items of an iterator in a background thread while the current one is used."""

import queue
import threading
from typing import Any, Generator, Iterable, TypeVar

Item = TypeVar("Item")


def read_ahead(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """Yield items in order; a thread prepares up to depth of them in advance.

    An exception of the iterable is raised here, after the items before it. When the caller closes
    the generator, the thread ends after its current item.
    """
    ready: "queue.Queue[Any]" = queue.Queue(depth)  # (item, error); None at the end
    closed = threading.Event()

    def prepare() -> None:
        try:
            for item in items:
                ready.put((item, None))
                if closed.is_set():
                    return
            ready.put(None)
        except BaseException as error:  # raised again in the caller's thread
            ready.put((None, error))

    thread = threading.Thread(target=prepare, name="read ahead", daemon=True)
    thread.start()
    try:
        while (entry := ready.get()) is not None:
            item, error = entry
            if error is not None:
                raise error
            yield item
    finally:
        closed.set()
        while thread.is_alive():  # it may be waiting for room in the queue
            while not ready.empty():
                ready.get()
            thread.join(timeout=0.01)
