"""HTTP/1.1 without sockets: bytes in, requests out; responses to bytes.

`RequestParser.feed` yields what the bytes completed: `Request`s, `Repeated` ones among them, `CONTINUE` where the
client waits for leave to send its body, and as the last thing an `HttpError` where the bytes are no HTTP; then nothing
more may be fed. llhttp (httptools) parses, in its strict mode; what it leaves open, and every limit, is checked here.
Requests and responses are webob's.
"""

from __future__ import annotations

import functools
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import httptools
import webob

from raiden.encoding import dumps

CONTINUE = object()
CONTINUE_BYTES = b"HTTP/1.1 100 Continue\r\n\r\n"


class HttpError(Exception):
    """An error to be told to the client as application/problem+json (RFC 9457).

    ``detail`` says what to do. ``close`` is set where the framing of what follows is in doubt.
    """

    def __init__(self, status: int, detail: str, *, close: bool = False, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.close = close
        self.headers = headers or {}


@dataclass(slots=True)
class HttpLimits:
    """Bytes and counts that a request may have; shared by all parsers, so that a reload changes them in one place."""

    max_url: int = 8192
    max_header: int = 16384
    max_headers: int = 100
    max_body: int = 1 << 20


class Request(webob.Request):
    """webob's request, with what the connection needs to know."""

    @property
    def keep_alive(self) -> bool:
        return self.environ["raiden.keep_alive"]

    @property
    def upgrade(self) -> bool:
        """The client asks for WebSocket, and has sent nothing else since."""
        return self.environ["raiden.upgrade"]

    @property
    def raw_headers(self) -> list[tuple[str, str]]:
        return self.environ["raiden.headers"]

    @property
    def fields(self) -> dict[str, str]:
        """The header fields by their names in lower case, of repeated ones the last; much faster than `headers`."""
        return self.environ["raiden.fields"]

    @property
    def head(self) -> Head | None:
        """Where it is remembered how it begins."""
        return self.environ.get("raiden.head")

    @property
    def raw_body(self) -> bytes:
        return self.environ["raiden.body"]

    @property
    def http10(self) -> bool:
        return self.environ["SERVER_PROTOCOL"] == "HTTP/1.0"


class Head:
    """The head of requests that were read before: how many bytes of body follow it, and the environ that it makes.
    ``plan`` is for who serves them, to keep what follows from it: then that is all that is kept."""

    __slots__ = ("data", "environ", "plan", "size")

    def __init__(self, data: bytes, size: int, environ: dict[str, object]) -> None:
        self.data = data
        self.size = size
        self.environ: dict[str, object] | None = environ
        self.plan: Any = None


class Repeated:
    """A request with a head that was read before: all that is new is its body."""

    __slots__ = ("body", "head", "remote")

    def __init__(self, head: Head, body: bytes, remote: str) -> None:
        self.head = head
        self.body = body
        self.remote = remote

    def request(self) -> Request:
        """The same as if it had been read anew."""
        if self.head.environ is None:
            limits = HttpLimits(max_body=len(self.body))
            (request,) = RequestParser(limits, self.remote).feed(self.head.data + self.body)
            assert isinstance(request, Request)
            return request
        environ = self.head.environ.copy()
        environ["raiden.head"] = self.head
        environ["REMOTE_ADDR"] = self.remote
        environ["wsgi.input"] = io.BytesIO(self.body)
        environ["raiden.body"] = self.body
        return Request(environ)


# Heads that are remembered, how many of them with an environ, and how long one may be.
MAX_HEADS, MAX_ENVIRONS, MAX_HEAD_BYTES = 10_000, 500, 1024
_END_OF_HEAD = b"\r\n\r\n"


class Heads:
    """Heads of requests that were read before, whoever sent them. A publisher sends the same one again and again, and
    to take it apart costs more than all else about a small message; those who wait for the same message by long-poll
    send equal ones. Those are remembered whose end nobody can doubt, that say how many bytes of body follow or are
    those of a GET, and nothing about the connection; not those with a key, which is another one each time. `clear` them
    when limits change."""

    _OTHERWISE = frozenset({"transfer-encoding", "upgrade", "expect", "idempotency-key"})

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}
        self._environs = 0

    def clear(self) -> None:
        self._known.clear()
        self._environs = 0

    def plan(self, head: Head, plan: object) -> None:
        """Keep this instead of the environ."""
        head.plan = plan
        if head.environ is not None:
            head.environ = None
            self._environs -= 1

    def find(self, data: bytes) -> tuple[Head, int] | None:
        """Of bytes that begin with a request, if its head is known: that, and where the body begins, which may not be
        there yet."""
        end = data.find(_END_OF_HEAD, 0, MAX_HEAD_BYTES) + 4
        found = self._known.get(data[:end])
        return None if found is None else (found, end)

    def remember(self, data: bytes, request: Request) -> None:
        """``data`` begins with this request, which llhttp has read."""
        if request.upgrade:
            return
        end = data.find(_END_OF_HEAD, 0, MAX_HEAD_BYTES) + 4
        head, body = data[:end], request.raw_body
        if (
            (not body and request.method != "GET")
            or end < 4
            or head.count(b"\n") != head.count(b"\r\n")
            or data[end : end + len(body)] != body
        ):
            return
        if request.http10 or not request.keep_alive or request.fields.keys() & self._OTHERWISE:
            return
        if len(self._known) >= MAX_HEADS:
            self.clear()
        if self._environs >= MAX_ENVIRONS:
            self._known = {head: known for head, known in self._known.items() if known.environ is None}
            self._environs = 0
        self._environs += 1
        known = self._known[head] = Head(head, len(body), {**request.environ, "raiden.body": b"", "wsgi.input": None})
        request.environ["raiden.head"] = known


class Json(NamedTuple):
    """An answer that many get: its body is JSON, or empty. ``fields`` of its head besides."""

    status: int
    body: bytes
    fields: tuple[tuple[str, str], ...] = ()

    def to_response(self) -> webob.Response:
        if not self.body:
            return webob.Response(status=self.status, content_type=None, headerlist=list(self.fields))
        response = webob.Response(status=self.status, body=self.body, content_type="application/json", charset="utf-8")
        response.headers.update(self.fields)
        return response


class RequestParser:
    """The requests of one connection, pipelined or not. ``heads`` are those that all connections share."""

    __slots__ = (
        "_body",
        "_body_size",
        "_events",
        "_fields",
        "_headers",
        "_heads",
        "_limits",
        "_parser",
        "_remote",
        "_size",
        "_state",
        "_url",
    )

    _IDLE, _HEAD, _BODY = range(3)

    def __init__(self, limits: HttpLimits, remote: str, heads: Heads | None = None) -> None:
        self._limits = limits
        self._heads = Heads() if heads is None else heads
        self._remote = remote
        self._events: list[object] = []
        self._parser = httptools.HttpRequestParser(self)
        self._state = self._IDLE
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._headers: list[tuple[str, str]] = []
        self._fields: dict[str, str] = {}
        self._body: list[bytes] = []
        self._size = 0
        self._body_size = 0

    @property
    def idle(self) -> bool:
        """No request has begun."""
        return self._state == self._IDLE

    def feed(self, data: bytes) -> Iterator[object]:
        """Yield `Request`, `Repeated`, `CONTINUE` or, last, `HttpError` for each thing that these bytes complete."""
        while data:
            began = self._state == self._IDLE
            if began:
                found = self._heads.find(data)
                if found is not None:
                    head, start = found
                    end = start + head.size
                    if end <= len(data) and head.size <= self._limits.max_body:
                        # The hot path of publishing.
                        yield Repeated(head, data[start:end], self._remote)
                        data = data[end:]
                        continue
            rest = b""
            body_size = self._body_size
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                rest = data[upgrade.args[0] :]
                self._finish_upgrade(rest)
            except httptools.HttpParserError as error:
                self._events.append(self._refusal(error))
            if not self._events and (self._state == self._HEAD or self._body_size == body_size):
                self._count(len(data))
            events, self._events = self._events, []
            if began and events and isinstance(events[0], Request):
                self._heads.remember(data, events[0])
            for event in events:
                yield event
                if isinstance(event, HttpError):
                    return
                if isinstance(event, Request) and event.upgrade:
                    return
            data = rest

    def _finish_upgrade(self, rest: bytes) -> None:
        """llhttp stops at an Upgrade, before any body; all but a WebSocket's are ignored (RFC 9110 section 7.8)."""
        request = self._events[-1] if self._events else None
        if not isinstance(request, Request):
            return  # refused already
        fields = self._fields
        if request.method == "CONNECT":
            self._events[-1] = HttpError(405, "CONNECT is not served: use GET, POST or DELETE", close=True)
        elif fields.get("content-length", "0") != "0" or "transfer-encoding" in fields:
            self._events[-1] = HttpError(400, "a request with a body can't upgrade: leave out Upgrade", close=True)
        elif fields.get("upgrade", "").lower() == "websocket":
            if request.method != "GET":
                self._events[-1] = HttpError(
                    405, "a WebSocket handshake is a GET", close=True, headers={"Allow": "GET"}
                )
            else:
                request.environ["raiden.upgrade"] = True
                request.environ["raiden.rest"] = rest
                return  # nothing more will be fed
        self._parser = httptools.HttpRequestParser(self)

    def _refusal(self, error: httptools.HttpParserError) -> HttpError:
        cause = error.__context__
        if isinstance(cause, HttpError):
            return cause
        if isinstance(error, httptools.HttpParserInvalidMethodError):
            return HttpError(400, "unknown method: use GET, HEAD, POST, DELETE or OPTIONS, in capitals", close=True)
        return HttpError(400, f"malformed request: {error}", close=True)

    def _count(self, size: int) -> None:
        """Bound what llhttp gathers of an unfinished head, chunk extension or trailer; what is complete is counted as
        it comes."""
        self._size += size
        if self._size > self._limits.max_header + self._limits.max_url:
            self._events.append(self._too_large() if self._state == self._HEAD else self._body_too_large())

    def _too_large(self) -> HttpError:
        if not self._url:
            return HttpError(414, f"the URL is longer than {self._limits.max_url} bytes: shorten it", close=True)
        return HttpError(431, f"the header is larger than {self._limits.max_header} bytes: shorten it", close=True)

    # What llhttp calls, in the order of the bytes.

    def on_message_begin(self) -> None:
        self._reset()
        self._state = self._HEAD

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > self._limits.max_url:
            raise HttpError(414, f"the URL is longer than {self._limits.max_url} bytes: shorten it", close=True)

    def on_header(self, name: bytes, value: bytes | None) -> None:
        value = value or b""
        if self._state != self._HEAD:
            self._body_size += len(name) + len(value)  # a trailer: counted, then ignored
            self._check_body()
            return
        # llhttp leaves the white space after a value, which is none of it (RFC 9110 section 5.5).
        self._headers.append((name.decode("latin-1"), value.decode("latin-1").rstrip(" \t")))
        if len(self._headers) > self._limits.max_headers:
            raise HttpError(431, f"more than {self._limits.max_headers} header fields: send fewer", close=True)
        self._body_size += len(name) + len(value)
        if self._body_size > self._limits.max_header:
            raise self._too_large()

    def on_headers_complete(self) -> None:
        self._state = self._BODY
        self._body_size = self._size = 0
        version = self._parser.get_http_version()
        fields = self._fields
        for name, value in self._headers:
            name = name.lower()
            if name in fields and name in ("host", "content-length", "transfer-encoding", "expect"):
                raise HttpError(400, f"more than one {name} field: send one", close=True)
            fields[name] = value
        if version not in ("1.0", "1.1"):
            raise HttpError(505, "this server speaks HTTP/1.1 and HTTP/1.0", close=True)
        host = fields.get("host")
        if (version == "1.1" and not host) or (host and not _is_host(host)):
            raise HttpError(400, "HTTP/1.1 needs one valid Host field, like 'Host: localhost:8088'", close=True)
        coding = fields.get("transfer-encoding")
        if coding is not None:
            if version == "1.0":
                raise HttpError(400, "HTTP/1.0 has no Transfer-Encoding: use Content-Length", close=True)
            if coding.lower() != "chunked":
                raise HttpError(501, "the only transfer coding served is 'chunked'", close=True)
        length = int(fields.get("content-length") or 0)
        if length > self._limits.max_body:
            raise self._body_too_large()
        expect = fields.get("expect")
        if expect is not None and version == "1.1":
            if expect.lower() != "100-continue":
                raise HttpError(417, "the only expectation served is '100-continue'", close=True)
            if length or coding:
                self._events.append(CONTINUE)

    def on_body(self, body: bytes) -> None:
        self._size = 0
        self._body_size += len(body)
        self._check_body()
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._state = self._IDLE
        try:
            self._events.append(self._request())
        except HttpError as error:
            self._events.append(error)

    def _check_body(self) -> None:
        if self._body_size > self._limits.max_body:
            raise self._body_too_large()

    def _body_too_large(self) -> HttpError:
        return HttpError(413, f"the body is larger than {self._limits.max_body} bytes: send less at once", close=True)

    def _request(self) -> Request:
        body = b"".join(self._body)
        if b"#" in self._url:
            raise HttpError(400, "a URL is sent without its fragment: write '#' as '%23'", close=True)
        path, _, query = self._url.partition(b"?")
        if path[:1] != b"/":
            scheme, _, rest = path.partition(b"://")
            if scheme.lower() in (b"http", b"https") and rest[:1] not in (b"", b"/", b"?"):
                path = b"/" + rest.partition(b"/")[2]
            elif self._parser.get_method() != b"CONNECT" and path != b"*":
                raise HttpError(400, "the request target must be a path, like '/channel'", close=True)
        version = self._parser.get_http_version()
        environ: dict[str, object] = {
            "REQUEST_METHOD": self._parser.get_method().decode(),
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query.decode("latin-1"),
            "SERVER_PROTOCOL": "HTTP/" + version,
            "SERVER_NAME": "",
            "SERVER_PORT": "",
            "REMOTE_ADDR": self._remote,
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "CONTENT_LENGTH": str(len(body)),
            "raiden.path": path.decode("latin-1"),
            "raiden.body": body,
            "raiden.headers": self._headers,
            "raiden.fields": self._fields,
            "raiden.keep_alive": self._parser.should_keep_alive(),
            "raiden.upgrade": False,
        }
        for name, value in self._headers:
            key = name.upper().replace("-", "_")
            if key == "CONTENT_TYPE":
                environ["CONTENT_TYPE"] = value
            elif key != "CONTENT_LENGTH":
                key = "HTTP_" + key
                environ[key] = f"{environ[key]},{value}" if key in environ else value
        return Request(environ)


@functools.lru_cache(1000)
def _is_host(host: str) -> bool:
    """A name or an address and perhaps a port (RFC 9110 section 7.2); user info, spaces and lists are refused."""
    return not any(c in ' \t,/@?#\\"<>^`{|}' or not 32 < ord(c) < 127 for c in host)


def problem_json(error: HttpError) -> bytes:
    """The error as JSON (RFC 9457)."""
    return dumps({"status": error.status, "title": HTTPStatus(error.status).phrase, "detail": error.detail})


def problem(error: HttpError) -> webob.Response:
    """The error as application/problem+json."""
    response = webob.Response(status=error.status, content_type="application/problem+json", charset=None)
    response.body = problem_json(error)
    response.headers.update(error.headers)
    return response


_date = (0.0, "")


def date() -> str:
    """The Date field's value (RFC 9110 section 6.6.1), made once a second."""
    global _date
    now = time.time()
    if now - _date[0] >= 1:
        _date = (float(int(now)), formatdate(now, usegmt=True))
    return _date[1]


def serialize(response: webob.Response, *, keep_alive: bool, http10: bool, head: bool = False) -> bytes:
    """A whole response in one piece, so that it leaves in one segment."""
    response.headers["Date"] = date()
    return _head(response, keep_alive, http10) + (b"" if head else response.body)


def serialize_stream_head(response: webob.Response, *, chunked: bool, http10: bool) -> bytes:
    """The head of a response whose body has no end yet: chunked, or for HTTP/1.0 ended by closing."""
    response.headers.pop("Content-Length", None)
    if chunked:
        response.headers["Transfer-Encoding"] = "chunked"
    response.headers["Date"] = date()
    return _head(response, chunked, http10)


def add_fields(head: bytes, fields: dict[str, str]) -> bytes:
    """A serialized head with more header fields."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return head[:-2] + lines.encode("latin-1", "replace") + b"\r\n"


def _head(response: webob.Response, keep_alive: bool, http10: bool) -> bytes:
    lines = [f"HTTP/1.1 {response.status}"]
    lines += [f"{name}: {value}" for name, value in response.headerlist]
    if not keep_alive:
        lines.append("Connection: close")
    elif http10:
        lines.append("Connection: keep-alive")
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"


@functools.lru_cache(16)
def _json_head(status: int, fields: tuple[tuple[str, str], ...], has_body: bool, now: str) -> bytes:
    """The head of a `Json` for a connection that goes on, up to its last field, as it is in this second."""
    response = Json(status, b"{}" if has_body else b"", fields).to_response()
    response.headers.pop("Content-Length", None)
    return serialize(response, keep_alive=True, http10=False, head=True)[:-2]


def json_bytes(answer: Json) -> bytes:
    """An answer for a connection that goes on."""
    status, body, fields = answer
    head = _json_head(status, fields, bool(body), date())
    return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body) if body else head + b"\r\n"
