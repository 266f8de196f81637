"""Bytes to HTTP/1.1 requests, without sockets.

`RequestParser.feed` yields an event for everything that the bytes completed: `Request`s, `Repeated` ones among them,
`CONTINUE` where the client waits for leave to send its body, and as the last event an `HttpError` where the bytes are
no HTTP; then nothing more may be fed. A request whose body is a stream (`Request.is_streamed`) comes when its head has;
its body follows in pieces, as bytes, and then `END`. llhttp (httptools) parses, in its strict mode; all that it does
not check, and every limit, is checked here.

The caller may stop after any event. The remaining bytes stay as they are, and no request is made of them before it is
asked for: of a client that sends thousands of requests at once one is parsed, and the others cost only their bytes. To
that end llhttp gets no more at once than up to the end of a head or of a body.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import httptools

from raiden.protocols import framing
from raiden.protocols.heads import Heads, Repeated
from raiden.protocols.http import HttpError, Request, environ
from raiden.protocols.limits import HttpLimits
from raiden.protocols.targets import absolute
from raiden.protocols.unfinished import FULL, Full, Share, Unfinished

CONTINUE = object()
# The end of the body of a request that is streamed.
END = object()
# Bytes that may wait behind a request that is under way, besides those of one more read.
MAX_PIPELINED: Final = 16384

_IDLE: Final = 0
_HEAD: Final = 1
_BODY: Final = 2
# Bytes that a header field takes besides its text, and once more when it is also kept by its name.
FIELD: Final = 160
# The parameter of a POST whose body is a stream of messages.
STREAM: Final = b"_stream=1"
# The end of a head, and of a body in chunks.
_END: Final = b"\r\n\r\n"


class RequestParser:
    """The requests of one connection, pipelined or not. All connections share ``heads``, and ``unfinished``, the sum of
    the bytes that they hold of unfinished requests."""

    __slots__ = (
        "_at",
        "_body",
        "_body_size",
        "_data",
        "_events",
        "_fields",
        "_head_size",
        "_headers",
        "_heads",
        "_length",
        "_limits",
        "_parser",
        "_remote",
        "_share",
        "_size",
        "_state",
        "_streamed",
        "_unfinished",
        "_url",
    )

    def __init__(
        self, limits: HttpLimits, remote: str, heads: Heads | None = None, unfinished: Unfinished | None = None
    ) -> None:  # fmt: skip
        self._limits = limits
        self._heads = Heads() if heads is None else heads
        self._unfinished = unfinished or Unfinished()
        self._remote = remote
        # The bytes that were fed, and the index up to which they were parsed.
        self._data = b""
        self._at = 0
        self._events: list[object] = []
        # Created only while a request is arriving: it would double an idle connection's memory, and it forms a
        # reference cycle.
        self._parser: httptools.HttpRequestParser | None = None
        self._share: Share | None = None
        self._state = _IDLE
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._headers: list[tuple[str, str]] = []
        self._fields: dict[str, str] = {}
        self._body: bytearray | None = None
        # Whether the body is passed on as it comes.
        self._streamed = False
        # The length of the body, if the head says so.
        self._length = 0
        self._size = 0
        self._head_size = 0
        self._body_size = 0

    def forget(self) -> None:
        """Drop all that has come: it is of no use, and nothing more comes."""
        self._parser = None
        self._data = b""
        self._at = 0
        self._release()
        self._reset()

    @property
    def idle(self) -> bool:
        """Whether no request has begun."""
        return self._state == _IDLE and not self._data

    @property
    def waiting(self) -> int:
        """The number of bytes that were not parsed yet."""
        return len(self._data) - self._at

    def rest(self) -> bytes:
        """Return the bytes behind the last event, which are not this parser's; nothing more may be fed."""
        rest = self._data[self._at :]
        self.forget()
        return rest

    def left(self, timeout: float) -> float:
        """The seconds for which to wait for the rest of a request, where a small request has ``timeout``."""
        return 0.0 if self._share is None else self._share.left(timeout)

    @property
    def fields(self) -> Mapping[str, str] | None:
        """The header fields of the request that is coming; None where its head has not come."""
        return None if self._state == _HEAD else self._fields or None

    def whole(self, data: bytes) -> Repeated | None:
        """The request in these bytes, where nothing came before them, they are exactly one request, and its head is
        known. Otherwise None: they must be fed."""
        # The hot path: most reads are like this.
        if self._state != _IDLE or self._data or self._events:
            return None
        found = self._heads.find(data, 0)
        if found is None:
            return None
        known, own, credential, number, start = found
        limits = self._limits
        if start + known.size != len(data) or known.size > limits.max_body or len(own) > limits.max_url:
            return None
        return Repeated(known, own, data[start:], self._remote, credential, number)

    def feed(self, data: bytes) -> Iterator[object]:
        """Take these bytes. Yields `Request`, `Repeated`, `CONTINUE` or, last, `HttpError` for everything that they
        completed; events that the caller does not take are yielded the next time. A handshake is the last event: see
        `rest`."""
        if data:
            self._data = self._data[self._at :] + data if self._data else data
            self._at = 0
        return self._look()

    def _look(self) -> Iterator[object]:
        head = b""
        while True:
            while self._events:
                event = self._events.pop(0)
                if isinstance(event, HttpError):
                    if event.fields is None:
                        event.fields = self.fields
                    yield event
                    return
                yield event
                if isinstance(event, Request) and event.upgrade:
                    return
            data, at = self._data, self._at
            if at == len(data):
                self._data, self._at = b"", 0
                if self._state == _IDLE:
                    if self._headers:
                        self._reset()
                    return
                if self._holds():
                    return
                self._events.append(HttpError(503, FULL, close=True))
                continue
            if self._state == _IDLE:
                found = self._heads.find(data, at)
                if found is not None:
                    known, own, credential, number, start = found
                    end = start + known.size
                    if known.upgrade:
                        self._at = end
                        yield Repeated(known, own, b"", self._remote, credential)
                        return
                    if end <= len(data) and known.size <= self._limits.max_body and len(own) <= self._limits.max_url:
                        if end == len(data):
                            self._data, self._at = b"", 0
                        else:
                            self._at = end
                        yield Repeated(known, own, data[start:end], self._remote, credential, number)
                        continue
            if self._state == _BODY and self._length:
                end = min(at + self._length - self._body_size, len(data))
            else:
                end = data.find(_END, at) + len(_END)
                if end < len(_END):
                    end = len(data)
            piece = data[at:end]
            if self._state == _IDLE:
                head = piece if piece.endswith(_END) else b""
            self._at = end
            self._parse(piece)
            if head and self._events and isinstance(self._events[-1], Request) and not self._streamed:
                self._heads.remember(head, self._events[-1], self._limits.max_header - self._head_size)

    def _parse(self, piece: bytes) -> None:
        parser = self._parser = self._parser or httptools.HttpRequestParser(self)
        state, body_size = self._state, self._body_size
        try:
            parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._at -= len(piece) - int(upgrade.args[0])
            self._upgrade(parser)
        except httptools.HttpParserError as error:
            self._pass_on()
            self._events.append(self._refusal(error))
        self._pass_on()
        if not self._events and (self._state == _HEAD or (self._state, self._body_size) == (state, body_size)):
            self._count(len(piece))
        if self._state == _IDLE:
            self._parser = None

    def _pass_on(self) -> None:
        """Pass on the piece of a streamed body that has come."""
        if self._streamed and self._body:
            self._events.append(bytes(self._body))
            self._body.clear()

    def _holds(self) -> bool:
        """Whether the part of a request that has come may wait for the rest."""
        size = self._head_size + self._size + (0 if self._body is None else self._body.__alloc__())
        size += FIELD * (len(self._headers) + len(self._fields))
        try:
            self._share = self._unfinished.hold(self._share, size)
        except Full:
            self._share = None
            return False
        return True

    def _release(self) -> None:
        if self._share is not None:
            self._share = self._unfinished.hold(self._share, 0)

    def _upgrade(self, parser: httptools.HttpRequestParser) -> None:
        """llhttp stops behind a head that offers to upgrade, before any body. All offers but a WebSocket's are ignored
        (RFC 9110 section 7.8): the head is read again without the offer, and the rest of the request behind it."""
        request = self._events[-1]
        if not isinstance(request, Request):
            return  # refused already
        fields = request.fields
        if request.method == "CONNECT":
            self._events[-1] = HttpError(405, "CONNECT is not served: use GET, POST or DELETE", close=True)
        elif fields.get("upgrade", "").lower() != "websocket":
            del self._events[-2 if CONTINUE in self._events[-2:] else -1 :]
            lines = [f"{name}: {value}" for name, value in request.raw_headers if name.lower() != "upgrade"]
            start = b"%b %b %b\r\n" % (parser.get_method(), self._url, request.environ["SERVER_PROTOCOL"].encode())
            self._parser = None
            self._parse(start + "\r\n".join([*lines, "", ""]).encode("latin-1"))
        elif request.method != "GET":
            self._events[-1] = HttpError(405, "a WebSocket handshake is a GET", close=True, headers={"Allow": "GET"})
        elif fields.get("content-length", "0") != "0" or "transfer-encoding" in fields:
            self._events[-1] = HttpError(400, "a WebSocket handshake has no body: leave it out", close=True)
        else:
            request.environ["raiden.upgrade"] = True
            request.environ["raiden.keep_alive"] = False  # nothing more will be fed
        event = self._events[-1] if self._events else None
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
        """Bound the bytes that llhttp gathers of an unfinished head, chunk extension or trailer; complete parts are
        counted as they come."""
        self._size += size
        if self._size > self._limits.max_header + self._limits.max_url:
            self._events.append(self._too_large() if self._state == _HEAD else self._body_too_large())

    def _too_large(self) -> HttpError:
        if not self._url:
            return HttpError(414, f"the URL is longer than {self._limits.max_url} bytes: shorten it", close=True)
        return HttpError(431, f"the header is larger than {self._limits.max_header} bytes: shorten it", close=True)

    # llhttp's callbacks, in the order of the bytes.

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
            self._size += len(name) + len(value)
            self._check_body()
            return
        # llhttp leaves the white space after a value, which is not part of it (RFC 9110 section 5.5).
        self._headers.append((name.decode("latin-1"), value.decode("latin-1").rstrip(" \t")))
        if len(self._headers) > self._limits.max_headers:
            raise HttpError(431, f"more than {self._limits.max_headers} header fields: send fewer", close=True)
        self._body_size += len(name) + len(value)
        if self._body_size > self._limits.max_header:
            raise self._too_large()

    def on_headers_complete(self) -> None:
        self._state = _BODY
        self._head_size = self._body_size
        self._body_size = self._size = 0
        assert self._parser is not None
        fields = self._fields
        length = framing.check(self._headers, fields, self._parser.get_http_version(), absolute(self._url)[0])
        self._length = length
        # With an offer to upgrade, llhttp takes the head for the whole request, which will be read again without it.
        self._streamed = (
            self._parser.get_method() == b"POST"
            and STREAM in self._url.partition(b"?")[2].split(b"&")
            and "upgrade" not in fields
        )
        if length > self._limits.max_body and not self._streamed:
            raise self._body_too_large()
        waits = framing.expects(fields, self._parser.get_http_version(), length)
        if waits and not self._streamed:
            self._events.append(CONTINUE)
        if self._streamed:
            request = self._request()
            request.environ["raiden.streamed"] = True
            request.environ["raiden.waits"] = waits
            # While the end of the body has not come, nobody knows where the next request begins.
            request.environ["raiden.goes_on"], request.environ["raiden.keep_alive"] = request.keep_alive, False
            self._events.append(request)

    def on_body(self, body: bytes) -> None:
        self._size = 0
        self._body_size += len(body)
        self._check_body()
        if self._body is None:
            self._body = bytearray()
        self._body += body

    def on_message_complete(self) -> None:
        self._state = _IDLE
        if self._streamed:
            self._pass_on()
            self._streamed = False
            self._fields = {}
            self._events.append(END)
        else:
            try:
                self._events.append(self._request())
                self._fields = {}  # they are the request's now
            except HttpError as error:
                self._events.append(error)
        self._body = None
        self._release()

    def _check_body(self) -> None:
        """Raise where a body is too large; of one that is streamed, its trailer is."""
        size, most = (
            (self._size, self._limits.max_header) if self._streamed else (self._body_size, self._limits.max_body)
        )
        if size > most:
            raise self._body_too_large()

    def _body_too_large(self) -> HttpError:
        return HttpError(413, f"the body is larger than {self._limits.max_body} bytes: send less at once", close=True)

    def _request(self) -> Request:
        parser = self._parser
        assert parser is not None
        body = b"" if self._body is None else bytes(self._body)
        if b"#" in self._url:
            raise HttpError(400, "a URL is sent without its fragment: write '#' as '%23'", close=True)
        target = absolute(self._url)[1]
        if target[:1] != b"/" and parser.get_method() != b"CONNECT" and target.partition(b"?")[0] != b"*":
            raise HttpError(400, "the request target must be a path, like '/channel'", close=True)
        found = environ(
            parser.get_method().decode(), target, parser.get_http_version(), self._remote, self._headers, self._fields,
            body, keep_alive=parser.should_keep_alive(),
        )  # fmt: skip
        return Request(found)
