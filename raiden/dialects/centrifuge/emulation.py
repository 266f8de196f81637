"""Frames of clients that have a stream: they come by requests of their own, to any worker of any node, and go to the
worker that has the stream by a letter."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

import gevent
import msgspec
from gevent.event import AsyncResult

from raiden.backend import BackboneFull, Backend
from raiden.model.refusals import NotFound, Unavailable
from raiden.runtime import faults

# The first byte of a letter; no other letter begins with it.
MARK: Final = b"C"
# Seconds that the other worker has for an answer; requests that wait for one.
PATIENCE: Final = 5.0
MOST: Final = 10_000


class Stream(Protocol):
    """The stream of a client."""

    talk: Any


class _Frame(msgspec.Struct, array_like=True, tag=1, gc=False):
    """A frame for a ``session``; the worker ``asker`` waits for what became of it."""

    asker: str
    number: int
    session: str
    data: bytes


class _Taken(msgspec.Struct, array_like=True, tag=2, gc=False):
    """The status of a request whose frame was sent by letter."""

    number: int
    status: int


_DECODER: Final = msgspec.msgpack.Decoder(_Frame | _Taken)
S = TypeVar("S", bound=Stream)
_encode: Final = msgspec.msgpack.encode


class Emulation:
    """The streams of a worker, and the frames for those of others."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._streams: dict[str, Stream] = {}
        self._numbers = itertools.count(1)
        self._waiting: dict[int, AsyncResult[int]] = {}
        backend.mail.others[MARK[0]] = self._hear

    @property
    def node(self) -> str:
        """The name of this worker, to which frames for its streams are to be addressed."""
        return f"{self._backend.name}.{self._backend.life}"

    def open(self, make: Callable[[str], S]) -> S:
        """Make a stream, which has a name that nobody guesses."""
        name = secrets.token_urlsafe(18)
        stream = self._streams[name] = make(name)
        return stream

    def forget(self, name: str) -> None:
        """A stream has ended."""
        self._streams.pop(name, None)

    def is_here(self, node: str) -> bool:
        """Whether the streams of this name's worker are this worker's: then nothing is waited for."""
        return node == self.node

    def take(self, session: str, data: bytes) -> int:
        """Take a frame for a stream of this worker; return the status of its answer."""
        stream = self._streams.get(session)
        if stream is None:
            return 404
        if stream.talk.is_busy:
            return 503
        stream.talk.received(data)
        return 204

    def send(self, node: str, session: str, data: bytes) -> int:
        """Send a frame to another worker, and return the status of its answer. Waits; raises NotFound where there is
        no such worker, and Unavailable."""
        place, _, life = node.rpartition(".")
        if place not in self._backend.all_workers() or not life.isalnum() or not life.isascii():
            raise NotFound("no node has this name")
        if len(self._waiting) >= MOST:
            raise Unavailable("too many requests wait for other nodes: try again later")
        number = next(self._numbers)
        answer = self._waiting[number] = AsyncResult()
        try:
            letter = _Frame(self._backend.life, number, session, data)
            self._backend.mail.send(life.encode(), MARK + _encode(letter))
            return answer.get(timeout=PATIENCE)
        except BackboneFull:
            raise Unavailable("the backbone is full: try again later") from None
        except gevent.Timeout:
            raise NotFound("the node that has this session does not answer: connect again") from None
        finally:
            del self._waiting[number]

    def close(self) -> None:
        """Hear no letters any more."""
        self._backend.mail.others.pop(MARK[0], None)

    def _hear(self, letter: bytes) -> None:
        try:
            found: Any = _DECODER.decode(letter[1:])
        except msgspec.MsgspecError:
            return  # of another release
        if isinstance(found, _Frame):
            status: list[int] = []
            faults.call("a frame by letter", lambda: status.append(self.take(found.session, found.data)))
            try:
                answer = _Taken(found.number, status[0] if status else 500)
                self._backend.mail.send(found.asker.encode(), MARK + _encode(answer))
            except BackboneFull:
                return  # its asker waits in vain, and the client sends it again
        elif found.number in self._waiting:
            self._waiting[found.number].set(found.status)
