"""Ids of connections, by which a publisher leaves one of them out of a message's delivery.

An id has two parts: one that names the worker, from its start to its end, and one that the worker draws for the
connection, of 72 random bits, so that nobody can guess it. Connections that nobody asks for their id have none.
"""

from __future__ import annotations

import os
from typing import Final, Protocol

from raiden.model.message import Message

# Bytes of the two parts; connections for which random bytes are drawn in one go.
WORKER: Final = 6
OWN: Final = 9
_AT_ONCE: Final = 100


class Identified(Protocol):
    """A connection; ``own_id`` is the part of its id that is its own (b"": it has none yet)."""

    own_id: bytes


class Known(Protocol):
    """A connection, or a sink of one, whose id is only looked at."""

    @property
    def own_id(self) -> bytes: ...


class ConnectionIds:
    """The ids of a worker's connections."""

    def __init__(self) -> None:
        self._worker = os.urandom(WORKER).hex()
        self._random = b""
        self._next = 0

    def of(self, connection: Identified) -> str:
        """The id of a connection, which keeps it to its end."""
        own = connection.own_id
        if not own:
            own = connection.own_id = self._draw()
        return self._worker + own.hex()

    def own_part(self, id: str) -> bytes:
        """The part of an id that is its connection's own; b"": no connection of this worker has it."""
        if not id.startswith(self._worker):
            return b""
        try:
            return bytes.fromhex(id[2 * WORKER :])
        except ValueError:
            return b""

    def is_excluded(self, connection: Known, message: Message) -> bool:
        """Whether the message is not for this connection."""
        attributes = message.attributes
        if attributes is None or not attributes.excluded or not connection.own_id:
            return False
        return self.own_part(attributes.excluded) == connection.own_id

    def pieces(self, run: list[Message]) -> list[tuple[list[Message], bytes]]:
        """Split consecutive messages into those that are for all, and those that are for all but one connection of this
        worker. With each piece comes the own part of that connection's id; b"": there is none."""
        for message in run:
            if message.attributes is not None:
                break
        else:  # the hot path of all deliveries
            return [(run, b"")]
        pieces: list[tuple[list[Message], bytes]] = []
        for message in run:
            attributes = message.attributes
            excluded = b"" if attributes is None else self.own_part(attributes.excluded)
            if not pieces or pieces[-1][1] != excluded:
                pieces.append(([], excluded))
            pieces[-1][0].append(message)
        return pieces

    def _draw(self) -> bytes:
        if self._next == len(self._random):
            self._random, self._next = os.urandom(OWN * _AT_ONCE), 0
        self._next += OWN
        return self._random[self._next - OWN : self._next]
