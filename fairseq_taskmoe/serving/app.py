"""The HTTP service as an ASGI application: its endpoints, and the answer to each error."""

import asyncio
from contextlib import asynccontextmanager
from typing import Any, AsyncIterator, Coroutine, Dict, List, Optional, Sequence, TypeVar

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from ..engines.translator import TooLong, Translator
from ..version import __version__
from .batching import Batcher, QueueFull
from .guards import read_json_body
from .limits import Limits
from .messages import (
    Direction,
    Directions,
    Error,
    Health,
    TranslationAnswer,
    TranslationRequest,
    error,
    parse,
    printable,
)
from .metrics import CLIENT_CLOSED_REQUEST, Metrics, RequestMetrics
from .page import page

ERROR_STATUSES = (400, 404, 408, 413, 415, 422, 500, 503, 504)
TOO_BUSY = HTTPException(503, "too busy, try again", {"Retry-After": "1"})
Result = TypeVar("Result")


class Service:
    """The served models, each with its queue."""

    def __init__(self, models: Sequence[Translator], limits: Limits):
        self.limits = limits
        self.metrics = Metrics(lambda: sum(len(batcher.waiting) for batcher in self.batchers))
        self.batchers = [Batcher(model, limits, self.metrics) for model in models]
        self.directions: Dict[str, Batcher] = {
            lang_pair: batcher
            for batcher in self.batchers
            for lang_pair in batcher.translator.lang_pairs
        }
        self.tasks: List["asyncio.Task[None]"] = []
        self.num_requests = 0  # in progress
        self.stopping = False

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """Translate the sentences of all queues."""
        self.tasks = [asyncio.create_task(batcher.run()) for batcher in self.batchers]
        yield
        for task in self.tasks:
            task.cancel()

    @property
    def is_ready(self) -> bool:
        """Whether a new request will be translated."""
        return not self.stopping and not any(task.done() for task in self.tasks)

    async def translate(self, request: TranslationRequest) -> Dict[str, Any]:
        """Return the answer to a request. Raises HTTPException."""
        batcher = self.directions.get(request.lang_pair)
        if batcher is None:
            available = ", ".join(sorted(self.directions))
            raise HTTPException(
                404, f"no model for {printable(request.lang_pair)}; available: {available}"
            )
        try:
            found = await batcher.translate(request.lang_pair, request.texts, request.options)
        except TooLong as problem:
            name = "text" if isinstance(request.text, str) else f"text[{problem.index}]"
            raise HTTPException(422, f"{name}: {problem}") from None
        return {
            "lang_pair": request.lang_pair,
            "translations": [[each._asdict() for each in translations] for translations in found],
        }


def create_app(models: Sequence[Translator], limits: Limits, hosts: Optional[List[str]]) -> FastAPI:
    """Return the application; state.service.stopping makes /health answer 503.

    hosts are the allowed names in Host headers; None: any.
    """
    service = Service(models, limits)
    app = FastAPI(
        title="fairseq-taskmoe", version=__version__, lifespan=service.running,
        docs_url=None, redoc_url=None,  # they load scripts from another host
        redirect_slashes=False,
    )
    app.state.service = service
    add_translate(app, service)
    add_reports(app, service)
    paths = {getattr(route, "path", "") for route in app.routes}
    if hosts is not None:
        # DNS rebinding: another site makes its own name resolve to this machine, so that a browser
        # sends the site's requests here
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    app.add_middleware(RequestMetrics, metrics=service.metrics, paths=paths)  # the outermost

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, problem: StarletteHTTPException) -> Response:
        answer = error(problem.status_code, str(problem.detail))
        answer.headers.update(problem.headers or {})
        return answer

    @app.exception_handler(Exception)  # uvicorn logs it
    async def failed(request: Request, problem: Exception) -> Response:
        return error(500, "internal error")

    return app


def add_translate(app: FastAPI, service: Service) -> None:
    schema = {"schema": TranslationRequest.model_json_schema()}
    body = {"required": True, "content": {"application/json": schema}}

    # not FastAPI's own parsing: it accepts other content types, depending on its version
    @app.post(
        "/translate", response_model=TranslationAnswer, openapi_extra={"requestBody": body},
        responses={status: {"model": Error} for status in ERROR_STATUSES},
    )
    async def translate(request: Request) -> Any:
        """Translate texts of one direction."""
        if service.num_requests >= service.limits.max_requests:
            raise TOO_BUSY
        service.num_requests += 1
        try:
            return await answer(request, service)
        finally:
            service.num_requests -= 1


async def answer(request: Request, service: Service) -> Response:
    """Return the answer to a request, within its time. Raises HTTPException."""
    limits = service.limits
    deadline = asyncio.get_running_loop().time() + limits.timeout
    seconds = f"{limits.timeout:g} seconds"
    try:
        async with asyncio.timeout_at(deadline):
            body = await read_json_body(request, limits.max_body_bytes)
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive in {seconds}") from None
    except ClientDisconnect:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    work = service.translate(parse(body, limits))
    try:
        found = await while_connected(request, work, deadline)
    except QueueFull:
        raise TOO_BUSY from None
    except TimeoutError:
        raise HTTPException(504, f"timed out after {seconds}") from None
    if found is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return JSONResponse(found)


async def while_connected(
    request: Request, work: Coroutine[Any, Any, Result], deadline: float
) -> Optional[Result]:
    """Return the result of work, or None if the client disconnects first.

    Cancels work then, and at the deadline (of the loop's clock), which raises TimeoutError.
    """
    seconds = max(0.0, deadline - asyncio.get_running_loop().time())
    working = asyncio.ensure_future(work)
    disconnecting = asyncio.ensure_future(request.receive())  # the only message after the body
    try:
        await asyncio.wait(
            [working, disconnecting], timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if working.done():
            return working.result()
        if disconnecting.done():
            return None
        raise TimeoutError
    finally:
        working.cancel()
        disconnecting.cancel()


def add_reports(app: FastAPI, service: Service) -> None:
    html, page_headers = page()

    @app.get("/directions", response_model=Directions)
    async def directions() -> Any:
        """List the directions."""
        pairs = [(lang_pair, *lang_pair.split("-", 1)) for lang_pair in sorted(service.directions)]
        return Directions(
            directions=[
                Direction(lang_pair=pair, source=source, target=target)
                for pair, source, target in pairs
            ]
        )

    @app.get("/health", response_model=Health, responses={503: {"model": Error}})
    async def health() -> Any:
        """Return 200 if new requests will be translated, 503 while the service stops."""
        return Health(status="ok") if service.is_ready else error(503, "stopping")

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Any:
        """Metrics for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def index() -> Any:
        return Response(html, headers=page_headers, media_type="text/html")
