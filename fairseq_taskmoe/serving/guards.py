"""ASGI middleware that rejects requests by their Host header, content type and size."""

import asyncio
import re
from typing import Container, Optional
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers as RequestHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .limits import Limits
from .messages import error

JSON_IN_UTF8 = re.compile(
    r'application/json[ \t]*(;[ \t]*charset=("?)utf-?8\2[ \t]*)?', re.ASCII | re.IGNORECASE
)


class AllowedHosts:
    """Answers only requests whose Host header has an allowed name.

    Protects from DNS rebinding: another site makes its own name resolve to this machine, so that a
    browser sends the site's requests here. Starlette's TrustedHostMiddleware answers in plain text.
    """

    def __init__(self, app: ASGIApp, hosts: Container[str]):
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and host_name(RequestHeaders(scope=scope)) not in self.hosts:
            answer = error(400, "the Host header is none of --allowed-hosts")
            return await answer(scope, receive, send)
        await self.app(scope, receive, send)


def host_name(headers: RequestHeaders) -> Optional[str]:
    """Return the name in a Host header, without port and without the brackets of IPv6."""
    try:
        return urlsplit("//" + headers.get("host", "")).hostname
    except ValueError:
        return None


class BodyReader:
    """Reads the whole body of a POST before the application, if it is JSON and not too large.

    The content type matters: a page of another site can make a browser send a POST here, but not
    with JSON.
    """

    def __init__(self, app: ASGIApp, limits: Limits):
        self.app = app
        self.limits = limits
        self.num_requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        if self.num_requests >= self.limits.max_requests:
            return await too_busy()(scope, receive, send)
        self.num_requests += 1
        try:
            await self.read_then_call(scope, receive, send)
        finally:
            self.num_requests -= 1

    async def read_then_call(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = RequestHeaders(scope=scope)
        if not is_json(headers.get("content-type", "")):
            message = "send the body as Content-Type: application/json, in UTF-8"
            return await error(415, message)(scope, receive, send)
        too_large = error(413, f"the body has more than {self.limits.max_body_bytes} bytes")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self.limits.max_body_bytes:
            return await too_large(scope, receive, send)
        deadline = asyncio.get_running_loop().time() + self.limits.timeout
        scope["state"] = {**scope.get("state", {}), "deadline": deadline}
        try:
            async with asyncio.timeout_at(deadline):
                body = await read_body(receive, self.limits.max_body_bytes)
        except TimeoutError:
            message = f"the body did not arrive in {self.limits.timeout:g} seconds"
            return await error(408, message)(scope, receive, send)
        if body is None:
            return  # the client disconnected
        if len(body) > self.limits.max_body_bytes:
            return await too_large(scope, receive, send)

        async def body_then_disconnect() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            content, body = body, None
            return {"type": "http.request", "body": content, "more_body": False}

        await self.app(scope, body_then_disconnect, send)


async def read_body(receive: Receive, max_bytes: int) -> Optional[bytes]:
    """Return a body, cut where it exceeds max_bytes, or None if the client disconnects."""
    body = bytearray()  # not a list of chunks, which may be of one byte each
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > max_bytes or not message.get("more_body", False):
            return bytes(body)


def is_json(content_type: str) -> bool:
    """Return whether a Content-Type is JSON in UTF-8, without other parameters."""
    return JSON_IN_UTF8.fullmatch(content_type) is not None


def too_busy() -> JSONResponse:
    answer = error(503, "too busy, try again")
    answer.headers["Retry-After"] = "1"
    return answer
