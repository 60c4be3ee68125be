"""Limits on connections that uvicorn lacks: their number, and the time for a request's head."""

import asyncio
import resource
from typing import Any, List, Optional, Set

from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import refuse
from .limits import Limits

# asyncio accepts this many connections at once, and closes aborted ones a few turns later
ACCEPTED_AT_ONCE = 8
RESERVED_FILES = 48  # open files besides connections, and connections that are being closed
LISTEN_BACKLOG = 2048  # connections that the system holds until they are accepted


class Connection(H11Protocol):
    """A connection that is closed if no request arrives in time, or others need its place."""

    def __init__(self, *args: Any, limits: Limits, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.limits = limits
        self.idle_since = self.loop.time()
        self.head_timer: Optional[asyncio.TimerHandle] = None
        self.aborted = False

    @property
    def is_idle(self) -> bool:
        """Whether there is no request whose head has been read and whose answer is unfinished."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.start_head_timer()
        connections: Set[Any] = self.connections
        active = [each for each in connections if not each.aborted]
        if len(active) > self.limits.max_connections:
            idle: List[Connection] = [each for each in active if each.is_idle]
            min(idle, key=lambda each: each.idle_since).abort()

    def abort(self) -> None:
        """Close the connection at once, without sending the rest of an answer."""
        self.aborted = True
        self.transport.abort()

    def start_head_timer(self) -> None:
        if self.head_timer is None:
            self.head_timer = self.loop.call_later(self.limits.head_timeout, self.abort)

    def stop_head_timer(self) -> None:
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.is_idle:
            self.start_head_timer()
        else:
            self.stop_head_timer()

    def on_response_complete(self) -> None:
        self.idle_since = self.loop.time()
        super().on_response_complete()
        self.limit_closing_time()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.limit_closing_time()

    def limit_closing_time(self) -> None:
        """Abort a closing connection later, if the client does not read its answer."""
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self.loop.call_later(self.limits.timeout, self.abort)

    def connection_lost(self, problem: Optional[Exception]) -> None:
        self.stop_head_timer()
        super().connection_lost(problem)


def raise_file_limit(max_connections: int) -> None:
    """Allow this process enough open files for its connections, or refuse."""
    needed = max_connections + RESERVED_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        refuse(f"--max-connections {max_connections}: this process may open {hard} files "
               f"(ulimit -n), give {hard - RESERVED_FILES} or less")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
