"""HTTP/1.1 without sockets: requests, refusals, and responses to bytes. Requests and responses are webob's;
`raiden.protocols.parser` reads them.
"""

from __future__ import annotations

import functools
import io
import math
import random
import time
from collections.abc import Mapping, Sequence
from email.utils import formatdate
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import unquote_to_bytes

import webob
from webob.util import status_reasons

from raiden.model.encoding import dumps
from raiden.model.refusals import PreconditionFailed, Refusal, TooFast, Unauthorized

# Fields of every answer that has no others of these names. An answer is right at one moment only, and how much of it a
# page may read depends on the page (the Fetch standard, section 3.3.5, "CORS protocol and HTTP caches").
COMMON = (("Cache-Control", "no-store"), ("Vary", "Origin"))
# Statuses that pass, and the bounds of the seconds after which a client may try again. The number is drawn anew for
# each refusal, so that clients that were refused together don't come back together.
PASSING, RETRY_AFTER = (429, 503), (1, 5)
# The methods that clients may use.
METHODS = "GET, HEAD, POST, DELETE, OPTIONS"
# The type of a problem that is a limit of rates.
_QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
CONTINUE_BYTES = b"HTTP/1.1 100 Continue\r\n\r\n"
# Statuses of answers that have no body (RFC 9112 section 6.3).
_BODILESS = (204, 304)


class HttpError(Refusal):
    """A refusal that only HTTP has, or one with ``headers`` of its answer. ``close`` is set where it is in doubt how
    the next bytes are framed. ``fields`` are the header fields of a request that was refused before it was whole, if
    its head has come. ``event``: the client takes server-sent events. ``too_fast`` is the refusal of a limit that this
    tells of.
    """

    fields: Mapping[str, str] | None = None
    event = False
    too_fast: TooFast | None = None

    def __init__(self, status: int, detail: str, *, close: bool = False, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.close = close
        self.headers = headers or {}


class Request(webob.Request):
    """webob's request, with what the connection needs to know."""

    @property
    def keep_alive(self) -> bool:
        return self.environ["raiden.keep_alive"]

    @property
    def upgrade(self) -> bool:
        """Whether the client asks for WebSocket, and has sent nothing else since."""
        return self.environ["raiden.upgrade"]

    @property
    def raw_headers(self) -> Sequence[tuple[str, str]]:
        return self.environ["raiden.headers"]

    @property
    def fields(self) -> Mapping[str, str]:
        """The header fields by their names in lower case, of repeated ones the last; much faster than `headers`."""
        return self.environ["raiden.fields"]

    @property
    def head(self) -> Any:
        """The request's `raiden.protocols.heads.Head`; None where its head is not remembered."""
        return self.environ.get("raiden.head")

    @property
    def raw_body(self) -> bytes:
        return self.environ["raiden.body"]

    @property
    def is_streamed(self) -> bool:
        """Whether its body is not there yet, but comes in pieces behind it."""
        return self.environ.get("raiden.streamed", False)

    def is_whole(self) -> None:
        """The body of a streamed request has come: the connection goes on, if the client wants that."""
        self.environ["raiden.keep_alive"] = self.environ.get("raiden.goes_on", self.keep_alive)

    @property
    def waits_for_leave(self) -> bool:
        """Whether the client of a streamed request waits for leave to send its body."""
        return self.environ.get("raiden.waits", False)

    @property
    def websocket_key(self) -> str:
        """The key of a handshake."""
        return self.fields.get("sec-websocket-key", "")

    @property
    def http10(self) -> bool:
        return self.environ["SERVER_PROTOCOL"] == "HTTP/1.0"


def target_environ(target: bytes) -> dict[str, str]:
    """The entries of an environ that depend on the request target, a path with or without a query."""
    path, _, query = target.partition(b"?")
    return {
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query.decode("latin-1"),
        "raiden.path": path.decode("latin-1"),
    }


def environ(
    method: str, target: bytes, version: str, remote: str, headers: Sequence[tuple[str, str]],
    fields: Mapping[str, str], body: bytes, *, keep_alive: bool,
) -> dict[str, Any]:  # fmt: skip
    """The environ of a webob request (PEP 3333), with what the connection needs to know."""
    found: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        **target_environ(target),
        "SERVER_PROTOCOL": f"HTTP/{version}",
        "SERVER_NAME": "",
        "SERVER_PORT": "",
        "REMOTE_ADDR": remote,
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "CONTENT_LENGTH": str(len(body)),
        "raiden.body": body,
        "raiden.headers": tuple(headers),
        "raiden.fields": MappingProxyType(fields),
        "raiden.keep_alive": keep_alive,
        "raiden.upgrade": False,
    }
    for name, value in headers:
        if "_" in name:
            continue  # it would be taken for the field with hyphens, which a proxy may have set
        key = name.upper().replace("-", "_")
        if key == "CONTENT_TYPE":
            found["CONTENT_TYPE"] = value
        elif key != "CONTENT_LENGTH":
            key = "HTTP_" + key
            found[key] = f"{found[key]},{value}" if key in found else value
    if "host" in fields:
        found["HTTP_HOST"] = fields["host"]
    return found


Fields: TypeAlias = "tuple[tuple[str, str], ...]"


class Json(NamedTuple):
    """An answer of a frequent kind. Its body is empty, or JSON unless ``fields``, which are further fields of its head,
    have another Content-Type."""

    status: int
    body: bytes
    fields: Fields = ()

    def to_response(self) -> webob.Response:
        if not self.body:
            response = webob.Response(status=self.status, content_type=None, headerlist=list(self.fields))
            if self.status not in _BODILESS:
                response.content_length = 0
            return response
        response = webob.Response(status=self.status, body=self.body, content_type="application/json", charset="utf-8")
        response.headers.update(self.fields)
        return response


def problem_json(refusal: Refusal) -> bytes:
    """The refusal as JSON (RFC 9457); that of a limit is of the type that draft-ietf-httpapi-ratelimit-headers-11,
    section 5.1, has for it."""
    status, title = refusal.status, HTTPStatus(refusal.status).phrase
    told: dict[str, Any] = {"status": status, "title": title, "detail": refusal.detail, **refusal.more}
    too_fast = _too_fast(refusal)
    if too_fast is not None:
        told |= {"type": _QUOTA_EXCEEDED, "violated-policies": [too_fast.policy], "retry_after": retry_after(too_fast)}
    return dumps(told)


def retry_after(too_fast: TooFast) -> float:
    """The seconds after which a client may try again, as commands and problems tell it: never too few."""
    return math.ceil(1000 * too_fast.wait) / 1000


def _too_fast(refusal: Refusal) -> TooFast | None:
    return refusal if isinstance(refusal, TooFast) else refusal.too_fast if isinstance(refusal, HttpError) else None


def _rate_fields(too_fast: TooFast) -> dict[str, str]:
    """The fields that tell of a limit, and when to try again (draft-ietf-httpapi-ratelimit-headers-11)."""
    seconds = math.ceil(too_fast.wait)
    return {
        "Retry-After": str(seconds),
        "RateLimit": f'"{too_fast.policy}";r={too_fast.left};t={seconds}',
        "RateLimit-Policy": f'"{too_fast.policy}";q={too_fast.quota};w={too_fast.window}',
    }


def problem(refusal: Refusal) -> webob.Response:
    """The refusal as application/problem+json; or as a server-sent event, where it passes and the client takes these. A
    browser's EventSource gives up for good on any status but 200 (the HTML standard, section 9.2.2, "fail the
    connection"), but comes back after the end of the events, as late as ``retry`` says."""
    if isinstance(refusal, HttpError) and refusal.event and refusal.status in PASSING:
        first, last = RETRY_AFTER
        too_fast = refusal.too_fast
        milliseconds = random.randint(1000 * first, 1000 * last)
        if too_fast is not None:
            milliseconds = math.ceil(1000 * too_fast.wait)
        response = webob.Response(content_type="text/event-stream", charset=None)
        response.body = b"retry: %d\nevent: refused\ndata: %b\n\n" % (milliseconds, problem_json(refusal))
        return response
    response = webob.Response(status=refusal.status, content_type="application/problem+json", charset=None)
    response.body = problem_json(refusal)
    if refusal.status in PASSING:
        response.headers["Retry-After"] = str(random.randint(*RETRY_AFTER))
    too_fast = _too_fast(refusal)
    if too_fast is not None:
        response.headers.update(_rate_fields(too_fast))
    if isinstance(refusal, HttpError):
        response.headers.update(refusal.headers)
    if isinstance(refusal, PreconditionFailed):
        response.headers["Raiden-Cursor"] = refusal.cursor
    if isinstance(refusal, Unauthorized):
        response.headers["WWW-Authenticate"] = 'Bearer error="invalid_token"' if refusal.bad else "Bearer"
    return response


def limited(too_fast: TooFast) -> Json:
    """The refusal of a limit, as `problem` would answer a client that takes no events: a flood gets many."""
    fields = (("Content-Type", "application/problem+json"), *_rate_fields(too_fast).items())
    return Json(too_fast.status, problem_json(too_fast), fields)


_date = (0, "")


def date() -> str:
    """The Date field's value (RFC 9110 section 6.6.1), made once a second."""
    global _date
    now = int(time.time())
    if now != _date[0]:  # later, or earlier: a clock can be set back
        _date = (now, formatdate(now, usegmt=True))
    return _date[1]


def serialize(response: webob.Response, *, keep_alive: bool, http10: bool, head: bool = False) -> bytes:
    """A whole response in one piece, so that it leaves in one segment."""
    response.headers["Date"] = date()
    return _head(response, keep_alive, http10) + (b"" if head else response.body)


def stream_response(fields: Fields) -> webob.Response:
    """A response whose body has no end yet."""
    response = webob.Response(content_type=None, headerlist=list(fields))
    del response.headers["Content-Length"]
    return response


def stream_bytes(fields: Fields, *, http10: bool) -> bytes:
    """The head of a stream: chunked, or for HTTP/1.0 ended by closing."""
    return _stream_bytes(fields, http10, date())


@functools.lru_cache(64)
def _stream_bytes(fields: Fields, http10: bool, now: str) -> bytes:
    """The head of a stream as it is in this second."""
    response = stream_response(fields)
    if not http10:
        response.headers["Transfer-Encoding"] = "chunked"
    response.headers["Date"] = now
    return _head(response, not http10, http10)


def _head(response: webob.Response, keep_alive: bool, http10: bool) -> bytes:
    lines = [f"HTTP/1.1 {response.status}"]
    lines += [f"{name}: {value}" for name, value in response.headerlist]
    lines += [f"{name}: {value}" for name, value in COMMON if name not in response.headers]
    if not keep_alive:
        lines.append("Connection: close")
    elif http10:
        lines.append("Connection: keep-alive")
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"


@functools.lru_cache(16)
def _json_head(status: int, fields: Fields, has_body: bool, now: str) -> bytes:
    """The head of a `Json` for a connection that goes on, up to its last field, as it is in this second."""
    names = {name.lower() for name, _ in fields}
    lines = [f"HTTP/1.1 {status} {status_reasons[status]}"]
    if has_body and "content-type" not in names:
        lines.append("Content-Type: application/json")
    lines += [f"{name}: {value}" for name, value in fields]
    lines.append(f"Date: {now}")
    lines += [f"{name}: {value}" for name, value in COMMON if name.lower() not in names]
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n"


def json_bytes(answer: Json, more: bytes = b"") -> bytes:
    """An answer for a connection that goes on. ``more`` are fields that differ each time, as bytes."""
    status, body, fields = answer
    head = _json_head(status, fields, bool(body), date()) + more
    return head + b"\r\n" if status in _BODILESS else b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
