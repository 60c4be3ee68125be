"""What comes next is made ready in a background thread, while what is here is worked on."""

import queue
import threading
from typing import Any, Generator, Iterable, TypeVar

Item = TypeVar("Item")


def read_ahead(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """Yield items in order, up to depth of them made ahead by a thread.

    An exception that ends the making is raised here, behind the items before it.
    Whoever takes no more items closes the iterator, and the thread ends with the item it is at.
    """
    ready: "queue.Queue[Any]" = queue.Queue(depth)  # item and error, None at the end
    unwanted = threading.Event()

    def make() -> None:
        try:
            for item in items:
                ready.put((item, None))
                if unwanted.is_set():
                    return
            ready.put(None)
        except BaseException as error:  # raised again below, in the thread that can end the process
            ready.put((None, error))

    thread = threading.Thread(target=make, name="read ahead", daemon=True)
    thread.start()
    try:
        while (made := ready.get()) is not None:
            item, error = made
            if error is not None:
                raise error
            yield item
    finally:
        unwanted.set()
        while thread.is_alive():  # it may wait for room in the queue, to put down its last item
            while not ready.empty():
                ready.get()
            thread.join(timeout=0.01)
