"""Heads of requests that any client has sent before, remembered so that they need not be read again.

A publisher sends the same head again and again, and parsing it costs more than all else about a small message. Clients
that wait for the same message by long-poll send equal ones. Two heads also count as equal where they differ only in a
part that changes each time: the target of a POST, the number in its Producer-Seq, or the key of a WebSocket's
handshake; and in their token, which each client has of its own.

**Why it is safe to share what clients sent.** No client's bytes may change the meaning of another's request, or its
answer. So these rules hold for all that a worker remembers of requests, here and elsewhere:

1. The key of an entry is all that the entry depends on. The key of a `Head`, and of its plan (`Heads.plan`), is all
  bytes of the head, from the method's first to the empty line, without the target, number, key and token that a `Head`
  does not have.
  Other tables are caches of functions of their arguments alone (``lru_cache``), such as the channel of a target, or the
  agreement of a handshake.
2. An entry does not change. A `Head` is made once, of what llhttp read, and nobody writes into it: each request that
  begins with it has an environ of its own (`Repeated.request`). In a plan only the waiting long-poll may change, which
  clients join that ask for the same (`raiden.sessions.poll.Poll`).
3. An entry has nothing of a client but these bytes: no address, no connection, no target, no number, no key, no
   token, no body.
4. Entries depend on the settings, too. When these change, all entries are forgotten (`Heads.clear`).

`tests/differential.py` compares a server with one that remembers nothing.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from raiden.protocols.http import Request, target_environ

# Heads that are remembered, and as many whole heads that need not be split; bytes of a head that may be remembered.
MAX_HEADS: Final = 1000
MAX_HEAD_BYTES: Final = 2048

_END: Final = b"\r\n\r\n"
_A_POST: Final = b"POST"
_POST = re.compile(rb"POST (/[!-\"$-~]*) HTTP/1\.1\r\n")
_KEY_FIELD: Final = b"\r\nSec-WebSocket-Key: "
# 16 bytes in base64, which end with four bits that are 0 (RFC 4648 section 4).
_KEY = re.compile(rb"([A-Za-z0-9+/]{21}[AQgw]==)\r\n")
# The number of an append to a stream, which is another one each time. What comes before it tells which part it is.
_PRODUCER: Final = b"roducer-"
_NUMBER_FIELDS: Final = (b"\r\nProducer-Seq: ", b"\r\nproducer-seq: ")
_NUMBERED: Final = "producer-seq"
_MAX_NUMBER: Final = 16
# The places of a token that the client shows, in a field (RFC 6750 section 2.1) or as a subprotocol, each with the byte
# that ends it; and the bytes of which it is.
_SHOWN: Final = (
    (b"\r\nAuthorization: Bearer ", b"\r"), (b"\r\nauthorization: Bearer ", b"\r"),
    (b" raiden.token.", b","), (b",raiden.token.", b","), (b" raiden.token.", b"\r"), (b",raiden.token.", b"\r"),
)  # fmt: skip
_OF_TOKENS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/="
# Fields that say how the connection goes on, or have another value each time, as keys do.
_OTHERWISE = frozenset({"transfer-encoding", "expect", "idempotency-key", "stream-seq"})

# The entries of an environ that are the request's own.
_OWN = ("REMOTE_ADDR", "raiden.body", "wsgi.input")

# The bytes of a head before, between and after the parts that may differ in equal heads.
Key: TypeAlias = "tuple[bytes, ...]"


class Head:
    """A remembered head: the size in bytes of the body that follows, whether it is a handshake, and its environ without
    the target of a POST, the number of an append, the key of a handshake, and the token. ``shown`` is the field with
    the token, and the field's value before and after it (None: it has none); a token has at most ``most`` bytes, or the
    header has too many.
    A `Head` never changes."""

    __slots__ = ("environ", "most", "shown", "size", "upgrade")

    def __init__(
        self, size: int, upgrade: bool, environ: Mapping[str, Any], shown: tuple[str, str, str] | None = None,
        most: int = 0,
    ) -> None:  # fmt: skip
        self.most: Final = most
        self.shown: Final = shown
        self.size: Final = size
        self.upgrade: Final = upgrade
        self.environ: Final = environ


class Repeated:
    """A request with a remembered head. Its own are the body, ``own``, which is the target of a POST, the key of a
    handshake, or else nothing, the token that it shows (``credential``; "": none, or another part of the head), and the
    ``number`` of an append (b"": it has none)."""

    __slots__ = ("body", "credential", "head", "number", "own", "remote")

    def __init__(
        self, head: Head, own: bytes, body: bytes, remote: str, credential: str = "", number: bytes = b""
    ) -> None:  # fmt: skip
        self.credential: Final = credential
        self.number: Final = number
        self.head: Final = head
        self.own: Final = own
        self.body: Final = body
        self.remote: Final = remote

    @property
    def websocket_key(self) -> str:
        return self.own.decode()

    def request(self) -> Request:
        """The same request as if it had been parsed anew."""
        environ: dict[str, Any] = {**self.head.environ, "raiden.head": self.head, "REMOTE_ADDR": self.remote}
        if self.head.upgrade:
            environ.update(_with(environ, "Sec-WebSocket-Key", self.websocket_key))
        elif self.own:
            environ.update(target_environ(self.own))
        if self.number:
            environ.update(_with(environ, _NUMBERED, self.number.decode()))
        if self.head.shown is not None:
            field, before, after = self.head.shown
            environ.update(_with(environ, field, f"{before}{self.credential}{after}"))
        environ["wsgi.input"] = io.BytesIO(self.body)
        environ["raiden.body"] = self.body
        return Request(environ)


def repeated(request: Request) -> Request | Repeated:
    """A GET that has to wait, in a form that takes little memory where its head is remembered. A request of a page
    stays as it is: its answer depends on the page."""
    head = request.head
    if head is None or head.size or request.method != "GET" or request.upgrade or "origin" in request.fields:
        return request
    credential = ""
    if head.shown is not None:
        field, before, after = head.shown
        shown = request.fields[field.lower()]
        credential = shown[len(before) : len(shown) - len(after)]
    return Repeated(head, b"", b"", request.environ["REMOTE_ADDR"], credential)


class Heads:
    """The heads that all connections of a worker know, at most ``most``; 0: none is remembered. A head is remembered
    only if its end is beyond doubt, and if it says how many bytes of body follow, or is that of a GET or of a
    handshake."""

    def __init__(self, most: int = MAX_HEADS) -> None:
        self._most = most
        self._known: dict[Key, Head] = {}
        # By whole heads that come again unchanged: what `find` returns.
        self._whole: dict[bytes, tuple[Head, bytes, str, bytes]] = {}
        # The key is the head itself, which never changes and is found by all of its bytes.
        self._plans: dict[Head, Any] = {}

    def clear(self) -> None:
        """Forget all heads: the settings have changed, on which the meaning of requests depends."""
        self._known.clear()
        self._whole.clear()
        self._plans.clear()

    def find(self, data: bytes, at: int) -> tuple[Head, bytes, str, bytes, int] | None:
        """Find the known head of a request that begins at the index ``at``: return the head, the request's own part of
        it, its token, its number, and the index where its body begins (which may not be there yet). None: the head is
        not known."""
        # The hot path of publishing, and of long-polls.
        end = data.find(_END, at, at + MAX_HEAD_BYTES)
        if end < 0:
            return None
        end += len(_END)
        head = data[at:end]
        whole = self._whole.get(head)
        if whole is not None:
            return whole[0], whole[1], whole[2], whole[3], end
        key, own, shown, number = _split(head)
        found = self._known.get(key)
        if found is None or len(shown) > found.most:
            return None
        credential = shown.decode()
        if not found.upgrade and not number:
            if len(self._whole) >= self._most:
                self._whole.clear()
            self._whole[head] = found, own, credential, number
        return found, own, credential, number, end

    def remember(self, head: bytes, request: Request, room: int) -> None:
        """Remember the head of a request that llhttp has read; llhttp was given these bytes, then the body. The header
        might have ``room`` bytes more."""
        fields = request.fields
        if not self._most or len(head) > MAX_HEAD_BYTES or request.http10 or fields.keys() & _OTHERWISE:
            return
        if not head.startswith(request.method.encode()):
            return  # with empty lines before it (RFC 9112 section 2.2)
        key, own, credential, number = _split(head)
        room -= _MAX_NUMBER if number else 0
        repeated = len(fields) != len(request.raw_headers)
        shown = _shown(request, credential.decode()) if credential else None
        if credential and (shown is None or repeated):
            return
        if (_NUMBERED in fields) != bool(number) or (number and (repeated or room < 0)):
            return
        if request.upgrade:
            known = bool(own) and not repeated
        elif request.method == "GET":
            known = not own and request.keep_alive
        else:
            known = key[0] == _A_POST and bool(request.raw_body) and request.keep_alive
        if not known:
            return
        environ = dict(request.environ)
        if request.upgrade:
            environ.update(_with(environ, "Sec-WebSocket-Key", ""))
        if number:
            environ.update(_with(environ, _NUMBERED, ""))
        if shown is not None:
            environ.update(_with(environ, shown[0], ""))
        for name in _OWN if request.upgrade or not own else (*_OWN, *target_environ(own)):
            del environ[name]
        most = len(credential) + max(0, room)
        found = Head(len(request.raw_body), request.upgrade, MappingProxyType(environ), shown, most)
        request.environ["raiden.head"] = found
        if len(self._known) >= self._most:
            self._known.clear()
        self._known[key] = found

    def plan(self, head: Head) -> Any:
        """The plan that was kept for requests with this head; None: there is none."""
        return self._plans.get(head)

    def keep_plan(self, head: Head, plan: object) -> None:
        """Keep a plan for all requests with this head, whoever sends them, and whatever their target, key or
        token is."""
        if len(self._plans) >= self._most:
            self._plans.clear()
        self._plans[head] = plan


def _split(head: bytes) -> tuple[Key, bytes, bytes, bytes]:
    """Split a head into its key, which is the same in equal heads, the request's own part, the token, and the
    number."""
    begin, rest, own, number = b"", head, b"", b""
    pieces: Key
    post = _POST.match(head)
    if post is not None:
        begin, rest, own = _A_POST, head[post.end() - 2 :], post[1]
    else:
        at = head.find(_KEY_FIELD) + len(_KEY_FIELD)
        key = _KEY.match(head, at) if at >= len(_KEY_FIELD) else None
        if key is not None:
            begin, rest, own = head[:at], head[key.end(1) :], key[1]
    pieces = begin, rest
    if post is not None and _PRODUCER in rest:
        start, stop = _number_in(rest)
        if stop:
            pieces, number = (begin, rest[:start], rest[stop:]), rest[start:stop]
    if b"earer " not in head and b"n.token." not in head:
        return pieces, own, b"", number
    # What comes before a part tells which it is, so that equal keys are of equal heads.
    for at, piece in enumerate(pieces):
        start, stop = _token_in(piece)
        if stop:
            others = (*pieces[:at], *pieces[at + 1 :])
            return (*others, piece[:start], piece[stop:]), own, piece[start:stop], number
    return pieces, own, b"", number


def _number_in(piece: bytes) -> tuple[int, int]:
    """The places where the number of an append begins and ends in a part of a head; (0, 0): there is none."""
    for before in _NUMBER_FIELDS:
        at = piece.find(before)
        if at >= 0:
            start = at + len(before)
            stop = piece.find(b"\r", start)
            if start < stop <= start + _MAX_NUMBER and piece[start:stop].isdigit():
                return start, stop
    return 0, 0


def _token_in(piece: bytes) -> tuple[int, int]:
    """The places where a token begins and ends in a part of a head; (0, 0): there is none."""
    # The hot path of clients that have tokens: a regular expression takes three times as long.
    for before, end in _SHOWN:
        at = piece.find(before)
        if at >= 0:
            start = at + len(before)
            stop = piece.find(end, start)
            if stop > start and not piece[start:stop].translate(None, _OF_TOKENS):
                return start, stop
    return 0, 0


def _shown(request: Request, credential: str) -> tuple[str, str, str] | None:
    """The field that shows the token by which the request is judged (`raiden.http.credentials`), and the field's value
    before and after it; None where another part of the head only looks like it."""
    fields = request.fields
    if "authorization" in fields:
        return ("Authorization", "Bearer ", "") if fields["authorization"] == f"Bearer {credential}" else None
    offered = fields.get("sec-websocket-protocol", "")
    before, token, after = offered.partition(f"raiden.token.{credential}")
    if not request.upgrade or not token or "raiden.token." in before.lower() or after[:1] not in ("", ","):
        return None
    return "Sec-WebSocket-Protocol", before + "raiden.token.", after


def _with(environ: Mapping[str, Any], field: str, value: str) -> dict[str, Any]:
    """The entries of an environ that depend on a field, with another value of it."""
    name = field.lower()
    headers = environ["raiden.headers"]
    return {
        f"HTTP_{field.upper().replace('-', '_')}": value,
        "raiden.fields": MappingProxyType({**environ["raiden.fields"], name: value}),
        "raiden.headers": tuple([(each, value if each.lower() == name else old) for each, old in headers]),
    }
