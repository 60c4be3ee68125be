"""When one rank dies, the others end too, within seconds, and say which it was.

Without this they wait in a collective (NCCL), or end with "Connection closed by peer" (gloo). Every
rank keeps a TCP connection open to rank 0: the kernel closes it when the process ends, however it
ends, and keepalive finds a host that is gone. What the connections carry are lines of JSON:
    {"report": KIND, "detail": TEXT} and {"left": true}, from a rank to rank 0
    {"verdict": TEXT} and {"done": true}, from rank 0 to all
A thread does the work, so that it does not matter what the main thread waits for.
"""

import atexit
import functools
import json
import math
import os
import queue
import selectors
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Dict, List, NoReturn, Optional, TextIO, Type

import torch.distributed as dist

from .rank_connections import Peer, connect_ranks
from .rank_reports import ENDED, FAILED, LOST, PATIENCE, TERMINATED, Report, find_cause

ORPHANED = 3.0  # seconds after SIGTERM until a rank ends that hears no verdict


def watch_ranks(advice: str = "resume from the last checkpoint") -> Optional["RankMonitor"]:
    """Watch the ranks of torch.distributed's group from now on; all of them have to call this.

    Must be called in the main thread, once there is a process group. Does nothing with one rank or
    without a group; a second call returns the first one's monitor. The ranks are taken to end
    together, as fairseq's training does: where they do not, each calls leave() when it is done.
    advice is what the user is told to do after a rank was lost.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    monitor = start_monitor()
    if monitor is not None:
        monitor.advice = advice
    return monitor


@functools.lru_cache(maxsize=1)
def start_monitor() -> Optional["RankMonitor"]:
    peers = connect_ranks()
    return RankMonitor(dist.get_rank(), peers) if peers else None


class RankMonitor:
    """The thread of one rank, and how the rank tells it that it ends.

    A survivor of a lost rank prints one line that names it, and ends with status 1. An exception
    that ends a rank is reported to the others, and so is SIGTERM, where nothing else handles it.
    """

    def __init__(self, rank: int, peers: List[Peer]):
        """Watch over peers: all other ranks on rank 0, rank 0 on the others."""
        self.rank, self.peers, self.advice = rank, peers, ""
        self.name = f"rank {rank} ({socket.gethostname()})"
        self.over = threading.Event()  # nobody is watched any longer
        self.reports: List[Report] = []
        self.verdict_due = self.death_due = math.inf  # on the clock of time.monotonic
        self.status = 1
        self.pid = os.getpid()
        self.inbox: "queue.SimpleQueue[Optional[Report]]" = queue.SimpleQueue()
        self.wakeup_reader, self.wakeup_writer = socket.socketpair()
        self.wakeup_writer.setblocking(False)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.wakeup_reader, selectors.EVENT_READ)
        for peer in peers:
            self.selector.register(peer.connection, selectors.EVENT_READ, peer)
        self.excepthook = sys.excepthook
        sys.excepthook = self._report_exception
        atexit.register(self._report_end)
        os.register_at_fork(after_in_child=self._abandon)
        # a launcher that sees a rank die terminates the others at once: the C part of a handler
        # rings although the main thread is in a collective, so there is time to say why
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            signal.set_wakeup_fd(self.wakeup_writer.fileno(), warn_on_full_buffer=False)
            signal.signal(signal.SIGTERM, self._on_sigterm)
        threading.Thread(target=self._watch, name="rank monitor", daemon=True).start()

    # -- the main thread's side

    def leave(self) -> None:
        """End the watch: this rank needs no other any longer, and rank 0 watches none."""
        self._tell(None)
        self.over.wait()
        self._release_sigterm()

    def _tell(self, report: Optional[Report]) -> None:
        if os.getpid() == self.pid and not self.over.is_set():
            self.inbox.put(report)
            with suppress(BlockingIOError):  # then it rings anyway
                self.wakeup_writer.send(b"\0")

    def fail(self, error: BaseException) -> None:
        """Report the error that ends this rank; uncaught exceptions are reported without a call."""
        first_line = next(iter(str(error).splitlines()), "")[:500]
        said = f": {first_line}" if first_line else ""
        self._tell(Report(FAILED, self.name, type(error).__name__ + said))

    def _report_exception(
        self, kind: Type[BaseException], error: BaseException, trace: Optional[TracebackType]
    ) -> None:
        self.excepthook(kind, error, trace)
        self.fail(error)

    def _report_end(self) -> None:
        """Wait until all ranks have ended; where one was lost, the process ends in here."""
        if os.getpid() == self.pid:
            self._tell(Report(ENDED, self.name))
            self.over.wait()
            self._release_sigterm()

    def _on_sigterm(self, number: int, frame: Optional[FrameType]) -> None:
        """Leave it to the thread, which the signal has woken."""

    def _release_sigterm(self) -> None:
        if signal.getsignal(signal.SIGTERM) == self._on_sigterm:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _abandon(self) -> None:
        """Close a forked child's copies: a data loader's worker would hide its parent's death."""
        self._release_sigterm()
        peers = [peer.connection for peer in self.peers]
        for connection in (self.wakeup_reader, self.wakeup_writer, *peers):
            connection.close()

    # -- the thread's side

    def _watch(self) -> None:
        try:
            while True:
                self._wait_and_act()
        finally:
            self.over.set()  # whatever is wrong here must not keep the main thread from ending

    def _wait_and_act(self) -> None:
        due = min(self.verdict_due, self.death_due)
        wait = None if due == math.inf else max(due - time.monotonic(), 0)
        for key, _ in self.selector.select(wait):
            if key.data is None:
                self._answer_bell()
            elif key.data in self.peers:
                self._hear(key.data)
        if time.monotonic() >= self.verdict_due:
            self._give_verdict()
        if time.monotonic() >= self.death_due:
            os._exit(self.status)
        if self.rank == 0 and self._all_ended():
            self._finish({"done": True})

    def _answer_bell(self) -> None:
        rung = self.wakeup_reader.recv(4096)
        if signal.SIGTERM in rung and signal.getsignal(signal.SIGTERM) == self._on_sigterm:
            self.status = 128 + signal.SIGTERM
            self.death_due = time.monotonic() + (0 if self.over.is_set() else ORPHANED)
            self._pass_on(Report(TERMINATED, self.name))
        while not self.inbox.empty():
            report = self.inbox.get()
            if report is None:
                self._finish({"left": True})
            else:
                self._pass_on(report)

    def _pass_on(self, report: Report) -> None:
        if self.rank == 0:
            self._note(report)
        else:
            self._send({"report": report.kind, "detail": report.detail})

    def _note(self, report: Report) -> None:
        """Take a report into account."""
        self.reports.append(report)
        self.verdict_due = min(self.verdict_due, time.monotonic() + PATIENCE[report.kind])

    def _hear(self, peer: Peer) -> None:
        for line in peer.read_lines():
            message: Dict[str, Any] = json.loads(line)
            if "verdict" in message:
                self._stop(message["verdict"])
            peer.ended = True
            if "report" in message:
                self._note(Report(message["report"], peer.name, message["detail"]))
            elif self.rank != 0:  # rank 0 has left, or all are done
                self._finish()
                return
        if peer.closed:
            self._hang_up(peer)
            if not peer.ended:
                self._note(Report(LOST, peer.name))

    def _all_ended(self) -> bool:
        """Return whether every rank has ended, and well."""
        own = any(report.rank == self.name for report in self.reports)
        well = all(report.kind == ENDED for report in self.reports)
        return own and well and all(peer.ended for peer in self.peers)

    def _finish(self, last_word: Optional[Dict[str, Any]] = None) -> None:
        """Watch no longer."""
        if last_word is not None:
            self._send(last_word)
        for peer in list(self.peers):
            self._hang_up(peer)
        self.verdict_due = math.inf
        self.over.set()

    def _hang_up(self, peer: Peer) -> None:
        self.peers.remove(peer)
        self.selector.unregister(peer.connection)
        peer.connection.close()

    def _give_verdict(self) -> None:
        """Tell all ranks the likeliest cause, and end."""
        cause = find_cause(self.reports)
        self._send({"verdict": cause})
        self._stop(cause)

    def _send(self, message: Dict[str, Any]) -> None:
        for peer in self.peers:
            peer.send(json.dumps(message))

    def _stop(self, verdict: str) -> NoReturn:
        """End the process, whatever the main thread does."""
        line = f"taskmoe: error: {verdict}; all ranks stop; {self.advice}\n"
        os.write(2, line.encode())  # not sys.stderr: the main thread may hold its lock for ever
        for stream in (sys.stdout, sys.stderr):
            flush(stream)
        os._exit(self.status)


def flush(stream: TextIO) -> None:
    """Flush a stream, unless another thread hangs in writing to it."""
    thread = threading.Thread(target=stream.flush, daemon=True)
    try:
        thread.start()
        thread.join(timeout=1)
    except RuntimeError:  # Python shuts down, where no thread is started and none writes
        stream.flush()
