"""Waiting sentences are translated together; a disconnect or failure does not affect the others.

Only the engine is not real: it reverses sentences, and stops or fails on request.
"""

import http.client
import json
import logging

import pytest
from services import JSON, PATIENCE, Stopped, ask, later, num_waiting, translate, wait_until

from fairseq_taskmoe.engines.translator import Translator
from fairseq_taskmoe.serving.limits import Limits

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `serve` is not installed")


def patient(**limits):
    return Limits(**PATIENCE, **limits)


def texts_of(answer):
    return [found[0]["text"] for found in answer.json["translations"]]


def test_requests_of_one_kind_are_translated_together(serving):
    engine, port = serving(patient(max_batch_sentences=5))
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


def test_the_tokens_of_a_batch_are_limited(serving):
    engine, port = serving(patient(max_batch_tokens=12))
    with Stopped(engine, port):
        others = later([lambda: translate(port, "en-de", ["a b c d"] * 5 + ["e f"] * 4)])
        wait_until(lambda: num_waiting(port) == 9)
    assert texts_of(others()[0]) == ["d c b a"] * 5 + ["f e"] * 4
    assert all(len(batch) * max(len(text.split()) for text in batch) <= 12
               for batch in engine.batches)


def test_a_failing_sentence_fails_alone(serving, caplog):
    engine, port = serving(patient())
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


def test_nothing_is_translated_for_a_disconnected_client(serving):
    engine, port = serving(patient())
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


def test_requests_beyond_the_queue_are_rejected(serving):
    engine, port = serving(patient(max_waiting=3, max_texts=3))
    with Stopped(engine, port):
        others = later([lambda: translate(port, "en-de", ["a", "b"])])
        wait_until(lambda: num_waiting(port) == 2)
        busy = translate(port, "en-de", ["c", "d"])
        assert (busy.status, busy.error) == (503, "too busy, try again")
        assert busy.headers["retry-after"] == "1"
        assert translate(port, "de-en", ["c", "d"]).status == 200  # that model is free
    assert others()[0].status == 200
    assert translate(port, "en-de", ["c", "d"]).status == 200


def test_the_texts_of_a_rejected_request_are_not_encoded(serving, monkeypatch):
    engine, port = serving(patient(max_waiting=3, max_texts=3))
    with Stopped(engine, port):
        others = later([lambda: translate(port, "en-de", ["a", "b"])])
        wait_until(lambda: num_waiting(port) == 2)
        monkeypatch.setattr(Translator, "encode_all", lambda *given: 1 / 0)
        assert translate(port, "en-de", ["c", "d"]).status == 503
    assert others()[0].status == 200


def test_the_number_of_requests_in_progress_is_limited(serving):
    engine, port = serving(patient(max_requests=1))
    with Stopped(engine, port):
        assert translate(port, "de-en", "a").status == 503
        assert ask(port, "/health").status == 200
    assert translate(port, "de-en", "a").status == 200
