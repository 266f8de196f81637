"""The servers of one channel on a worker, and the one that gets the next request: it has the fewest open ones. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from raiden.model.message import Message


class Given:
    """A request that a server has. ``number`` is the one at the worker of its client, ``asker``. It is over at
    ``deadline``, a monotonic time. Only ``holder`` may answer it."""

    __slots__ = ("asker", "deadline", "holder", "id", "number", "server")

    def __init__(self, id: str, asker: str, number: int, deadline: float, server: Server) -> None:
        self.id = id
        self.asker = asker
        self.number = number
        self.deadline = deadline
        self.server = server
        self.holder = server.holder


class Sink(Protocol):
    """The way to a server."""

    def is_ready(self, size: int) -> bool:
        """Whether the server may be given a request of so many bytes now."""

    def give(self, given: Given, message: Message, left: float) -> None:
        """Give the server a request, for which ``left`` seconds are left."""

    def withdrawn(self, given: Given) -> None:
        """The client of an open request has gone: nobody waits for the answer."""


class Server:
    """A server of a channel, which has at most ``window`` open requests. ``holder`` names the one who answers them.
    ``stays``: requests that it has are lost when it goes; else it may go, and still answer them."""

    __slots__ = ("channel", "holder", "open", "sink", "stays", "window")

    def __init__(self, channel: str, sink: Sink, holder: str, *, window: int, stays: bool = True) -> None:
        self.channel = channel
        self.sink = sink
        self.holder = holder
        self.window = window
        self.stays = stays
        self.open: dict[str, Given] = {}


class Pool:
    """The servers of one channel. ``servers`` are all of them; those with room are found by the number of their open
    requests, so that choosing one takes the same time however many there are."""

    __slots__ = ("_by_open", "room", "servers")

    def __init__(self) -> None:
        self.servers: dict[Server, None] = {}
        # Requests more that all may have.
        self.room = 0
        self._by_open: dict[int, dict[Server, None]] = {}

    def add(self, server: Server) -> None:
        self.servers[server] = None
        self.room += server.window
        self._put(server)

    def remove(self, server: Server) -> None:
        """Remove a server; one that was removed is ignored."""
        if server in self.servers:
            del self.servers[server]
            self.room -= server.window - len(server.open)
            self._take(server)

    def choices(self) -> Iterator[Server]:
        """The servers with room, those with the fewest open requests first, and of equal ones that which waits for the
        longest. The iterator is not used any more once the pool has changed."""
        for count in sorted(self._by_open):
            yield from self._by_open[count]

    @property
    def least(self) -> tuple[int, int]:
        """The open requests of the servers with room that have the fewest, and the number of these servers."""
        if not self._by_open:
            return 0, 0
        least = min(self._by_open)
        return least, len(self._by_open[least])

    def begin(self, given: Given) -> None:
        """Let a server have a request; one that has gone, too."""
        server = given.server
        if server not in self.servers:
            server.open[given.id] = given
            return
        self._take(server)
        server.open[given.id] = given
        self.room -= 1
        self._put(server)

    def end(self, given: Given) -> None:
        """Take back a request that was begun; of a server that has gone, too."""
        server = given.server
        if server.open.get(given.id) is not given:
            return
        if server not in self.servers:
            del server.open[given.id]
            return
        self._take(server)
        del server.open[given.id]
        self.room += 1
        self._put(server)

    def _put(self, server: Server) -> None:
        if len(server.open) < server.window:
            self._by_open.setdefault(len(server.open), {})[server] = None

    def _take(self, server: Server) -> None:
        found = self._by_open.get(len(server.open))
        if found is not None:
            found.pop(server, None)
            if not found:
                del self._by_open[len(server.open)]
