"""`taskmoe serve` as a process of its own, real HTTP to it, and the models that it serves.

Or in a thread: a service that is real but for its engine, which reverses sentences, stops when told
to, and for its clock.
"""

import asyncio
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

import pytest
from console import ROOT, run, stir

from fairseq_taskmoe.engines.engine import Hypothesis, Tags
from fairseq_taskmoe.engines.translator import Translator

PAIRS = ("en-de", "de-en")
JSON = {"Content-Type": "application/json"}
PATIENCE = {"timeout": 6000.0, "head_timeout": 6000.0}  # of limits: a busy machine fails no test
PATIENT = ("--threads", 1, "--timeout", 6000, "--head-timeout", 6000)


class Answer(NamedTuple):
    status: int
    headers: Dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> str:
        """Return the one line that an error is answered with."""
        assert self.headers["content-type"] == "application/json", self.text
        (name, line), = self.json.items()
        assert name == "error" and len(line.splitlines()) == 1 and "Traceback" not in line
        return line


def ask(
    port: int, path: str, body: Any = None, headers: Optional[Dict[str, str]] = None,
    method: str = "",
) -> Answer:
    """Send one request: a POST where there is a body, which is bytes, an iterable of them, or JSON.

    An iterable is sent in chunks, its length untold.
    """
    if isinstance(body, dict):
        body = json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body,
                           JSON if headers is None else headers)
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, headers, answer.read().decode())
    finally:
        connection.close()


def translate(port: int, lang_pair: str, text: Any, **options: Any) -> Answer:
    source, target = lang_pair.split("-")
    return ask(port, "/translate", {"source": source, "target": target, "text": text, **options})


def at_once(calls: Sequence[Callable[[], Any]]) -> List[Any]:
    """Make calls in a thread each, and return their results in order."""
    with ThreadPoolExecutor(len(calls)) as threads:
        return [each.result() for each in [threads.submit(call) for call in calls]]


class Service:
    """A process; what it says goes into a file."""

    def __init__(
        self, folder: Path, log: Path, *flags: Any, port: int = 0, files: Optional[int] = None
    ):
        self.log = log
        few = ["bash", "-c", f'ulimit -n {files} && exec "$@"', "-"] if files else []
        command = [Path(sys.executable).parent / "taskmoe", "serve", folder, "--port", port]
        words = [*few, *command, *flags]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with open(log, "w") as file:
            self.process = subprocess.Popen(
                [str(word) for word in words], env=env, stdout=file, stderr=file
            )
        wait_until(lambda: "serving " in self.said() or self.process.poll() is not None)
        assert self.process.poll() is None, self.said()
        self.port = int(self.said().rstrip().rstrip("/").rpartition(":")[2])

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *problem: Any) -> None:
        self.process.kill()
        self.process.wait()

    def said(self) -> str:
        return self.log.read_text()

    def metric(self, name: str) -> float:
        """Return a sample of /metrics by its name and labels, 0 where there is none."""
        lines = dict(line.rsplit(" ", 1) for line in ask(self.port, "/metrics").text.splitlines())
        return float(lines.get(name, 0))


def wait_until(happened: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_ended(connection: socket.socket) -> bool:
    """Say whether the other side has closed a connection that it has sent nothing on."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def half_sent(port: int, body: bytes, sent: int = 1) -> socket.socket:
    """Return a connection on which the service reads a request; all but the first bytes lack."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=300)
    head = (
        "POST /translate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    )
    connection.sendall(head.encode())
    assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(body[:sent])
    return connection


def make_models(checkpoint: Path, folder: Path) -> None:
    """Extract two directions of a checkpoint whose translations tell sentences apart."""
    folder.mkdir()
    stirred = stir(checkpoint, folder / "stirred.pt")
    for pair in PAIRS:
        run("taskmoe", "extract", stirred, "--lang-pair", pair, "--format", "ctranslate2",
            "--out", folder / pair)


@pytest.fixture(scope="session")
def served(share, train):
    """Folder with the checkpoint stirred.pt, and its PAIRS in CTranslate2."""
    # with the sum of gate losses two translations of one text are equally good: batches decide
    trained = train("served", "--max-update", 5, "--moe-gate-loss-reduction", "mean")
    return share("served-models", lambda folder: make_models(trained, folder))


class Reverser:
    """An engine: `stop` holds it until go is set, `fail` in a batch is an error."""

    def __init__(self, lang_pair):
        self.tags = {lang_pair: Tags([], [])}
        self.batches = []
        self.go = threading.Event()

    def translate(self, lang_pair, sources, options, max_batch_tokens=0):
        self.batches.append([" ".join(source) for source in sources])
        if ["stop"] in sources:
            assert self.go.wait(300)
        if ["fail"] in sources:
            raise RuntimeError("secret of the engine room")
        return [[Hypothesis(source[::-1], -1.0)] * options.n_best for source in sources]


class Clock:
    """The time of an event loop, which a test moves on."""

    def __init__(self):
        self.ahead = 0.0

    def drive(self, loop):
        real = loop.time
        self.loop = loop
        loop.time = lambda: real() + self.ahead

    def advance(self, seconds):
        def jump():
            self.ahead += seconds

        self.loop.call_soon_threadsafe(jump)


async def running(server, clock):
    if clock is not None:
        clock.drive(asyncio.get_running_loop())
    await server.serve()


@pytest.fixture
def serving():
    """Start a service in a thread: serving(limits, clock) -> engine for en-de, port."""
    import uvicorn

    from fairseq_taskmoe.serving.app import create_app
    from fairseq_taskmoe.serving.service import server_config

    started = []

    def start(limits, clock=None):
        engines = [Reverser("en-de"), Reverser("de-en")]
        app = create_app([Translator(engine, None, 20, 20) for engine in engines], limits, None)
        config = server_config(app, limits)
        config.port = 0
        server = uvicorn.Server(config)
        engines[0].connections = server.server_state.connections
        thread = threading.Thread(target=asyncio.run, args=[running(server, clock)])
        thread.start()
        started.append((server, thread, engines))
        wait_until(lambda: server.started)
        return engines[0], server.servers[0].sockets[0].getsockname()[1]

    yield start
    for server, thread, engines in started:
        for engine in engines:
            engine.go.set()
        server.should_exit = True
        thread.join(300)
        assert not thread.is_alive()


class Stopped:
    """A client whose request holds the engine until the block ends."""

    def __init__(self, engine, port):
        self.engine = engine
        self.answers = []
        self.thread = threading.Thread(
            target=lambda: self.answers.append(translate(port, "en-de", "stop"))
        )

    def __enter__(self):
        self.thread.start()
        wait_until(lambda: ["stop"] in self.engine.batches)
        return self

    def __exit__(self, *problem):
        self.engine.go.set()
        self.thread.join()


def num_waiting(port):
    lines = dict(line.rsplit(" ", 1) for line in ask(port, "/metrics").text.splitlines())
    return float(lines["taskmoe_waiting_sentences"])


def later(calls):
    """Start calls; return a function that waits for their results."""
    results = []
    thread = threading.Thread(target=lambda: results.extend(at_once(calls)))
    thread.start()
    return lambda: (thread.join(), results)[1]
