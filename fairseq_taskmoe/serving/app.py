"""The HTTP service as an ASGI application: endpoints, and what each mistake is answered."""

import asyncio
from contextlib import asynccontextmanager
from typing import Any, AsyncIterator, Coroutine, Dict, List, Optional, Sequence, TypeVar

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException as StarletteHTTPException

from ..engines.translator import TooLong, Translator
from ..version import __version__
from .batching import Batcher, TooBusy
from .guards import KnownHosts, WholeBodies, busy
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
    shown,
)
from .metrics import CLIENT_LEFT, CountAnswers, Metrics
from .page import page

MISTAKES = (400, 404, 408, 413, 415, 422, 500, 503, 504)
Result = TypeVar("Result")


class Service:
    """The models that are served, each with its queue."""

    def __init__(self, models: Sequence[Translator], limits: Limits):
        self.limits = limits
        self.metrics = Metrics(lambda: sum(len(batcher.waiting) for batcher in self.batchers))
        self.batchers = [Batcher(model, limits, self.metrics) for model in models]
        self.directions: Dict[str, Batcher] = {
            lang_pair: batcher
            for batcher in self.batchers
            for lang_pair in batcher.translator.lang_pairs
        }
        self.runs: List["asyncio.Task[None]"] = []
        self.stopping = False

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """Translate what is asked for."""
        self.runs = [asyncio.create_task(batcher.run()) for batcher in self.batchers]
        yield
        for run in self.runs:
            run.cancel()

    @property
    def able(self) -> bool:
        """Whether a translation that is asked for now will be made."""
        return not self.stopping and not any(run.done() for run in self.runs)

    async def translate(self, asked: TranslationRequest) -> Dict[str, Any]:
        """Return the answer to a request, or raise the HTTPException that is the answer."""
        batcher = self.directions.get(asked.lang_pair)
        if batcher is None:
            there_are = ", ".join(sorted(self.directions))
            raise HTTPException(
                404, f"no model for {shown(asked.lang_pair)}; there are: {there_are}"
            )
        try:
            found = await batcher.translate(asked.lang_pair, asked.texts, asked.options)
        except TooLong as problem:
            name = "text" if isinstance(asked.text, str) else f"text[{problem.index}]"
            raise HTTPException(422, f"{name}: {problem}") from None
        return {
            "lang_pair": asked.lang_pair,
            "translations": [[each._asdict() for each in translations] for translations in found],
        }


def create_app(models: Sequence[Translator], limits: Limits, hosts: Optional[List[str]]) -> FastAPI:
    """Return the application; its state.service says whether it is stopping.

    hosts are the names in Host headers that it answers to; None: any.
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
    app.add_middleware(WholeBodies, limits=limits)
    if hosts is not None:
        app.add_middleware(KnownHosts, hosts=hosts)
    app.add_middleware(CountAnswers, metrics=service.metrics, paths=paths)  # the outermost

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

    # FastAPI takes other bodies for JSON too, and says so differently from version to version
    @app.post(
        "/translate", response_model=TranslationAnswer, openapi_extra={"requestBody": body},
        responses={status: {"model": Error} for status in MISTAKES},
    )
    async def translate(request: Request) -> Any:
        """Translate texts of one direction."""
        asked = parse(await request.body(), service.limits)
        try:
            answer = await while_connected(
                request, service.translate(asked), request.state.deadline
            )
        except TooBusy:
            return busy()
        except TimeoutError:
            raise HTTPException(504, f"gave up after {service.limits.timeout:g} seconds") from None
        return Response(status_code=CLIENT_LEFT) if answer is None else JSONResponse(answer)


async def while_connected(
    request: Request, work: Coroutine[Any, Any, Result], deadline: float
) -> Optional[Result]:
    """Return the result of work, or None if the client leaves before it is done.

    Work is cancelled then, and at the deadline (of the loop's clock), which raises TimeoutError.
    """
    seconds = max(0.0, deadline - asyncio.get_running_loop().time())
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(request.receive())  # nothing else comes after the body
    try:
        await asyncio.wait(
            [working, leaving], timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if working.done():
            return working.result()
        if leaving.done():
            return None
        raise TimeoutError
    finally:
        working.cancel()
        leaving.cancel()


def add_reports(app: FastAPI, service: Service) -> None:
    html, page_headers = page()

    @app.get("/directions", response_model=Directions)
    async def directions() -> Any:
        """List what is translated."""
        pairs = [(lang_pair, *lang_pair.split("-", 1)) for lang_pair in sorted(service.directions)]
        return Directions(
            directions=[
                Direction(lang_pair=pair, source=source, target=target)
                for pair, source, target in pairs
            ]
        )

    @app.get("/health", response_model=Health, responses={503: {"model": Error}})
    async def health() -> Any:
        """Say whether translations are made: 503 while the service stops."""
        return Health(status="ok") if service.able else error(503, "stopping")

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Any:
        """Counts for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def index() -> Any:
        return Response(html, headers=page_headers, media_type="text/html")
