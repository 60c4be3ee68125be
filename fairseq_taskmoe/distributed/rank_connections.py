"""A TCP connection from every rank to rank 0, over which lines of text travel.

Rank 0 listens on a free port until all ranks are there, then no longer. Where it listens, and a
random token without which nobody is let in, goes round by torch.distributed.
"""

import hmac
import os
import secrets
import socket
import sys
import time
from contextlib import suppress
from typing import Any, Dict, Iterator, List, Optional

import torch.distributed as dist

PATIENCE = 30.0  # seconds in which all ranks have to be connected
GREETING = 5.0  # seconds that a stranger has to say the token
SENDING = 2.0  # seconds that a message may take


class Peer:
    """The other end of a connection."""

    def __init__(self, connection: socket.socket, rank: int, host: str):
        self.connection = connection
        self.name = f"rank {rank} ({host})"
        self.ended = False  # it has said that it ends
        self.closed = False  # nothing more comes from it
        self.received = b""
        connection.settimeout(SENDING)
        # a host that is gone closes nothing: it is missed after some 40 seconds
        for level, option, value in (
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6),
        ):
            connection.setsockopt(level, option, value)

    def read_lines(self) -> List[str]:
        """Return the whole lines that came, when the connection can be read; sets closed."""
        try:
            data = self.connection.recv(65536)
        except TimeoutError:  # there was nothing to read after all
            return []
        except OSError:  # reset by a peer that was killed, or keepalive gave up
            data = b""
        self.closed = not data
        *lines, self.received = (self.received + data).split(b"\n")
        return [line.decode() for line in lines]

    def send(self, line: str) -> None:
        """Send a line; a peer that is gone is noticed when reading."""
        with suppress(OSError):
            self.connection.sendall(line.encode() + b"\n")


def connect_ranks() -> List[Peer]:
    """Connect all ranks with rank 0; a collective call.

    Returns all other ranks on rank 0, rank 0 on the others, without those that cannot be reached:
    for them a warning is printed, and they run without being watched.
    """
    rank = dist.get_rank()
    own: Dict[str, Any] = {"host": socket.gethostname()}
    listener: Optional[socket.socket] = None
    if rank == 0:
        listener = listen(dist.get_world_size())
        own.update(
            port=listener.getsockname()[1], token=secrets.token_hex(16), addresses=own_addresses()
        )
    everyone: List[Dict[str, Any]] = [{}] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    hub, hosts = everyone[0], [each["host"] for each in everyone]
    if listener is None:
        connection = connect(hub, own["host"], rank)
        return [] if connection is None else [Peer(connection, 0, hub["host"])]
    with listener:
        connections = accept(listener, hub["token"], len(hosts))
    for missing in sorted(set(range(1, len(hosts))) - set(connections)):
        print(
            f"taskmoe: warning: rank {missing} ({hosts[missing]}) has no connection to rank 0 "
            f"({own['host']}): if it is lost, no message will say so",
            file=sys.stderr, flush=True,
        )
    return [Peer(connections[other], other, hosts[other]) for other in sorted(connections)]


def listen(backlog: int) -> socket.socket:
    """Listen on a free port of all interfaces."""
    if socket.has_dualstack_ipv6():
        with suppress(OSError):
            return socket.create_server(
                ("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=backlog
            )
    return socket.create_server(("", 0), backlog=backlog)


def own_addresses() -> List[str]:
    """Return what others may reach this host by: its address on the way to the master, its name."""
    addresses = [socket.gethostname()]
    with suppress(OSError):
        master = socket.getaddrinfo(os.environ.get("MASTER_ADDR", ""), 9, type=socket.SOCK_DGRAM)
        family, kind, _, _, address = master[0]
        with socket.socket(family, kind) as route:
            route.connect(address)  # of datagrams: nothing is sent
            addresses.insert(0, route.getsockname()[0])
    return addresses


def connect(hub: Dict[str, Any], own_host: str, rank: int) -> Optional[socket.socket]:
    """Connect to rank 0, by whichever of its addresses leads to it."""
    deadline = time.monotonic() + PATIENCE
    # first what can be reached behind any firewall, then what has already led to the master
    addresses = ["localhost"] if hub["host"] == own_host else []
    addresses += [os.environ["MASTER_ADDR"]] if "MASTER_ADDR" in os.environ else []
    addresses += hub["addresses"]
    while time.monotonic() < deadline:
        for address in addresses:
            with suppress(OSError):
                connection = socket.create_connection((address, hub["port"]), timeout=GREETING)
                connection.sendall(f"{hub['token']} {rank}\n".encode())
                if connection.recv(1) == b"\n":
                    return connection
                connection.close()  # somebody else's port
        time.sleep(0.5)
    return None


def accept(listener: socket.socket, token: str, world_size: int) -> Dict[int, socket.socket]:
    """Return the connections of the ranks that came in time, by rank."""
    deadline = time.monotonic() + PATIENCE
    connections: Dict[int, socket.socket] = {}
    while len(connections) < world_size - 1 and time.monotonic() < deadline:
        listener.settimeout(max(deadline - time.monotonic(), 0.01))
        with suppress(OSError):
            connection, _ = listener.accept()
            rank = greet(connection, token)
            if rank is not None and 0 < rank < world_size and rank not in connections:
                connection.sendall(b"\n")
                connections[rank] = connection
            else:
                connection.close()
    return connections


def greet(connection: socket.socket, token: str) -> Optional[int]:
    """Return the rank of somebody who knows the token."""
    connection.settimeout(GREETING)
    said = b"".join(until_newline(connection, limit=len(token) + 10))
    password, _, rank = said.partition(b" ")
    known = hmac.compare_digest(password, token.encode())
    return int(rank) if known and rank.isdigit() else None


def until_newline(connection: socket.socket, limit: int) -> Iterator[bytes]:
    """Read a short line byte by byte, so that nothing behind it is taken away."""
    for _ in range(limit):
        byte = connection.recv(1)
        if byte in (b"", b"\n"):
            return
        yield byte
