"""Processes with torch and fairseq imported, started in no time by one server per test process."""

import atexit
import json
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Callable, Dict, Optional, Sequence, Union

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = Path(sys.executable).parent  # the console scripts of the tests' Python environment
SERVER = Path(__file__).with_name("fork_server.py")
INT = 4  # bytes of the numbers that are sent
Stream = Union[int, IO[Any]]


def command_environment() -> Dict[str, str]:
    """Return the environment in which tests run commands."""
    return {
        **os.environ,
        "PATH": str(COMMANDS) + os.pathsep + os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
    }


class Forked:
    """A process that the server has forked."""

    def __init__(self, server: "ForkServer", connection: socket.socket):
        self.server, self.connection = server, connection
        self.status: Optional[int] = None
        self.pid = self._receive()

    def _receive(self) -> int:
        received = self.connection.recv(INT, socket.MSG_WAITALL)
        if len(received) < INT:
            raise self.server.lost()
        return int.from_bytes(received, sys.byteorder, signed=True)

    def wait(self, timeout: Optional[float] = None) -> Optional[int]:
        """Return the exit status, negative for a signal; None if it runs on for timeout seconds."""
        if self.status is None and select.select([self.connection], [], [], timeout)[0]:
            self.status = self._receive()
            self.connection.close()
        return self.status

    def send(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.wait(0) is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the process, and wait for its end."""
        self.send(signal.SIGKILL)
        self.wait()


class ForkServer:
    """The process that has imported torch and fairseq, and requests to it."""

    def __init__(self) -> None:
        self.environment = command_environment()
        self.log = tempfile.TemporaryFile("w+")
        self.control, control = socket.socketpair()
        with control:
            self.process = subprocess.Popen(
                [sys.executable, SERVER, str(control.fileno())], env=self.environment, cwd=ROOT,
                pass_fds=[control.fileno()], start_new_session=True, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
            )
        assert self.process.stdout
        if self.process.stdout.readline() != "ready\n":
            raise self.lost()

    def lost(self) -> RuntimeError:
        """Return the error to raise where the server does not answer."""
        self.log.seek(0)
        return RuntimeError(f"the server that forks processes has ended:\n{self.log.read()}")

    def start(
        self, command: Sequence[Any] = (), program: str = "", env: Optional[Dict[str, str]] = None,
        cwd: Optional[Path] = None, stdin: Optional[Stream] = None, stdout: Stream = 1,
        stderr: Stream = 2, path: Sequence[str] = (),
    ) -> Forked:
        """Start a program, or a console script, or one before the other in the same process.

        path is what sys.path begins with; stdin is empty unless it is given.
        """
        words = [str(word) for word in command]
        words[:1] = [str(COMMANDS / word) for word in words[:1]]
        request = {
            "words": words, "program": program, "path": list(path),
            "env": command_environment() if env is None else env, "cwd": str(cwd or Path.cwd()),
        }
        body = json.dumps(request).encode()
        connection, other = socket.socketpair()
        try:
            with other, open(os.devnull) as nothing:
                streams = (other, nothing if stdin is None else stdin, stdout, stderr)
                numbers = [each if isinstance(each, int) else each.fileno() for each in streams]
                socket.send_fds(self.control, [b"."], numbers)
            connection.sendall(len(body).to_bytes(INT, sys.byteorder) + body)
        except ConnectionError:
            raise self.lost() from None
        return Forked(self, connection)

    def end(self) -> None:
        self.control.close()
        self.process.kill()
        self.process.communicate()
        self.log.close()


@lru_cache(maxsize=None)
def fork_server() -> ForkServer:
    """Return the server of this test process, started when it is first asked for."""
    server = ForkServer()
    atexit.register(server.end)
    return server


def start_function(function: Callable[..., None], *args: Any, **kwargs: Any) -> Forked:
    """Run a function of a module in a process of its own."""
    call = pickle.dumps((function, args, kwargs))
    program = (
        f"import pickle\nfunction, args, kwargs = pickle.loads({call!r})\n"
        "function(*args, **kwargs)"
    )
    return fork_server().start(program=program, path=sys.path)
