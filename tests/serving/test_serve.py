"""`taskmoe serve` translates as its models do, for many clients at once, and reports errors."""

import json
import os
import random
import signal
import socket

import pytest
from console import refused, run
from hypothesis import example, given
from hypothesis import strategies as st
from services import (
    JSON,
    PATIENT,
    Service,
    ask,
    at_once,
    half_sent,
    has_ended,
    translate,
    wait_until,
)

from fairseq_taskmoe.engines.engine import SearchOptions
from fairseq_taskmoe.engines.open_model import open_model

pytest.importorskip(
    "fairseq_taskmoe.engines.ctranslate2_cpu", reason="the extra `serve` is not installed"
)
pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("prometheus_client", reason="the extra `serve` is not installed")
is_json = pytest.importorskip("fairseq_taskmoe.serving.guards").is_json
OK = {"source": "en", "target": "de", "text": "Good day!", "max_length": 20}
MAX_BODY = 100_000


@pytest.fixture(scope="module")
def service(served, tmp_path_factory):
    log = tmp_path_factory.mktemp("serve") / "log"
    with Service(served, log, "--max-body-bytes", MAX_BODY, *PATIENT) as running:
        yield running


@pytest.fixture(scope="module")
def sentences(corpus):
    """Give the test sentences of a language."""
    def of(lang):
        pair = "en-de" if lang == "en" else f"en-{lang}"
        return (corpus.text / f"test.{pair}.{lang}").read_text(encoding="utf-8").splitlines()
    return of


@pytest.mark.slow
def test_200_clients_each_get_the_translation_of_their_own_text(service, served, sentences):
    asked = [
        (pair, text, SearchOptions(beam, n_best, max_length=12))
        for pair in ("en-de", "de-en")
        for text, (beam, n_best) in zip(sentences(pair[:2]), [(4, 1), (2, 2)] * 50, strict=False)
    ]
    random.Random(1).shuffle(asked)
    assert len(asked) == 200
    before = service.metric("taskmoe_batch_sentences_count")
    answers = at_once([
        lambda pair=pair, text=text, options=options: translate(
            service.port, pair, text, beam=options.beam, n_best=options.n_best, max_length=12
        )
        for pair, text, options in asked
    ])
    opened = {pair: open_model(str(served / pair), threads=1) for pair in ("en-de", "de-en")}
    expected = [opened[pair].translate(pair, [text], options)[0] for pair, text, options in asked]
    different = {(found[0].text, round(found[0].score, 3)) for found in expected}
    assert len(different) > 0.9 * len(asked)
    for answer, (pair, _, _), wanted in zip(answers, asked, expected, strict=True):
        assert answer.status == 200 and answer.json["lang_pair"] == pair
        assert_translations(answer, [wanted])
    assert service.metric("taskmoe_batch_sentences_count") - before < len(asked)


def test_texts_keep_their_order_and_alternatives_are_ranked(service, served, sentences):
    texts = [*sentences("en")[:9], "", "  "]
    answer = translate(service.port, "en-de", texts, beam=3, n_best=3, length_penalty=0.5,
                       max_length=12)
    model = open_model(str(served / "en-de"), threads=1)
    wanted = model.translate("en-de", texts, SearchOptions(3, 3, 0.5, max_length=12))
    assert_translations(answer, wanted)
    for found in answer.json["translations"][:9]:
        scores = [each["score"] for each in found]
        assert len({each["text"] for each in found}) == 3 and scores == sorted(scores)[::-1]
    assert answer.json["translations"][9:] == [[{"text": "", "score": 0.0}]] * 2
    assert translate(service.port, "en-de", []).json["translations"] == []


def assert_translations(answer, wanted):
    assert [[each["text"] for each in found] for found in answer.json["translations"]] == [
        [each.text for each in translations] for translations in wanted
    ]
    for found, translations in zip(answer.json["translations"], wanted, strict=True):
        assert [each["score"] for each in found] == pytest.approx(
            [each.score for each in translations], abs=1e-4
        )


def changed(**fields):
    return {**OK, **fields}


@pytest.mark.parametrize("body, headers, status, words", [
    (b"", JSON, 400, "JSON"),
    (b'{"source": "en",', JSON, 400, "JSON"),
    (b"[" * 50_000, JSON, 400, "JSON"),
    (b'{"source": "en", "target": "de", "text": "\xff"}', JSON, 400, "unicode"),
    (b'{"source": "en", "target": "de", "text": "\\ud800"}', JSON, 400, "JSON"),
    ('{"text": "ü"}'.encode("utf-16"), JSON, 400, "JSON"),
    (b"[]", JSON, 422, "object"),
    (changed(text=None), JSON, 422, "text: give a string or a list of strings"),
    (changed(text=["a", 5]), JSON, 422, "text: element 1 is not a string"),
    ({"source": "en", "text": "a"}, JSON, 422, "target: Field required"),
    (changed(beam_size=3), JSON, 422, "beam_size"),
    (changed(beam="4"), JSON, 422, "beam"),
    (changed(beam=True), JSON, 422, "beam"),
    (changed(beam=0), JSON, 422, "beam"),
    (changed(beam=17), JSON, 422, "at most 16"),
    (changed(n_best=5), JSON, 422, "n_best: 5, at most the beam of 4 is allowed"),
    (changed(length_penalty=float("nan")), JSON, 422, "length_penalty"),
    (changed(text=["a"] * 129), JSON, 422, "at most 128"),
    (changed(text=["a", "b " * 300]), JSON, 422, "text[1]: "),
    (changed(target="fr"), JSON, 404, "no model for en-fr; available: de-en, en-de"),
    (changed(source="../../etc"), JSON, 404, "available: de-en, en-de"),
    (OK, {"Content-Type": "text/plain"}, 415, "application/json"),
    (OK, {"Content-Type": "application/json; charset=latin-1"}, 415, "UTF-8"),
    (OK, {"Content-Type": "application/json; charset*0=utf-8; charset*=x"}, 415, "UTF-8"),
    (OK, {"Content-Type": "application/json; charset=\"\xfc\""}, 415, "UTF-8"),
    (OK, {"Content-Type": "application/json; charset"}, 415, "UTF-8"),
    (OK, {"Content-Type": "application/json, application/json"}, 415, "UTF-8"),
    (OK, {}, 415, "application/json"),
    (changed(source="en\n\x1b[31m"), JSON, 404, r"no model for en\n\x1b[31m-de; available: de-en"),
    (changed(target="\u2028" * 64), JSON, 404, r"en-\u2028"),
    (changed(**{"a\nb\x1b" + "c" * 100: 1}), JSON, 422, r"a\nb\x1bccc"),
    (changed(beam=10**3000), JSON, 422, "beam"),
    (changed(text="a" * 50_000), JSON, 422, "text: 50000 characters, and the model reads at most"),
    (b" " * (MAX_BODY + 1), JSON, 413, f"more than {MAX_BODY} bytes"),
    ([b" " * 50_000] * 20, JSON, 413, f"more than {MAX_BODY} bytes"),
])
def test_errors_are_answered_in_one_line(service, body, headers, status, words):
    answer = ask(service.port, "/translate", iter(body) if isinstance(body, list) else body,
                 headers)
    assert (answer.status, words in answer.error) == (status, True), answer.text
    assert translate(service.port, "en-de", "Good day!", max_length=20).status == 200


def test_requests_for_other_hosts_are_refused(service):
    answer = ask(service.port, "/translate", OK, {**JSON, "Host": "rebound.example"})
    assert (answer.status, answer.text) == (400, "Invalid host header")


@pytest.mark.parametrize("content_type", [
    "application/json", "Application/JSON; charset=UTF-8", 'application/json ;charset="utf8" ',
])
def test_json_in_utf8_is_accepted(service, content_type):
    assert ask(service.port, "/translate", OK, {"Content-Type": content_type}).status == 200


PARTS = st.sampled_from(["application/json", "charset", "utf-8", "UTF8", "latin-1", "*0", "*", "=",
                         ";", '"', "'", " ", "\t", "%", "x", "\xfc", "\u017f", "\n", ","])


@given(st.lists(PARTS, max_size=12).map("".join) | st.text())
@example('application/json; charset="utf-8')
def test_only_json_in_utf8_without_other_parameters_passes(content_type):
    if is_json(content_type):
        plain = "".join(content_type.lower().split()).replace('"', "").replace("-", "")
        assert plain in ("application/json", "application/json;charset=utf8")


def test_white_space_does_not_make_a_text_too_long(service):
    spaces = translate(service.port, "en-de", ["Good" + " " * 90_000 + "day!", "Good day!"])
    assert spaces.status == 200
    first, second = spaces.json["translations"]
    assert [each["text"] for each in first] == [each["text"] for each in second]


def test_a_body_in_chunks_is_read_whole(service):
    chunks = iter([b'{"source": "en", "target": "de", ', b'"text": [', b'"a"]}'])
    assert ask(service.port, "/translate", chunks).status == 200


def test_reports_of_the_service(service):
    listed = ask(service.port, "/directions").json["directions"]
    assert [each["lang_pair"] for each in listed] == ["de-en", "en-de"]
    assert ask(service.port, "/health").json == {"status": "ok"}
    described = ask(service.port, "/openapi.json").json
    assert {"/translate", "/directions", "/health", "/metrics"} <= set(described["paths"])
    assert "413" in described["paths"]["/translate"]["post"]["responses"]
    assert ask(service.port, "/docs").error == "Not Found"  # it would load scripts from elsewhere
    assert ask(service.port, "/translate").status == 405
    assert ask(service.port, "/health", headers={"Host": "localhost:99"}).status == 200
    assert ask(service.port, "/health", headers={"Host": "[::1]"}).status == 200


def test_metrics_count_requests_and_sentences(service):
    names = [
        'taskmoe_requests_total{path="/translate",status="200"}',
        'taskmoe_requests_total{path="/translate",status="404"}',
        'taskmoe_requests_total{path="other",status="404"}',
        'taskmoe_request_seconds_count{path="/translate"}',
        'taskmoe_sentences_total{lang_pair="de-en"}',
    ]
    before = [service.metric(name) for name in names]
    pieces = service.metric('taskmoe_source_pieces_total{lang_pair="de-en"}')
    assert translate(service.port, "de-en", ["Ja.", "Nein."], max_length=5).status == 200
    assert translate(service.port, "de-xx", "Ja.").status == 404
    assert ask(service.port, "/nowhere").status == 404
    after = [service.metric(name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1, 2, 2]
    assert service.metric('taskmoe_source_pieces_total{lang_pair="de-en"}') >= pieces + 4
    assert service.metric("taskmoe_waiting_sentences") == 0


def is_refused(port):
    try:
        ask(port, "/health")
    except ConnectionRefusedError:
        return True
    except OSError:  # accepted before, and closed
        return False
    return False


@pytest.mark.slow
def test_sigterm_finishes_what_is_in_flight(served, tmp_path):
    with Service(served / "en-de", tmp_path / "log", *PATIENT) as service:
        body = json.dumps(OK).encode()
        with half_sent(service.port, body) as connection:
            service.process.send_signal(signal.SIGTERM)
            wait_until(lambda: is_refused(service.port))
            connection.sendall(body[1:])
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
            assert service.process.wait(300) == 0
        assert service.said() == f"serving en-de on http://127.0.0.1:{service.port}/\n"


@pytest.fixture
def own_port():
    """Give a port that this test can bind several times; the system assigns it to no other."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with socket.socket() as holder:
            try:
                holder.bind(("127.0.0.1", port))
            except OSError:
                continue
            # now another process that sets this option can bind it: the service does
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            yield port
            return


@pytest.mark.slow
def test_killed_it_can_be_started_again(served, tmp_path, own_port):
    with Service(served / "en-de", tmp_path / "log", *PATIENT, port=own_port) as service:
        with half_sent(service.port, json.dumps(OK).encode()) as connection:
            service.process.kill()
            wait_until(lambda: has_ended(connection))
    flags = (*PATIENT, "--allowed-hosts", "translate.example")
    with Service(served / "en-de", tmp_path / "log", *flags, port=own_port) as service:
        assert translate(service.port, "en-de", "Good day!", max_length=9).status == 200
        assert ask(service.port, "/health", headers={"Host": "translate.example"}).status == 200
        assert ask(service.port, "/health", headers={"Host": "other.example"}).status == 400


def test_a_direction_of_a_checkpoint_is_served(served, tmp_path):
    with Service(served / "stirred.pt", tmp_path / "log", "-s", "en", "-t", "de") as service:
        (listed,) = ask(service.port, "/directions").json["directions"]
        assert listed["lang_pair"] == "en-de"
        answer = translate(service.port, "en-de", ["Good day!", "Open"], max_length=9)
    assert answer.status == 200
    assert "name the source" in refused(run("taskmoe", "serve", served / "stirred.pt", check=False))
    assert "-s and -t" in refused(run("taskmoe", "serve", served, "-s", "en", check=False))


def test_what_cannot_be_served_is_refused(served, tmp_path):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        said = refused(run("taskmoe", "serve", served, "--port", port, check=False))
        assert f"--port {port}: Address already in use" in said
    empty = run("taskmoe", "serve", tmp_path, check=False)
    assert "no extracted model in it" in refused(empty)
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(served / "en-de")
    twice = run("taskmoe", "serve", tmp_path, "--port", 0, check=False)
    assert f"both {tmp_path / 'one'} and {tmp_path / 'two'}" in refused(twice)
    small = run("taskmoe", "serve", served, "--max-waiting", 5, "--max-texts", 9, check=False)
    assert "--max-texts 9" in refused(small)
    port = run("taskmoe", "serve", served, "--port", 70_000, check=False)
    assert "--port 70000" in refused(port)
    assert "--host: give a value" in refused(run("taskmoe", "serve", served, "--host", "",
                                                 check=False))
