"""What waits together is translated together; who leaves or fails does not touch the others.

The models are real but for an engine that reverses sentences, and stops or fails when told to.
"""

import http.client
import json
import logging
import threading

import pytest
from services import JSON, ask, at_once, translate, wait_until

from fairseq_taskmoe.serving.engine import Hypothesis, Tags
from fairseq_taskmoe.serving.limits import Limits
from fairseq_taskmoe.serving.translator import Translator

uvicorn = pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `serve` is not installed")


class Reverser:
    """An engine: `stop` holds it until go is set, `fail` in a batch is an error."""

    def __init__(self, lang_pair):
        self.tags = {lang_pair: Tags([], [])}
        self.batches = []
        self.go = threading.Event()

    def translate(self, lang_pair, sources, options, max_batch_tokens=0):
        self.batches.append([" ".join(source) for source in sources])
        if ["stop"] in sources:
            assert self.go.wait(30)
        if ["fail"] in sources:
            raise RuntimeError("secret of the engine room")
        return [[Hypothesis(source[::-1], -1.0)] * options.n_best for source in sources]


@pytest.fixture
def serving():
    """Start a service in a thread: serving(limits) -> engine for en-de, port."""
    from fairseq_taskmoe.serving.app import create_app

    started = []

    def start(limits):
        engines = [Reverser("en-de"), Reverser("de-en")]
        app = create_app([Translator(engine, None, 20, 20) for engine in engines], limits, None)
        server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="on", log_config=None))
        thread = threading.Thread(target=server.run)
        thread.start()
        started.append((server, thread, engines))
        wait_until(lambda: server.started)
        return engines[0], server.servers[0].sockets[0].getsockname()[1]

    yield start
    for server, thread, engines in started:
        for engine in engines:
            engine.go.set()
        server.should_exit = True
        thread.join(30)
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


def texts_of(answer):
    return [found[0]["text"] for found in answer.json["translations"]]


def test_requests_of_one_kind_are_translated_together(serving):
    engine, port = serving(Limits(max_batch_sentences=5))
    with Stopped(engine, port) as first:
        others = later([
            *[lambda i=i: translate(port, "en-de", [f"a{i} b", f"c{i}"]) for i in range(4)],
            lambda: translate(port, "en-de", "x y", beam=2),
        ])
        wait_until(lambda: num_waiting(port) == 9)
        assert texts_of(translate(port, "de-en", "free at once")) == ["once at free"]
    answers = others()
    assert texts_of(first.answers[0]) == ["stop"]
    assert [texts_of(answer) for answer in answers] == [
        *[[f"b a{i}", f"c{i}"] for i in range(4)], ["y x"]
    ]
    assert sorted(map(len, engine.batches)) == [1, 1, 3, 5]  # stop; the other beam; 8 in two


def test_a_batch_is_bounded_in_tokens(serving):
    engine, port = serving(Limits(max_batch_tokens=12))
    with Stopped(engine, port):
        others = later([lambda: translate(port, "en-de", ["a b c d"] * 5 + ["e f"] * 4)])
        wait_until(lambda: num_waiting(port) == 9)
    assert texts_of(others()[0]) == ["d c b a"] * 5 + ["f e"] * 4
    assert all(len(batch) * max(len(text.split()) for text in batch) <= 12
               for batch in engine.batches)


def test_a_failing_sentence_fails_alone(serving, caplog):
    engine, port = serving(Limits())
    with caplog.at_level(logging.ERROR), Stopped(engine, port):
        others = later([
            lambda: translate(port, "en-de", "one two"),
            lambda: translate(port, "en-de", ["three four", "fail"]),
            lambda: translate(port, "en-de", "five six"),
        ])
        wait_until(lambda: num_waiting(port) == 4)
    good, failed, also_good = others()
    assert (texts_of(good), texts_of(also_good)) == (["two one"], ["six five"])
    assert (failed.status, failed.error) == (500, "internal error")
    wait_until(lambda: "secret of the engine room" in caplog.text)  # logged after the answer
    assert ask(port, "/health").status == 200


def test_nothing_is_translated_for_a_client_that_has_left(serving):
    engine, port = serving(Limits())
    with Stopped(engine, port):
        leaving = http.client.HTTPConnection("127.0.0.1", port)
        body = {"source": "en", "target": "de", "text": ["unwanted", "neither"]}
        leaving.request("POST", "/translate", json.dumps(body), JSON)
        wait_until(lambda: num_waiting(port) == 2)
        others = later([lambda: translate(port, "en-de", "wanted text")])
        wait_until(lambda: num_waiting(port) == 3)
        leaving.close()
        wait_until(lambda: num_waiting(port) == 1)
    assert texts_of(others()[0]) == ["text wanted"]
    assert engine.batches == [["stop"], ["wanted text"]]


def test_what_would_wait_too_long_is_turned_away(serving):
    engine, port = serving(Limits(max_waiting=3, max_texts=3))
    with Stopped(engine, port):
        others = later([lambda: translate(port, "en-de", ["a", "b"])])
        wait_until(lambda: num_waiting(port) == 2)
        busy = translate(port, "en-de", ["c", "d"])
        assert (busy.status, busy.error) == (503, "too busy, try again")
        assert busy.headers["retry-after"] == "1"
        assert translate(port, "de-en", ["c", "d"]).status == 200  # that model is free
    assert others()[0].status == 200
    assert translate(port, "en-de", ["c", "d"]).status == 200


def test_requests_at_once_are_bounded(serving):
    engine, port = serving(Limits(max_requests=1))
    with Stopped(engine, port):
        assert translate(port, "de-en", "a").status == 503
        assert ask(port, "/health").status == 200
    assert translate(port, "de-en", "a").status == 200


def test_time_runs_out_and_the_service_goes_on(serving):
    engine, port = serving(Limits(timeout=0.3))
    with Stopped(engine, port) as first:
        late = translate(port, "en-de", "late")
        assert (late.status, late.error) == (504, "gave up after 0.3 seconds")
        slow = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        slow.request("POST", "/translate", b"{", {**JSON, "Content-Length": "2"})
        assert slow.getresponse().status == 408
        slow.close()
    assert first.answers[0].status == 504
    assert texts_of(translate(port, "en-de", "in time")) == ["time in"]
    assert ["late"] not in engine.batches
