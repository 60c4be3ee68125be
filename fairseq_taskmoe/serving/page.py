"""The HTML page, and headers that restrict it to its own script, style and service."""

import hashlib
import re
from base64 import b64encode
from pathlib import Path
from typing import Dict, Tuple

FILE = Path(__file__).with_name("page.html")


def page() -> Tuple[bytes, Dict[str, str]]:
    """Return the page and its headers."""
    html = FILE.read_bytes()
    policy = [
        "default-src 'none'",
        f"script-src {hashes(html, b'script')}",
        f"style-src {hashes(html, b'style')}",
        "connect-src 'self'",
        "img-src data:",  # the empty icon
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    headers = {
        "Content-Security-Policy": "; ".join(policy),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return html, headers


def hashes(html: bytes, tag: bytes) -> str:
    """Return the hashes of the elements of a tag, as in a Content-Security-Policy."""
    texts = re.findall(b"<%b>(.*?)</%b>" % (tag, tag), html, re.DOTALL)
    digests = [b64encode(hashlib.sha256(text).digest()).decode() for text in texts]
    return " ".join(f"'sha256-{digest}'" for digest in digests)
