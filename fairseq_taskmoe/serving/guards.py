"""Reading the body of a request, if it is JSON and not too large."""

import re

from fastapi import HTTPException, Request

JSON_IN_UTF8 = re.compile(
    r'application/json[ \t]*(;[ \t]*charset=("?)utf-?8\2[ \t]*)?', re.ASCII | re.IGNORECASE
)


async def read_json_body(request: Request, max_bytes: int) -> bytes:
    """Return the body of a request. Raises HTTPException, or ClientDisconnect.

    The content type matters: a page of another site can make a browser send a POST here, but not
    with JSON. Starlette's RequestBodyLimitMiddleware would answer in plain text.
    """
    if not is_json(request.headers.get("content-type", "")):
        raise HTTPException(415, "send the body as Content-Type: application/json, in UTF-8")
    too_large = HTTPException(413, f"the body has more than {max_bytes} bytes")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > max_bytes:
        raise too_large
    body = bytearray()  # not a list of chunks, which may be of one byte each
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)


def is_json(content_type: str) -> bool:
    """Return whether a Content-Type is JSON in UTF-8, without other parameters."""
    return JSON_IN_UTF8.fullmatch(content_type) is not None
