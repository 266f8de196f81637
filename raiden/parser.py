"""Bytes to HTTP/1.1 requests, without sockets.

`RequestParser.feed` yields what the bytes completed: `Request`s, `Repeated` ones among them, `CONTINUE` where the
client waits for leave to send its body, and as the last thing an `HttpError` where the bytes are no HTTP; then nothing
more may be fed. llhttp (httptools) parses, in its strict mode; what it leaves open, and every limit, is checked here.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator

import httptools

from raiden.heads import Heads, Repeated
from raiden.hosts import MAX_LENGTH
from raiden.http import HttpError, Request, target_environ
from raiden.limits import HttpLimits

CONTINUE = object()
# What the bytes that come next belong to.
_IDLE, _HEAD, _BODY = range(3)


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

    def __init__(self, limits: HttpLimits, remote: str, heads: Heads | None = None) -> None:
        self._limits = limits
        self._heads = Heads() if heads is None else heads
        self._remote = remote
        self._events: list[object] = []
        # It is half of what an idle connection would take, and knows whom it calls: it is there amid a request.
        self._parser: httptools.HttpRequestParser | None = None
        self._state = _IDLE
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._headers: list[tuple[str, str]] = []
        self._fields: dict[str, str] = {}
        self._body: list[bytes] = []
        self._size = 0
        self._body_size = 0

    def forget(self) -> None:
        """Nothing more comes, and what has come is of no use."""
        self._parser = None
        self._reset()

    @property
    def idle(self) -> bool:
        """No request has begun."""
        return self._state == _IDLE

    @property
    def fields(self) -> dict[str, str] | None:
        """The header fields of the request that is coming; None where its head has not come."""
        return None if self._state == _HEAD else self._fields or None

    def feed(self, data: bytes) -> Iterator[object]:
        """Yield `Request`, `Repeated`, `CONTINUE` or, last, `HttpError` for each thing that these bytes complete."""
        while data:
            began = self._state == _IDLE
            if began:
                found = self._heads.find(data)
                if found is not None:
                    head, own, start = found
                    if head.upgrade:
                        yield Repeated(head, own, data[start:], self._remote)
                        return
                    end = start + head.size
                    if end <= len(data) and head.size <= self._limits.max_body and len(own) <= self._limits.max_url:
                        yield Repeated(head, own, data[start:end], self._remote)
                        data = data[end:]
                        continue
            rest = b""
            parser = self._parser = self._parser or httptools.HttpRequestParser(self)
            body_size = self._body_size
            try:
                parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                rest = data[upgrade.args[0] :]
                self._finish_upgrade(rest)
            except httptools.HttpParserError as error:
                self._events.append(self._refusal(error))
            if not self._events and (self._state == _HEAD or self._body_size == body_size):
                self._count(len(data))
            if self._state == _IDLE:
                self._parser = None
            events, self._events = self._events, []
            if began and events and isinstance(events[0], Request):
                self._heads.remember(data, events[0])
            for event in events:
                if isinstance(event, HttpError) and event.fields is None:
                    event.fields = self.fields
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
        fields = request.fields
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
                request.environ["raiden.keep_alive"] = False  # nothing more will be fed
        event = self._events[-1]
        if isinstance(event, HttpError):
            event.fields = fields

    def _refusal(self, error: httptools.HttpParserError) -> HttpError:
        cause = error.__context__
        if isinstance(cause, HttpError):
            return cause
        if isinstance(error, httptools.HttpParserInvalidMethodError):
            return HttpError(400, "unknown method: use GET, HEAD, POST, DELETE or OPTIONS, in capitals", close=True)
        encode = "; write what a URL can't have as %20, %C3%A4 and so on" if "in url" in str(error) else ""
        return HttpError(400, f"malformed request: {error}{encode}", close=True)

    def _count(self, size: int) -> None:
        """Bound what llhttp gathers of an unfinished head, chunk extension or trailer; what is complete is counted as
        it comes."""
        self._size += size
        if self._size > self._limits.max_header + self._limits.max_url:
            self._events.append(self._too_large() if self._state == _HEAD else self._body_too_large())

    def _too_large(self) -> HttpError:
        if not self._url:
            return HttpError(414, f"the URL is longer than {self._limits.max_url} bytes: shorten it", close=True)
        return HttpError(431, f"the header is larger than {self._limits.max_header} bytes: shorten it", close=True)

    # What llhttp calls, in the order of the bytes.

    def on_message_begin(self) -> None:
        self._reset()
        self._state = _HEAD

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > self._limits.max_url:
            raise HttpError(414, f"the URL is longer than {self._limits.max_url} bytes: shorten it", close=True)

    def on_header(self, name: bytes, value: bytes | None) -> None:
        value = value or b""
        if self._state != _HEAD:
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
        self._state = _BODY
        self._body_size = self._size = 0
        assert self._parser is not None
        version = self._parser.get_http_version()
        fields = self._fields
        doubled = ""
        for name, value in self._headers:
            name = name.lower()
            if name in fields and name in ("host", "content-length", "transfer-encoding", "expect"):
                doubled = name
            fields[name] = value
        if doubled:
            raise HttpError(400, f"more than one {doubled} field: send one", close=True)
        if version not in ("1.0", "1.1"):
            raise HttpError(505, "this server speaks HTTP/1.1 and HTTP/1.0", close=True)
        host = fields.get("host")
        if (version == "1.1" and not host) or (host and not (len(host) <= MAX_LENGTH and _is_host(host))):
            raise HttpError(400, "HTTP/1.1 needs one valid Host field, like 'Host: localhost:8088'", close=True)
        authority = _absolute(self._url)[0]
        if authority:
            # "MUST ignore the received Host header field (if any) and instead use the host information of the
            # request-target" (RFC 9112 section 3.2.2).
            fields["host"] = authority.decode("latin-1")
            if not (len(authority) <= MAX_LENGTH and _is_host(fields["host"])):
                raise HttpError(
                    400, "the host of the request target is none: write it like 'localhost:8088'", close=True
                )
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
        self._state = _IDLE
        try:
            self._events.append(self._request())
            self._fields = {}  # they are the request's now
        except HttpError as error:
            self._events.append(error)

    def _check_body(self) -> None:
        if self._body_size > self._limits.max_body:
            raise self._body_too_large()

    def _body_too_large(self) -> HttpError:
        return HttpError(413, f"the body is larger than {self._limits.max_body} bytes: send less at once", close=True)

    def _request(self) -> Request:
        parser = self._parser
        assert parser is not None
        body = b"".join(self._body)
        if b"#" in self._url:
            raise HttpError(400, "a URL is sent without its fragment: write '#' as '%23'", close=True)
        target = _absolute(self._url)[1]
        if target[:1] != b"/" and parser.get_method() != b"CONNECT" and target.partition(b"?")[0] != b"*":
            raise HttpError(400, "the request target must be a path, like '/channel'", close=True)
        version = parser.get_http_version()
        environ: dict[str, object] = {
            "REQUEST_METHOD": parser.get_method().decode(),
            "SCRIPT_NAME": "",
            **target_environ(target),
            "SERVER_PROTOCOL": "HTTP/" + version,
            "SERVER_NAME": "",
            "SERVER_PORT": "",
            "REMOTE_ADDR": self._remote,
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "CONTENT_LENGTH": str(len(body)),
            "raiden.body": body,
            "raiden.headers": self._headers,
            "raiden.fields": self._fields,
            "raiden.keep_alive": parser.should_keep_alive(),
            "raiden.upgrade": False,
        }
        for name, value in self._headers:
            key = name.upper().replace("-", "_")
            if key == "CONTENT_TYPE":
                environ["CONTENT_TYPE"] = value
            elif key != "CONTENT_LENGTH":
                key = "HTTP_" + key
                environ[key] = f"{environ[key]},{value}" if key in environ else value
        if "host" in self._fields:
            environ["HTTP_HOST"] = self._fields["host"]
        return Request(environ)


def _absolute(url: bytes) -> tuple[bytes, bytes]:
    """The authority and the path, with the query, of a target in absolute form; of any other, nothing and itself."""
    scheme, _, rest = url.partition(b"://")
    if scheme.lower() not in (b"http", b"https") or rest[:1] in (b"", b"/", b"?"):
        return b"", url
    rest, mark, query = rest.partition(b"?")
    authority, _, path = rest.partition(b"/")
    return authority, b"/" + path + mark + query


@functools.lru_cache(1000)
def _is_host(host: str) -> bool:
    """A name or an address and perhaps a port (RFC 9110 section 7.2); user info, spaces and lists are refused."""
    return not any(c in ' \t,/@?#\\"<>^`{|}' or not 32 < ord(c) < 127 for c in host)
