"""ASGI middleware that turns requests away before anything of them is looked into."""

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


class KnownHosts:
    """Answers only requests whose Host header names this service.

    A page of another site can have its own name point to this machine; the browser then takes the
    service for a part of that site. Such requests carry that site's name.
    """

    def __init__(self, app: ASGIApp, hosts: Container[str]):
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and host_name(RequestHeaders(scope=scope)) not in self.hosts:
            turned_away = error(400, "the Host header names none of --allowed-hosts")
            return await turned_away(scope, receive, send)
        await self.app(scope, receive, send)


def host_name(headers: RequestHeaders) -> Optional[str]:
    """Return the name in a Host header, without its port and an IPv6 address's brackets."""
    try:
        return urlsplit("//" + headers.get("host", "")).hostname
    except ValueError:
        return None


class WholeBodies:
    """Reads the body of a POST and hands it on in one piece, if it is JSON of a size allowed.

    A page of another site can send a browser's user's POST without asking first, but not as JSON.
    """

    def __init__(self, app: ASGIApp, limits: Limits):
        self.app = app
        self.limits = limits
        self.num_requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        if self.num_requests >= self.limits.max_requests:
            return await busy()(scope, receive, send)
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
        announced = headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > self.limits.max_body_bytes:
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
            return  # the client has left
        if len(body) > self.limits.max_body_bytes:
            return await too_large(scope, receive, send)

        async def body_then_disconnect() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            whole, body = body, None
            return {"type": "http.request", "body": whole, "more_body": False}

        await self.app(scope, body_then_disconnect, send)


async def read_body(receive: Receive, max_bytes: int) -> Optional[bytes]:
    """Return a body, some of one that is larger than max_bytes, or None if the client left."""
    body = bytearray()  # chunks of one byte must not become a list of a million
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > max_bytes or not message.get("more_body", False):
            return bytes(body)


def is_json(content_type: str) -> bool:
    """Say whether a Content-Type is JSON's in UTF-8; any other parameter might change that."""
    return JSON_IN_UTF8.fullmatch(content_type) is not None


def busy() -> JSONResponse:
    answer = error(503, "too busy, try again")
    answer.headers["Retry-After"] = "1"
    return answer
