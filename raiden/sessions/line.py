"""The line of asks on one connection, where a delegate is asked about some of them.

Asks are done in the order in which they came, however long each question takes; questions of several are under way at
the same time. While many wait, the connection is not read from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import gevent

from raiden.access.clients import Client
from raiden.connections.connection import Connection
from raiden.connections.states import CLOSING
from raiden.hooks.guest import Guest
from raiden.model.refusals import TooManyRequests, Unavailable, attempt
from raiden.runtime import faults
from raiden.sessions.asks import Follow, Join, PublishOne, Serve
from raiden.sessions.decisions import AT_ONCE, Decision, judge

# Asks that may wait, and their bytes, before the connection is not read from; and before more are refused, which come
# in one read.
PAUSE, PAUSE_BYTES = 64, 65536
MOST, MOST_BYTES = 1000, 1 << 20

# The outcome of an ask whose client has gone.
_GONE = Unavailable("the connection has ended")
# Called with an ask, or its refusal; returns whether it was done.
Do = Callable[[Any], bool]


class _Entry:
    """An ask in the line; ``outcome`` is the ask as it may be done, or its refusal; None: that is being asked.
    ``client`` is the one by whose token it was judged."""

    __slots__ = ("ask", "client", "decision", "do", "outcome", "size")

    def __init__(
        self, ask: Any, client: Client, outcome: Any, decision: Decision | None, do: Do, size: int
    ) -> None:  # fmt: skip
        self.ask = ask
        self.client = client
        self.outcome = outcome
        self.decision = decision
        self.do = do
        self.size = size


class Line:
    """The line of one connection. ``paused``: the connection is not read from."""

    __slots__ = ("_asking", "_bytes", "_connection", "_entries", "_going", "_new", "paused")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._entries: deque[_Entry] = deque()
        # Those of the entries whose questions have not been asked.
        self._new: deque[_Entry] = deque()
        self._asking = self._bytes = 0
        self._going = False
        self.paused = False

    def put(self, guest: Guest, ask: Any, size: int, do: Do) -> None:
        """Let an ask of ``size`` bytes be done by ``do`` when all before it are: now, if there is nothing to ask."""
        found = attempt("a command", judge, guest, ask)
        decision = found if isinstance(found, Decision) else None
        outcome = None if decision is not None else ask if found is None else found
        if not self._entries and outcome is not None:
            do(outcome)
            return
        if len(self._entries) >= MOST or self._bytes + size > MOST_BYTES:
            outcome = TooManyRequests("too much at once: wait for the replies")
            ask, decision, size = None, None, 0
        entry = _Entry(ask, guest.client, outcome, decision, do, size)
        self._entries.append(entry)
        self._bytes += size
        if outcome is None:
            self._new.append(entry)
            self._begin()
        self._pause()

    def clear(self) -> None:
        """Do nothing of all that waits."""
        self._entries.clear()
        self._new.clear()
        self._bytes = 0

    def _begin(self) -> None:
        while self._new and self._asking < AT_ONCE:
            entry = self._new.popleft()
            if not self._is_to_be_done(entry):
                entry.outcome = _GONE
                continue
            self._asking += 1
            # The greenlet ends by itself: an answer comes in a bounded time.
            gevent.spawn(faults.call, "asking the delegate", self._decide, entry)

    def _decide(self, entry: _Entry) -> None:
        assert entry.decision is not None
        try:
            entry.outcome = attempt("a command", entry.decision.wait)
        finally:
            self._asking -= 1
        self._begin()
        self._go_on()

    def _go_on(self) -> None:
        """Do what may be done now."""
        if self._going:
            return
        self._going = True
        try:
            while self._entries and self._is_decided(self._entries[0]):
                entry = self._entries.popleft()
                self._bytes -= entry.size
                if self._is_to_be_done(entry):
                    faults.call("what a client asks for", self._do, entry)
        finally:
            self._going = False
        self._pause()

    def _is_decided(self, entry: _Entry) -> bool:
        """Whether an ask may be done, or is refused. One that lasts, and that the token has settled, is judged again
        where another one has come since: it would last by that."""
        guest = self._connection.permit
        if entry.outcome is entry.ask and isinstance(entry.ask, Follow | Join | Serve) and guest is not None:
            client, entry.client = entry.client, guest.client
            found = None if client is guest.client else attempt("a command", judge, guest, entry.ask)
            if isinstance(found, Decision):
                entry.decision, entry.outcome = found, None
                self._new.append(entry)
                self._begin()
            elif found is not None:
                entry.outcome = found
        return entry.outcome is not None

    def _is_to_be_done(self, entry: _Entry) -> bool:
        """Whether the client is there, or has sent a message before it closed."""
        return self._connection.state < CLOSING or isinstance(entry.ask, PublishOne)

    def _do(self, entry: _Entry) -> None:
        if entry.decision is None:
            entry.do(entry.outcome)
            return
        entry.decision.enter()
        if entry.do(entry.outcome):
            entry.decision.keep()
        entry.decision.leave()

    def _pause(self) -> None:
        full = len(self._entries) >= PAUSE or self._bytes >= PAUSE_BYTES
        if full != self.paused:
            self.paused = full
            if full:
                self._connection.pause()
            else:
                self._connection.resume()
