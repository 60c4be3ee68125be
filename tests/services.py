"""`taskmoe serve` as a process of its own, real HTTP to it, and the models that it serves."""

import http.client
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

import pytest
from console import ROOT, run, stir

PAIRS = ("en-de", "de-en")
JSON = {"Content-Type": "application/json"}


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
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
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

    def __init__(self, folder: Path, log: Path, *flags: Any, port: int = 0):
        self.log = log
        words = [Path(sys.executable).parent / "taskmoe", "serve", folder, "--port", port, *flags]
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


def wait_until(happened: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


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
    trained = train("for-evaluate", "--max-update", 5)
    return share("served-models", lambda folder: make_models(trained, folder))
