"""Metrics for Prometheus, and the middleware that counts requests."""

import time
from typing import Callable, Container

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLIENT_CLOSED_REQUEST = 499  # nginx's status of a request whose client disconnected
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BATCH_SENTENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """The metrics of one service; another service in this process has its own."""

    def __init__(self, num_waiting: Callable[[], int]):
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "taskmoe_requests", "Answered requests", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "taskmoe_request_seconds",
            "Seconds from the head of a request to the end of its answer",
            ["path"], buckets=SECONDS, registry=registry,
        )
        self.sentences = Counter(
            "taskmoe_sentences", "Translated texts", ["lang_pair"], registry=registry
        )
        self.source_pieces = Counter(
            "taskmoe_source_pieces", "Pieces of translated texts", ["lang_pair"], registry=registry
        )
        self.batch_sentences = Histogram(
            "taskmoe_batch_sentences", "Texts in a batch",
            buckets=BATCH_SENTENCES, registry=registry,
        )
        waiting = Gauge("taskmoe_waiting_sentences", "Texts in the queues", registry=registry)
        waiting.set_function(num_waiting)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class RequestMetrics:
    """ASGI middleware that counts requests by path and status, and measures their time."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Container[str]):
        self.app = app
        self.metrics = metrics
        self.paths = paths  # others count as "other": clients must not create labels

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = time.monotonic()
        status = CLIENT_CLOSED_REQUEST

        async def record_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, record_status)
        except Exception:
            status = 500  # the answer of the exception handler
            raise
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.monotonic() - started)
