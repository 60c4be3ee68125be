"""A rank that dies takes the others with it, in time, and they say which it was."""

import os
import re
import signal
import socket
import threading
import time
from contextlib import suppress

import pytest
from rank_processes import Ranks

from fairseq_taskmoe.distributed import rank_connections
from fairseq_taskmoe.distributed.rank_connections import Peer
from fairseq_taskmoe.distributed.rank_reports import (
    ENDED,
    FAILED,
    LOST,
    TERMINATED,
    Report,
    find_cause,
)

HOST = socket.gethostname()
ADVICE = "; all ranks stop; resume from the last checkpoint"
RANK = """
from fairseq_taskmoe.distributed.lost_ranks import watch_ranks
assert watch_ranks() is None  # there is no group yet
dist.init_process_group("gloo")
rank = dist.get_rank()
monitor = watch_ranks()
assert monitor is watch_ranks()

def work(steps):
    for step in range(steps):
        dist.all_reduce(torch.ones(1))
        if step == 3:
            print("ready", flush=True)
        time.sleep(0.02)
"""


@pytest.fixture
def start(tmp_path):
    started = []

    def start_ranks(program):
        started.append(Ranks(RANK + program, tmp_path, size=3))
        return started[-1]

    yield start_ranks
    for ranks in started:
        ranks.kill()


def verdict(ranks, rank):
    """Return the one line that a rank said about its end."""
    lines = [x for x in ranks.said(rank).splitlines() if x.startswith("taskmoe: error: ")]
    (line,) = lines or [ranks.said(rank)]
    return line.removeprefix("taskmoe: error: ").removesuffix(ADVICE)


@pytest.mark.parametrize("victim", [0, 1])
def test_all_end_and_name_the_rank_that_was_killed(start, victim):
    ranks = start("work(10000)")
    ranks.wait_until_said("ready")
    ranks.send(victim, signal.SIGKILL)
    statuses = ranks.statuses()
    assert statuses.pop(victim) == -signal.SIGKILL
    assert statuses == [1, 1]
    for survivor in {0, 1, 2} - {victim}:
        assert verdict(ranks, survivor) == f"rank {victim} ({HOST}) was lost"


def test_a_rank_that_waits_in_a_collective_ends_too(start):
    # ranks 0 and 2 wait for each other's group, in which nobody of the dead takes part
    ranks = start("""
pair = dist.new_group([0, 2])
print("ready", flush=True)
if rank == 0:
    dist.all_reduce(torch.ones(1), group=pair)
time.sleep(600)
""")
    ranks.wait_until_said("ready")
    time.sleep(0.5)
    ranks.send(1, signal.SIGKILL)
    assert ranks.statuses() == [1, -signal.SIGKILL, 1]
    assert verdict(ranks, 0) == verdict(ranks, 2) == f"rank 1 ({HOST}) was lost"


@pytest.mark.parametrize("victim", [0, 2])
def test_an_exception_is_named_with_its_rank(start, victim):
    ranks = start(f"""
work(5)
if rank == {victim}:
    raise ValueError("no such thing\\nsecond line")
work(10000)
""")
    assert ranks.statuses() == [1, 1, 1]
    for rank in range(3):
        assert verdict(ranks, rank) == (
            f"rank {victim} ({HOST}) ended with an error: ValueError: no such thing"
        )
    assert "Traceback" in ranks.said(victim) and "second line" in ranks.said(victim)


def test_where_all_fail_all_name_the_first(start):
    ranks = start("work(5); raise ValueError(rank)")
    assert ranks.statuses() == [1, 1, 1]
    (said,) = {verdict(ranks, rank) for rank in range(3)}
    assert re.fullmatch(r"rank (\d) \(.*\) ended with an error: ValueError: \1", said)


def test_a_normal_end_is_silent(start):
    ranks = start("""
work(5)
time.sleep(0.3 * rank)  # they do not end in one moment
""")
    assert ranks.statuses() == [0, 0, 0]
    assert {ranks.said(rank) for rank in range(3)} == {"ready\n"}


def test_an_end_with_a_status_keeps_it(start):
    ranks = start("work(5); sys.exit(2)")
    assert ranks.statuses() == [2, 2, 2]
    assert {ranks.said(rank) for rank in range(3)} == {"ready\n"}


def test_a_rank_that_has_left_may_end_before_the_others(start):
    ranks = start("""
work(5)
monitor.leave()
if rank == 2:
    os.kill(os.getpid(), 9)
time.sleep(1)
""")
    assert ranks.statuses() == [0, 0, -signal.SIGKILL]
    assert ranks.said(0) == ranks.said(1) == "ready\n"


def test_a_rank_that_ends_alone_is_named_after_a_while(start):
    ranks = start("""
from fairseq_taskmoe.distributed.rank_reports import ENDED, PATIENCE
PATIENCE[ENDED] = 1.0
dist.barrier()
if rank == 1:
    sys.exit(2)
time.sleep(600)
""")
    assert ranks.statuses() == [1, 1, 1]
    assert {verdict(ranks, rank) for rank in range(3)} == {
        f"rank 1 ({HOST}) ended before the others"
    }


def test_ranks_that_the_launcher_terminates_still_name_the_lost_one(start):
    ranks = start("""
print("ready", flush=True)
time.sleep(600)
""")
    ranks.wait_until_said("ready")
    ranks.send(2, signal.SIGKILL)
    for rank in (1, 0):  # as torchrun and torch.multiprocessing do at once
        ranks.send(rank, signal.SIGTERM)
    ranks.statuses()
    assert verdict(ranks, 0) == verdict(ranks, 1) == f"rank 2 ({HOST}) was lost"


def test_sigterm_ends_a_rank_that_is_no_longer_watched(start):
    ranks = start("""
if rank == 0:
    monitor.leave()
print("ready", flush=True)
time.sleep(600)
""")
    ranks.wait_until_said("ready")
    time.sleep(0.5)
    for rank in range(3):
        ranks.send(rank, signal.SIGTERM)
    assert ranks.statuses() == [-signal.SIGTERM, 143, 143]
    assert {ranks.said(rank) for rank in range(3)} == {"ready\n"}


def test_a_forked_worker_does_not_hide_its_parents_death(start):
    ranks = start("""
worker = os.fork()
if worker == 0:
    time.sleep(60)
    os._exit(0)
print(f"worker {worker} ready", flush=True)
time.sleep(600)
""")
    ranks.wait_until_said("ready")
    workers = [int(re.search(r"worker (\d+)", ranks.said(rank))[1]) for rank in range(3)]
    try:
        # a worker that is terminated is no affair of its parent's
        os.kill(workers[2], signal.SIGTERM)
        time.sleep(0.5)
        assert ranks.statuses(timeout=0.1) == [None] * 3
        ranks.send(1, signal.SIGKILL)
        assert ranks.statuses() == [1, -signal.SIGKILL, 1]
        assert verdict(ranks, 0) == verdict(ranks, 2) == f"rank 1 ({HOST}) was lost"
        os.kill(workers[1], 0)  # it lived all the time
    finally:
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)


def dial(port, said):
    """Say something to a listener and return what it answers until it hangs up or a second ends."""
    with socket.create_connection(("localhost", port), timeout=1) as connection:
        connection.sendall(said)
        try:
            return connection.recv(16)
        except (TimeoutError, ConnectionResetError):
            return b""


def test_only_those_who_know_the_token_are_let_in(monkeypatch):
    monkeypatch.setattr(rank_connections, "PATIENCE", 10.0)
    monkeypatch.setattr(rank_connections, "GREETING", 0.3)
    token = "0123456789abcdef"
    connections = {}
    with rank_connections.listen(backlog=8) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(
            target=lambda: connections.update(rank_connections.accept(listener, token, 3))
        )
        thread.start()
        strangers = (
            b"", b"\n", b"x" * 5000 + b"\n", b"0123456789abcdee 1\n", token.encode() + b"\n",
            b"0123456789abcdef 0\n", b"0123456789abcdef 3\n", b"0123456789abcdef -1\n",
            b"\xff\x00 1\n", b" 1\n", b"0123456789abcdef 1 2\n", b"0123456789abcdef \xb2\n",
        )
        for said in strangers:
            assert dial(port, said) == b"", said
        assert dial(port, b"0123456789abcdef 1\n") == b"\n"
        assert dial(port, b"0123456789abcdef 1\n") == b""  # rank 1 is there already
        assert dial(port, b"0123456789abcdef 2\n") == b"\n"
        thread.join()
    assert sorted(connections) == [1, 2]
    for connection in connections.values():
        connection.close()


def test_lines_are_put_together_from_pieces():
    listener = rank_connections.listen(1)
    one = socket.create_connection(("localhost", listener.getsockname()[1]))
    other, _ = listener.accept()
    peer = Peer(other, 1, "host")
    one.sendall(b"first\nsec")
    assert peer.read_lines() == ["first"]
    one.sendall("ond Gr\u00fc\u00dfe\n".encode())
    assert peer.read_lines() == ["second Gr\u00fc\u00dfe"] and not peer.closed
    one.close()
    assert peer.read_lines() == [] and peer.closed
    peer.send("nobody listens")
    other.close()
    listener.close()


@pytest.mark.parametrize(
    "kinds, cause",
    [
        ([FAILED, LOST, TERMINATED], "1 was lost"),  # gloo's error may come first
        ([FAILED, FAILED], "0 ended with an error: E"),
        ([LOST, TERMINATED, LOST], "0 was lost, 2 was lost"),  # a host and its ranks
        ([TERMINATED, ENDED], "1 ended before the others"),  # the launcher reacts to an end
        ([ENDED, FAILED], "1 ended with an error: E"),
        ([TERMINATED, TERMINATED], "0 was terminated"),
    ],
)
def test_the_cause_is_told_from_its_consequences(kinds, cause):
    reports = [
        Report(kind, str(rank), "E" if kind == FAILED else "") for rank, kind in enumerate(kinds)
    ]
    assert find_cause(reports) == cause
