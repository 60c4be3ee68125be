"""What the service counts, in Prometheus' format, and the middleware that counts answers."""

import time
from typing import Callable, Container

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLIENT_LEFT = 499  # status of an answer that nobody waits for, as nginx counts it
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BATCH_SENTENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """The counters of one service, apart from those of any other in this process."""

    def __init__(self, num_waiting: Callable[[], int]):
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "taskmoe_requests", "Answered requests", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "taskmoe_request_seconds", "From a request's headers to the end of its answer",
            ["path"], buckets=SECONDS, registry=registry,
        )
        self.sentences = Counter(
            "taskmoe_sentences", "Translated texts", ["lang_pair"], registry=registry
        )
        self.source_pieces = Counter(
            "taskmoe_source_pieces", "Pieces of translated texts", ["lang_pair"], registry=registry
        )
        self.batch_sentences = Histogram(
            "taskmoe_batch_sentences", "Texts that were translated together",
            buckets=BATCH_SENTENCES, registry=registry,
        )
        waiting = Gauge("taskmoe_waiting_sentences", "Texts in the queues", registry=registry)
        waiting.set_function(num_waiting)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class CountAnswers:
    """ASGI middleware: counts answers by path and status, and how long they took."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Container[str]):
        self.app = app
        self.metrics = metrics
        self.paths = paths  # any other is counted as "other": clients must not make up labels

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = time.monotonic()
        status = CLIENT_LEFT

        async def noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting_status)
        except Exception:
            status = 500  # as it is answered, further out
            raise
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.monotonic() - started)
