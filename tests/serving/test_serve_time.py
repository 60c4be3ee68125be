"""Time limits of the service: idle connections, slow requests, slow clients, slow models."""

import json
import signal
import socket
import subprocess
import sys

import pytest
from console import ROOT, refused, run
from services import (
    PATIENCE,
    PATIENT,
    Clock,
    Service,
    Stopped,
    ask,
    half_sent,
    has_ended,
    later,
    num_waiting,
    translate,
    wait_until,
)

from fairseq_taskmoe.serving.limits import Limits

pytest.importorskip(
    "fairseq_taskmoe.engines.ctranslate2_cpu", reason="the extra `serve` is not installed"
)
pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `serve` is not installed")
BODY = json.dumps({"source": "en", "target": "de", "text": "slow body"}).encode()


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=300)


@pytest.mark.slow
def test_idle_connections_are_closed_for_new_ones(served, tmp_path):
    flags = ("--max-connections", 16, *PATIENT)
    with Service(served / "en-de", tmp_path / "log", *flags, files=64) as service:
        idle = [connect(service.port) for _ in range(200)]
        assert ask(service.port, "/health").status == 200
        assert translate(service.port, "en-de", "Good day!", max_length=5).status == 200
        wait_until(lambda: sum(map(has_ended, idle)) >= len(idle) - 16)
        assert service.said().splitlines() == [
            f"serving en-de on http://127.0.0.1:{service.port}/"
        ]
        for connection in idle:
            connection.close()


@pytest.mark.slow
def test_more_connections_than_files_are_refused(served):
    command = f"ulimit -n 64 && taskmoe serve {served} --port 0"
    said = refused(run("bash", "-c", command, check=False))
    assert "--max-connections 900: this process may open 64 files" in said


def test_a_connection_without_a_request_is_closed(serving):
    clock = Clock()
    engine, port = serving(Limits(timeout=1e9, head_timeout=6000), clock)
    with Stopped(engine, port) as working, connect(port) as silent, connect(port) as slow:
        slow.sendall(b"POST /translate HTTP")
        for connection in (silent, slow):
            wait_until(lambda connection=connection: clock.advance(6001) or has_ended(connection))
    assert working.answers[0].status == 200


@pytest.mark.parametrize("last", [b"", b"Connection: close\r\n"])
def test_a_connection_whose_answer_is_not_read_is_closed(last, serving):
    clock = Clock()
    engine, port = serving(Limits(**PATIENCE), clock)
    asked = {"source": "en", "target": "de", "text": "x" * 900_000, "beam": 16, "n_best": 16}
    body = json.dumps(asked).encode()
    with connect(port) as client:
        client.sendall(
            b"POST /translate HTTP/1.1\r\nHost: localhost\r\n" + last
            + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        assert client.recv(12) == b"HTTP/1.1 200"
        assert engine.connections
        wait_until(lambda: clock.advance(6001) or not engine.connections)
    assert translate(port, "en-de", "still there").status == 200


def test_a_request_has_one_deadline(serving):
    clock = Clock()
    engine, port = serving(Limits(**PATIENCE), clock)
    with Stopped(engine, port) as first:
        others = later([lambda: translate(port, "en-de", "late")])
        wait_until(lambda: num_waiting(port) == 1)
        with half_sent(port, BODY) as slow, half_sent(port, BODY) as slower:
            clock.advance(4000)
            slow.sendall(BODY[1:])
            wait_until(lambda: num_waiting(port) == 2)
            clock.advance(3000)
            assert slow.recv(1000).startswith(b"HTTP/1.1 504 ")
            assert slower.recv(1000).startswith(b"HTTP/1.1 408 ")
        (late,) = others()
        assert (late.status, late.error) == (504, "timed out after 6000 seconds")
    assert first.answers[0].status == 504
    assert translate(port, "en-de", "in time").status == 200
    assert engine.batches == [["stop"], ["in time"]]


def test_sigterm_before_it_is_ready_gives_status_143():
    program = (
        "from fairseq_taskmoe.serving import service\n"
        "from fairseq_taskmoe.serving.limits import Limits\n"
        "import time\n"
        "def opening():\n"
        "    print('opening', flush=True)\n"
        "    time.sleep(600)\n"
        "service.serve(opening, '127.0.0.1', 0, None, Limits())\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"opening\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 128 + signal.SIGTERM
