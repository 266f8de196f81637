"""Heads of requests that were read before, whoever sent them, so that they need not be read again.

A publisher sends the same head again and again, and to take it apart costs more than all else about a small message.
Clients that wait for the same message by long-poll send equal ones. Two heads count as equal also where they differ in
what is another one each time and means nothing else: the target of a POST, and the key of a WebSocket's handshake.
"""

from __future__ import annotations

import io
import re
from typing import Any

from raiden.http import Request, target_environ

# Heads that are remembered, and of POSTs, those that need not be taken apart; how many bytes one may have.
MAX_HEADS, MAX_HEAD_BYTES = 1000, 1024

_END = b"\r\n\r\n"
_A_POST = b"POST"
_POST = re.compile(rb"POST (/[!-\"$-~]*) HTTP/1\.1\r\n")
_KEY_FIELD = b"\r\nSec-WebSocket-Key: "
# 16 bytes in base64, which end with four bits that are 0 (RFC 4648 section 4).
_KEY = re.compile(rb"([A-Za-z0-9+/]{21}[AQgw]==)\r\n")
# What says how the connection goes on, or, like a key, is another one each time.
_OTHERWISE = frozenset({"transfer-encoding", "expect", "idempotency-key"})


class Head:
    """How requests begin that were read before: how many bytes of body follow, and the environ that it makes. ``plan``
    is for who serves them, to keep what follows from it."""

    __slots__ = ("environ", "plan", "size", "upgrade")

    def __init__(self, size: int, upgrade: bool, environ: dict[str, Any], plan: Any = None) -> None:
        self.size = size
        self.upgrade = upgrade
        self.environ = environ
        self.plan = plan


class Repeated:
    """A request with a head that was read before. New is its body, or what comes after a handshake, and what is
    another one each time: ``own`` is the target of a POST, the key of a handshake, or else nothing."""

    __slots__ = ("body", "head", "own", "remote")

    def __init__(self, head: Head, own: bytes, body: bytes, remote: str) -> None:
        self.head = head
        self.own = own
        self.body = body
        self.remote = remote

    @property
    def websocket_key(self) -> str:
        return self.own.decode()

    @property
    def rest(self) -> bytes:
        return self.body

    def request(self) -> Request:
        """The same as if it had been read anew."""
        environ: dict[str, Any] = self.head.environ.copy()
        environ["raiden.head"] = self.head
        environ["REMOTE_ADDR"] = self.remote
        if self.head.upgrade:
            key = self.websocket_key
            environ["raiden.rest"] = self.rest
            environ["raiden.headers"] = [
                (name, key if name == "Sec-WebSocket-Key" else value) for name, value in environ["raiden.headers"]
            ]
            environ["raiden.fields"] = {**environ["raiden.fields"], "sec-websocket-key": key}
            environ["HTTP_SEC_WEBSOCKET_KEY"] = key
            environ["wsgi.input"] = io.BytesIO()
            return Request(environ)
        if self.own:
            environ.update(target_environ(self.own))
        environ["wsgi.input"] = io.BytesIO(self.body)
        environ["raiden.body"] = self.body
        return Request(environ)


class Heads:
    """The heads that are known to all connections of a worker. Those are remembered whose end nobody can doubt, that
    say how many bytes of body follow, are those of a GET, or are handshakes. `clear` them when limits change."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, bytes], Head] = {}
        # Of whole heads that come again as they are, what `find` returns: GETs, and of POSTs one that is aimed at the
        # target.
        self._whole: dict[bytes, tuple[Head, bytes]] = {}

    def clear(self) -> None:
        self._known.clear()
        self._whole.clear()

    def find(self, data: bytes) -> tuple[Head, bytes, int] | None:
        """Of bytes that begin with a request, if its head is known: that, what of it is another one each time, and
        where its body begins, which may not be there yet."""
        # The hot path of publishing, and of long-polls.
        end = data.find(_END, 0, MAX_HEAD_BYTES) + 4
        head = data[:end]
        whole = self._whole.get(head)
        if whole is not None:
            return whole[0], whole[1], end
        key, own = _split(head, end)
        found = self._known.get(key)
        if found is None:
            return None
        if key[0] == _A_POST and found.plan is not None:
            found = Head(found.size, found.upgrade, found.environ, found.plan)  # it may have a plan of its own
            self._keep_whole(head, found, own)
        return found, own, end

    def remember(self, data: bytes, request: Request) -> None:
        """``data`` begins with this request, which llhttp has read."""
        end = data.find(_END, 0, MAX_HEAD_BYTES) + 4
        head, body = data[:end], request.raw_body
        if end < 4 or head.count(b"\n") != head.count(b"\r\n") or data[end : end + len(body)] != body:
            return
        if request.http10 or request.fields.keys() & _OTHERWISE:
            return
        key, own = _split(data, end)
        if request.upgrade:
            known = bool(own) and len(request.fields) == len(request.raw_headers)  # no field is repeated
        elif request.method == "GET":
            known = not own and request.keep_alive
        else:
            known = bool(body) and request.keep_alive
        if not known or ("upgrade" in request.fields and not request.upgrade):
            return
        environ = {**request.environ, "raiden.body": b"", "wsgi.input": None}
        found = request.environ["raiden.head"] = Head(len(body), request.upgrade, environ)
        if not own:
            self._keep_whole(head, found, own)
            return
        if len(self._known) >= MAX_HEADS:
            self._known.clear()
        self._known[key] = found

    def _keep_whole(self, head: bytes, found: Head, own: bytes) -> None:
        if len(self._whole) >= MAX_HEADS:
            self._whole.clear()
        self._whole[head] = found, own


def _split(data: bytes, end: int) -> tuple[tuple[bytes, bytes], bytes]:
    """What is the same in equal heads, as what comes before and after what is not, and that."""
    post = _POST.match(data)
    if post is not None:
        return (_A_POST, data[post.end() : end]), post[1]
    at = data.find(_KEY_FIELD, 0, end) + len(_KEY_FIELD)
    key = _KEY.match(data, at, end) if at >= len(_KEY_FIELD) else None
    if key is not None:
        return (data[:at], data[key.end(1) : end]), key[1]
    return (data[:end], b""), b""
