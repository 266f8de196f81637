"""The page at ``/``, which subscribes and publishes in a browser. It needs nothing from elsewhere, and may load
nothing."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from pathlib import Path
from urllib.parse import quote

import webob

from raiden.protocols.http import Request


@functools.cache
def _page() -> tuple[bytes, str]:
    """The page, and its Content-Security-Policy: the page's own scripts and styles may run, and talk to this node."""
    text = Path(__file__).with_name("page.html").read_bytes()

    def hashes(tag: bytes) -> str:
        found = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), text, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(inner).digest()).decode()}'" for inner in found)

    policy = (
        f"default-src 'none'; script-src {hashes(b'script')}; style-src {hashes(b'style')}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy


def response() -> webob.Response:
    """The page."""
    text, policy = _page()
    found = webob.Response(body=text, content_type="text/html", charset="utf-8")
    found.headers["Content-Security-Policy"] = policy
    found.headers["X-Content-Type-Options"] = "nosniff"
    found.headers["Referrer-Policy"] = "no-referrer"
    return found


def lead_to(request: Request, name: str) -> webob.Response:
    """Redirect a browser that opens a channel's address to the page, with the channel filled in and the rest of the
    query. The address is relative, so that it holds behind a proxy that puts the node below a path of its own."""
    up = "../" * (request.environ["raiden.path"].count("/") - 1) or "./"
    query = f"&{request.query_string}" if request.query_string else ""
    found = webob.Response(status=303, content_type=None)
    found.headers["Location"] = f"{up}?channel={quote(name, safe='')}{query}"
    return found
