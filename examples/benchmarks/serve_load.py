"""Ask `taskmoe serve` many things at once, and check every answer.

    python examples/benchmarks/serve_load.py subnets/
    python examples/benchmarks/serve_load.py --port 8000 --clients 200 --seconds 60

Each client has sentences of its own and asks for one after the other. What must come out is asked
for before, one sentence at a time. Rounding depends on what a sentence is translated with, and may
decide between two translations that are nearly as good: an answer that differs is compared with
the alternatives of its text, alone and among others in batches of several sizes. Prints JSON; ends
with status 1 after an error, or an answer that is none of those. All traffic stays on this machine.
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
Answer = Dict[str, Any]  # text and score
Expected = Dict[Asked, Answer]
TOLERANCE = 1e-3  # of scores
ROUNDING = 0.05  # of scores with int8, where a translation is the same
BATCHES = (1, 2, 3, 5, 8, 16, 32, 64)
ALTERNATIVES = 4


class Client:
    """One connection that is kept open."""

    def __init__(self, port: int):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def get(self, path: str) -> Any:
        self.connection.request("GET", path)
        return json.load(self.connection.getresponse())

    def translate(self, lang_pair: str, text: str) -> Answer:
        """Return the best translation. Raises RuntimeError if there is none."""
        return self.translate_all(lang_pair, [text], 1)[0][0]

    def translate_all(
        self, lang_pair: str, texts: List[str], n_best: int
    ) -> List[List[Answer]]:
        """Return the best translations of texts of one request. Raises RuntimeError."""
        source, target = lang_pair.split("-")
        body = json.dumps({"source": source, "target": target, "text": texts, "n_best": n_best})
        self.connection.request("POST", "/translate", body, HEADERS)
        answer = self.connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status} {said.decode()}")
        return json.loads(said)["translations"]


class Outcome(NamedTuple):
    """What the requests of a client came to."""

    seconds: List[float]
    errors: List[str]
    different: List[Tuple[Asked, Answer]]  # answers that are not the expected ones


def sentences(lang: str, count: int) -> List[str]:
    """Return different sentences of the demo's corpus, in an order of chance."""
    with lzma.open(CORPUS, "rt", encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        texts = sorted({row[lang] for row in rows if 3 <= len(row[lang].split()) <= 25})
    random.Random(1).shuffle(texts)
    return texts[:count]


def same(one: Answer, other: Answer, tolerance: float = TOLERANCE) -> bool:
    return one["text"] == other["text"] and abs(one["score"] - other["score"]) <= tolerance


def explain(client: Client, asked: Asked, answer: Answer, expected: Expected) -> str:
    """Say what an answer that differs from the expected one is: rounding, mixed_up or wrong."""
    lang_pair, text = asked
    others = [other for pair, other in expected if pair == lang_pair and other != text]
    for size in BATCHES:
        batch = [text, *random.Random(size).sample(others, min(size - 1, len(others)))]
        references = client.translate_all(lang_pair, batch, ALTERNATIVES)[0]
        if any(same(answer, each, ROUNDING) for each in references):
            return "rounding"
    return "mixed_up" if any(same(answer, each) for each in expected.values()) else "wrong"


def ask_until(port: int, own: List[Asked], expected: Expected, end: float) -> Outcome:
    """Ask for own sentences in turn until a time, and compare the answers."""
    client = Client(port)
    outcome = Outcome([], [], [])
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
            outcome.different.append((asked, answer))
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
    client = Client(port)  # the one before may have been idle for too long
    reasons = Counter(
        explain(client, asked, answer, expected)
        for outcome in outcomes for asked, answer in outcome.different
    )
    latencies = [second for outcome in outcomes for second in outcome.seconds]
    percent = quantiles(latencies, n=100) if len(latencies) > 1 else [0.0] * 99
    return {
        "lang_pairs": lang_pairs,
        "clients": num_clients,
        "seconds": round(took, 1),
        "requests": len(latencies) + sum(len(outcome.errors) for outcome in outcomes),
        "fewest_answers_of_a_client": min(len(outcome.seconds) for outcome in outcomes),
        "errors": dict(Counter(error for outcome in outcomes for error in outcome.errors)),
        **{reason: reasons[reason] for reason in ("rounding", "mixed_up", "wrong")},
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
