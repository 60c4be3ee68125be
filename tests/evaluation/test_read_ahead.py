"""Items that are read ahead come in order, as do errors; no thread is left waiting."""

import threading
import time
from contextlib import closing

import pytest

from fairseq_taskmoe.errors import Refusal, refuse
from fairseq_taskmoe.evaluation.read_ahead import read_ahead


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "read ahead"]


def test_items_come_in_order_and_are_made_while_others_are_worked_on():
    made = []
    items = read_ahead((made.append(i) or i for i in range(5)), depth=3)
    assert next(items) == 0
    while len(made) < 5:  # three lie ready, and the thread holds one more
        time.sleep(0.001)
    assert list(items) == [1, 2, 3, 4]
    assert not threads()


def test_no_more_than_depth_lie_ready():
    made = []
    with closing(read_ahead((made.append(i) or i for i in range(100)), depth=2)) as items:
        next(items)
        time.sleep(0.1)
        assert len(made) <= 1 + 2 + 1


@pytest.mark.parametrize("wrong", [lambda: refuse("--this is wrong"), lambda: 1 / 0])
def test_errors_come_behind_the_items_before_them(wrong):
    def make():
        yield 1
        yield 2
        wrong()

    seen = []
    with pytest.raises((Refusal, ZeroDivisionError)):
        for item in read_ahead(make(), depth=5):
            seen.append(item)
    assert seen == [1, 2]
    assert not threads()


def test_a_consumer_that_stops_ends_the_thread():
    def endless():
        number = 0
        while True:
            yield number
            number += 1

    with closing(read_ahead(endless(), depth=1)) as items:
        assert [next(items), next(items)] == [0, 1]
    assert not threads()
