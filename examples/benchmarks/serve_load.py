"""Ask `taskmoe serve` many things at once, and check every answer.

    python examples/benchmarks/serve_load.py subnets/
    python examples/benchmarks/serve_load.py --port 8000 --clients 200 --seconds 60

Each client has sentences of its own and asks for one after the other. What must come out is asked
for before, one sentence at a time. Prints JSON; ends with status 1 after an error or a wrong
answer. All traffic stays on this machine.
"""

import argparse
import csv
import http.client
import json
import lzma
import random
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from itertools import cycle
from pathlib import Path
from statistics import quantiles
from tempfile import NamedTemporaryFile
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

CORPUS = Path(__file__).resolve().parents[1] / "demo" / "corpus" / "demo.tsv.xz"
SENTENCES_PER_CLIENT = 3
HEADERS = {"Content-Type": "application/json"}
Asked = Tuple[str, str]  # direction and text
Expected = Dict[Asked, Dict[str, Any]]
TOLERANCE = 1e-3  # of scores: rounding depends on what a sentence is translated with


class Client:
    """One connection that is kept open."""

    def __init__(self, port: int):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def get(self, path: str) -> Any:
        self.connection.request("GET", path)
        return json.load(self.connection.getresponse())

    def translate(self, lang_pair: str, text: str) -> Dict[str, Any]:
        """Return the best translation: text and score. Raises RuntimeError if there is none."""
        source, target = lang_pair.split("-")
        body = json.dumps({"source": source, "target": target, "text": text})
        self.connection.request("POST", "/translate", body, HEADERS)
        answer = self.connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status} {said.decode()}")
        return json.loads(said)["translations"][0][0]


class Outcome(NamedTuple):
    """What the requests of a client came to."""

    seconds: List[float]
    errors: List[str]
    mixed_up: int  # answers to what another client asked
    wrong: int  # any other answers that are not the expected ones


def sentences(lang: str, count: int) -> List[str]:
    """Return different sentences of the demo's corpus, in an order of chance."""
    with lzma.open(CORPUS, "rt", encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        texts = sorted({row[lang] for row in rows if 3 <= len(row[lang].split()) <= 25})
    random.Random(1).shuffle(texts)
    return texts[:count]


def same(one: Dict[str, Any], other: Dict[str, Any]) -> bool:
    return one["text"] == other["text"] and abs(one["score"] - other["score"]) <= TOLERANCE


def ask_until(port: int, own: List[Asked], expected: Expected, end: float) -> Outcome:
    """Ask for own sentences in turn until a time, and compare the answers."""
    client = Client(port)
    outcome = Outcome([], [], 0, 0)
    for asked in cycle(own):
        started = time.monotonic()
        if started >= end:
            return outcome
        try:
            answer = client.translate(*asked)
        except (OSError, http.client.HTTPException, RuntimeError) as problem:
            outcome.errors.append(f"{type(problem).__name__}: {problem}")
            client = Client(port)
            time.sleep(0.1)
            continue
        outcome.seconds.append(time.monotonic() - started)
        if not same(answer, expected[asked]):
            of_another = any(same(answer, each) for each in expected.values())
            field = "mixed_up" if of_another else "wrong"
            outcome = outcome._replace(**{field: getattr(outcome, field) + 1})
    raise AssertionError("no sentences")


def load(port: int, lang_pairs: List[str], num_clients: int, seconds: float) -> Dict[str, Any]:
    """Return what happened while clients asked for some seconds, all at once."""
    per_pair = num_clients * SENTENCES_PER_CLIENT // len(lang_pairs) + 1
    texts = [[(pair, text) for text in sentences(pair[:2], per_pair)] for pair in lang_pairs]
    asked = [each for of_pairs in zip(*texts, strict=False) for each in of_pairs]  # taking turns
    alone = Client(port)
    expected = {each: alone.translate(*each) for each in asked}
    started = time.monotonic()
    with ThreadPoolExecutor(num_clients) as threads:
        waiting = [
            threads.submit(ask_until, port, asked[i::num_clients], expected, started + seconds)
            for i in range(num_clients)
        ]
        outcomes = [each.result() for each in waiting]
    took = time.monotonic() - started
    latencies = [second for outcome in outcomes for second in outcome.seconds]
    percent = quantiles(latencies, n=100) if len(latencies) > 1 else [0.0] * 99
    return {
        "lang_pairs": lang_pairs,
        "clients": num_clients,
        "seconds": round(took, 1),
        "requests": len(latencies) + sum(len(outcome.errors) for outcome in outcomes),
        "fewest_answers_of_a_client": min(len(outcome.seconds) for outcome in outcomes),
        "errors": dict(Counter(error for outcome in outcomes for error in outcome.errors)),
        "mixed_up": sum(outcome.mixed_up for outcome in outcomes),
        "wrong": sum(outcome.wrong for outcome in outcomes),
        "sentences": len(expected),
        "different_translations": len({each["text"] for each in expected.values()}),
        "latency_p50": round(percent[49], 3),
        "latency_p95": round(percent[94], 3),
        "sentences_per_second": round(len(latencies) / took, 1),
    }


@contextmanager
def started_service(folder: str, threads: int) -> Iterator[int]:
    """Run a service with its default limits, and give its port once it is ready."""
    taskmoe = str(Path(sys.executable).with_name("taskmoe"))
    command = [taskmoe, "serve", folder, "--port", "0", "--threads", str(threads)]
    with NamedTemporaryFile() as log, subprocess.Popen(command, stderr=log) as service:
        try:
            while "serving " not in (said := Path(log.name).read_text(encoding="utf-8")):
                if service.poll() is not None:
                    sys.exit(f"the service did not start: {said}")
                time.sleep(0.1)
            yield int(said.rstrip().rstrip("/").rpartition(":")[2])
        finally:
            service.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="?", help="folder of extracted models to serve")
    parser.add_argument("--port", type=int, help="of a service that runs on this machine")
    parser.add_argument("--threads", type=int, default=0, help="of each model that is served")
    parser.add_argument("--lang-pairs", metavar="PAIRS", help="default: all that are served")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    if (args.models is None) == (args.port is None):
        parser.error("give a folder of models, or the --port of a service")
    service = started_service(args.models, args.threads) if args.models else nullcontext(args.port)
    with service as port:
        served = [each["lang_pair"] for each in Client(port).get("/directions")["directions"]]
        lang_pairs = args.lang_pairs.split(",") if args.lang_pairs else served
        result = load(port, lang_pairs, args.clients, args.seconds)
    print(json.dumps(result, indent=1))
    failed = bool(result["errors"] or result["mixed_up"] or result["wrong"])
    sys.exit(failed)


if __name__ == "__main__":
    main()
