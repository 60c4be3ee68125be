"""How many connections there may be, and how long one may say nothing."""

import asyncio
import resource
from typing import Any, List, Optional, Set

from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import refuse
from .limits import Limits

# asyncio takes this many from the queue at once, and learns a few turns later that some are closed
ACCEPTED_AT_ONCE = 8
RESERVE = 48  # files that are open besides connections, those on their way included
QUEUE = 2048  # connections that the system holds until they are taken


class Connection(H11Protocol):
    """A connection that is closed when the next request does not come, or others need its place."""

    def __init__(self, *args: Any, limits: Limits, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.limits = limits
        self.idle_since = self.loop.time()
        self.head_deadline: Optional[asyncio.TimerHandle] = None
        self.given_up = False

    @property
    def is_idle(self) -> bool:
        """Whether no request is being read beyond its head, worked on, or answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.await_head()
        connections: Set[Any] = self.connections
        there = [each for each in connections if not each.given_up]
        if len(there) > self.limits.max_connections:
            idle: List[Connection] = [each for each in there if each.is_idle]
            min(idle, key=lambda each: each.idle_since).give_up()

    def give_up(self) -> None:
        """Close the connection at once, whatever is still to be sent."""
        self.given_up = True
        self.transport.abort()

    def await_head(self) -> None:
        if self.head_deadline is None:
            self.head_deadline = self.loop.call_later(self.limits.head_timeout, self.give_up)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.is_idle:
            self.await_head()
        else:
            self.forget_deadline()

    def forget_deadline(self) -> None:
        if self.head_deadline is not None:
            self.head_deadline.cancel()
            self.head_deadline = None

    def on_response_complete(self) -> None:
        self.idle_since = self.loop.time()
        super().on_response_complete()
        self.end_in_time()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.end_in_time()

    def end_in_time(self) -> None:
        """See that a client that does not read its answer does not keep it open for ever."""
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self.loop.call_later(self.limits.timeout, self.give_up)

    def connection_lost(self, problem: Optional[Exception]) -> None:
        self.forget_deadline()
        super().connection_lost(problem)


def make_room(max_connections: int) -> None:
    """Let this process have so many connections, or refuse."""
    wanted = max_connections + RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        refuse(f"--max-connections {max_connections}: this process may open {hard} files "
               f"(ulimit -n), give {hard - RESERVE} or less")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
