"""Heads of requests that were read before, whoever sent them, so that they need not be read again.

A publisher sends the same head again and again, and to take it apart costs more than all else about a small message.
Clients that wait for the same message by long-poll send equal ones. Two heads count as equal also where they differ in
what is another one each time and means nothing else: the target of a POST, and the key of a WebSocket's handshake.

**Why it is safe to share what clients sent.** Nothing that one of them sends may change what another one's request
means, or how it is answered. So this holds of all that is remembered of requests, here and elsewhere in a worker:

1. It is kept by all that it depends on. A `Head` is kept by all bytes of the head, from the method's first to the empty
   line, but for the target or key that it has not got; what serving it has shown (`Heads.plan`), by the same. Other
   tables are caches of functions of their arguments alone (``lru_cache``), such as the channel of a target, or what a
   handshake comes to.
2. It does not change. A `Head` is made once of what llhttp read, and nobody writes into it: a request that begins with
   it has an environ of its own (`Repeated.request`). Of a plan only the long-poll that waits may change, which those
   join that ask for the same (`raiden.sessions.poll.Poll`).
3. It has nothing of a client but these bytes: no address, no connection, no target, no key, no body.
4. Settings have a part in it as well. When they change, all of it is forgotten (`Heads.clear`).

`tests/differential.py` compares a server with one that remembers nothing.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from raiden.protocols.http import Request, target_environ

# Heads that are remembered, and of POSTs, those that need not be taken apart; how many bytes one may have.
MAX_HEADS: Final = 1000
MAX_HEAD_BYTES: Final = 1024

_END: Final = b"\r\n\r\n"
_A_POST: Final = b"POST"
_POST = re.compile(rb"POST (/[!-\"$-~]*) HTTP/1\.1\r\n")
_KEY_FIELD: Final = b"\r\nSec-WebSocket-Key: "
# 16 bytes in base64, which end with four bits that are 0 (RFC 4648 section 4).
_KEY = re.compile(rb"([A-Za-z0-9+/]{21}[AQgw]==)\r\n")
# What says how the connection goes on, or, like a key, is another one each time.
_OTHERWISE = frozenset({"transfer-encoding", "expect", "idempotency-key"})

# What of an environ is a request's own.
_OWN = ("REMOTE_ADDR", "raiden.body", "wsgi.input")

# The bytes of a head before and after what is not the same in equal heads; or all of them, and none.
Key: TypeAlias = "tuple[bytes, bytes]"


class Head:
    """How requests begin that were read before: how many bytes of body follow, whether it is a handshake, and the
    environ that it makes, but for the target of a POST and the key of a handshake. It never changes."""

    __slots__ = ("environ", "size", "upgrade")

    def __init__(self, size: int, upgrade: bool, environ: Mapping[str, Any]) -> None:
        self.size: Final = size
        self.upgrade: Final = upgrade
        self.environ: Final = environ


class Repeated:
    """A request with a head that was read before. New is its body, and what is another one each time: ``own`` is the
    target of a POST, the key of a handshake, or else nothing."""

    __slots__ = ("body", "head", "own", "remote")

    def __init__(self, head: Head, own: bytes, body: bytes, remote: str) -> None:
        self.head: Final = head
        self.own: Final = own
        self.body: Final = body
        self.remote: Final = remote

    @property
    def websocket_key(self) -> str:
        return self.own.decode()

    def request(self) -> Request:
        """The same as if it had been read anew."""
        environ: dict[str, Any] = {**self.head.environ, "raiden.head": self.head, "REMOTE_ADDR": self.remote}
        if self.head.upgrade:
            environ.update(_key_environ(environ, self.websocket_key))
        elif self.own:
            environ.update(target_environ(self.own))
        environ["wsgi.input"] = io.BytesIO(self.body)
        environ["raiden.body"] = self.body
        return Request(environ)


class Heads:
    """The heads that are known to all connections of a worker, at most ``most``; 0: none is remembered. Those are whose
    end nobody can doubt, and that say how many bytes of body follow, are those of a GET, or are handshakes."""

    def __init__(self, most: int = MAX_HEADS) -> None:
        self._most = most
        self._known: dict[Key, Head] = {}
        # Of whole heads that come again as they are, what `find` returns.
        self._whole: dict[bytes, tuple[Head, bytes]] = {}
        # By the head itself, which never changes and is found by all of its bytes.
        self._plans: dict[Head, Any] = {}

    def clear(self) -> None:
        """Forget all: what requests mean depends on settings, and they have changed."""
        self._known.clear()
        self._whole.clear()
        self._plans.clear()

    def find(self, data: bytes, at: int) -> tuple[Head, bytes, int] | None:
        """Of bytes in which a request begins ``at`` a place, if its head is known: that, what of it is another one each
        time, and where its body begins, which may not be there yet."""
        # The hot path of publishing, and of long-polls.
        end = data.find(_END, at, at + MAX_HEAD_BYTES)
        if end < 0:
            return None
        end += len(_END)
        head = data[at:end]
        whole = self._whole.get(head)
        if whole is not None:
            return whole[0], whole[1], end
        key, own = _split(head)
        found = self._known.get(key)
        if found is None:
            return None
        if not found.upgrade:
            if len(self._whole) >= self._most:
                self._whole.clear()
            self._whole[head] = found, own
        return found, own, end

    def remember(self, head: bytes, request: Request) -> None:
        """Know the head of a request that llhttp has read; it was given these bytes, then the body."""
        fields = request.fields
        if not self._most or len(head) > MAX_HEAD_BYTES or request.http10 or fields.keys() & _OTHERWISE:
            return
        if not head.startswith(request.method.encode()):
            return  # with empty lines before it (RFC 9112 section 2.2)
        key, own = _split(head)
        if request.upgrade:
            known = bool(own) and len(fields) == len(request.raw_headers)  # no field is repeated
        elif request.method == "GET":
            known = not own and request.keep_alive
        else:
            known = key[0] == _A_POST and bool(request.raw_body) and request.keep_alive
        if not known:
            return
        environ = dict(request.environ)
        if request.upgrade:
            environ.update(_key_environ(environ, ""))
        for name in _OWN if request.upgrade or not own else (*_OWN, *target_environ(own)):
            del environ[name]
        found = Head(len(request.raw_body), request.upgrade, MappingProxyType(environ))
        request.environ["raiden.head"] = found
        if len(self._known) >= self._most:
            self._known.clear()
        self._known[key] = found

    def plan(self, head: Head) -> Any:
        """What was told of requests with this head; None if nothing."""
        return self._plans.get(head)

    def keep_plan(self, head: Head, plan: object) -> None:
        """Tell what requests with this head ask for, whoever sends them, and whatever their target or key is."""
        if len(self._plans) >= self._most:
            self._plans.clear()
        self._plans[head] = plan


def _split(head: bytes) -> tuple[Key, bytes]:
    """What is the same in equal heads, and what is not."""
    post = _POST.match(head)
    if post is not None:
        return (_A_POST, head[post.end() :]), post[1]
    at = head.find(_KEY_FIELD) + len(_KEY_FIELD)
    key = _KEY.match(head, at) if at >= len(_KEY_FIELD) else None
    if key is not None:
        return (head[:at], head[key.end(1) :]), key[1]
    return (head, b""), b""


def _key_environ(environ: Mapping[str, Any], key: str) -> dict[str, Any]:
    """What an environ says of the key of a handshake."""
    headers = environ["raiden.headers"]
    return {
        "HTTP_SEC_WEBSOCKET_KEY": key,
        "raiden.fields": MappingProxyType({**environ["raiden.fields"], "sec-websocket-key": key}),
        "raiden.headers": tuple([(name, key if name == "Sec-WebSocket-Key" else value) for name, value in headers]),
    }
