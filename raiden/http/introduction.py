"""The beginning of a connection that a proxy introduces by the PROXY protocol."""

from __future__ import annotations

import logging
from typing import Protocol

from raiden.connections.connection import Connection
from raiden.protocols import proxy_header
from raiden.protocols.proxies import Source
from raiden.runtime.seldom import Seldom

log = logging.getLogger(__name__)

_told = Seldom()


class Host(Protocol):
    """The door of such connections."""

    def is_proxy(self, address: str) -> bool: ...

    def introduced(self, connection: Connection, source: Source | None, rest: bytes) -> None:
        """Go on with a connection, whose source is told, with the bytes behind the header."""

    def close(self, connection: Connection) -> None: ...


class Introduction:
    """The session of a connection until the header of its proxy has come. A connection that no trusted proxy has made,
    or that begins otherwise, is closed: nothing is guessed."""

    __slots__ = ("_came", "_connection", "_door")

    def __init__(self, door: Host, connection: Connection) -> None:
        self._door = door
        self._connection = connection
        self._came = b""

    def receive(self, data: bytes) -> None:
        """The peer has sent these bytes."""
        remote = self._connection.remote
        if not self._door.is_proxy(remote):
            self._refuse(remote, "it is none of trusted_proxies")
            return
        self._came += data
        try:
            found = proxy_header.read(self._came)
        except ValueError as error:
            self._refuse(remote, str(error))
            return
        if found is not None:
            source, end = found
            self._connection.session = None
            self._door.introduced(self._connection, source, self._came[end:])

    def _refuse(self, remote: str, why: str) -> None:
        if _told.may_say(f"{remote} {why}"):
            log.warning("closed a connection that was not introduced", extra={"remote": remote, "reason": why})
        self.tick()

    def tick(self) -> None:
        """The connection is due: its header took too long."""
        self._door.close(self._connection)

    def drain(self) -> None:
        """The node stops."""
        self.tick()

    def overflow(self) -> None:
        """Nothing is sent to it yet."""

    def close(self) -> None:
        """The connection is gone."""
