"""The servers on a worker, and the requests that they have. Pure.

    Asked ──▶ room? ──no──▶ Returned, and the asker's worker waits ──▶ Called, when there is room
                │ yes
                ▼
            the server with the fewest open requests has it
                ├── it answers, in time ──▶ Answered or Failed
                ├── it goes ──▶ Dropped
                └── the time is up, or the client has gone: an answer is refused

Who waits has its turn: while workers wait, a request that was not called for is returned.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from itertools import islice
from typing import Final

from raiden.model.message import Message
from raiden.model.refusals import Conflict, Forbidden, NotFound, Refusal, Unavailable
from raiden.requests.deadlines import Deadlines
from raiden.requests.letters import (
    Answered,
    Asked,
    Called,
    Dropped,
    Failed,
    Letter,
    Report,
    Returned,
    Told,
    life_of,
)
from raiden.requests.refusals import Failure, TooLate
from raiden.requests.servers import Given, Pool, Server, Sink

# Requests that the servers of a worker may have together.
MAX_WINDOWS: Final = 100_000
# Requests that are over and still known, so that a late answer is told from a wrong one.
MAX_OVER: Final = 10_000
# Servers that are looked at for one that takes a request now: others have too much to read.
TRIED: Final = 8
# Seconds for which a server by long-poll is waited for that has just been answered, and comes back.
LINGER: Final = 5.0
# Channels of a worker, of which those without servers are waited for.
MAX_CHANNELS: Final = 20_000
# Seconds for which room is kept for a worker that was called; for which a worker is told of changes.
KEPT: Final = 0.5
FOLLOWS: Final = 60.0
# Letters about changed servers in one look.
TOLD_AT_ONCE: Final = 200

# Makes the refusal of a further answer to a request that is over.
_Over = Callable[[], Refusal]


class _Channel:
    """The servers of a channel. ``followers`` are the workers that are told of changes, with the times at which they
    asked last; ``waits`` those with requests that wait, in their order, and the bytes of one that was returned (0: not
    known); ``called`` those for which room is kept, and until when. Servers by long-poll are waited for until
    ``returns``. It is looked at when it is ``due`` (0: never)."""

    __slots__ = ("called", "due", "followers", "name", "pool", "returns", "waits")

    def __init__(self, name: str) -> None:
        self.name = name
        self.pool = Pool()
        self.followers: dict[str, float] = {}
        self.waits: dict[str, int] = {}
        self.called: dict[str, float] = {}
        self.returns = self.due = 0.0


class Serving:
    """The servers of the worker that is called ``worker``. ``post`` sends a letter to a worker, and returns False where
    the backbone takes no more. ``clock`` tells the monotonic time."""

    def __init__(self, worker: str, post: Callable[[str, Letter], bool], clock: Callable[[], float]) -> None:
        self._worker = worker
        self._prefix = life_of(worker) + "-"
        self._post = post
        self._clock = clock
        self._channels: dict[str, _Channel] = {}
        self._windows = 0
        self._serials = itertools.count(1)
        # Open requests by id, and by worker and number of their clients.
        self._given: dict[str, Given] = {}
        self._numbers: dict[tuple[str, int], Given] = {}
        self._deadlines: Deadlines[str] = Deadlines()
        # Requests that are over: their holders, and the refusals of another answer.
        self._over: dict[str, tuple[str, _Over]] = {}
        # Channels whose followers are still to be told, and those that are looked at.
        self._changed: dict[str, None] = {}
        self._looks: Deadlines[str] = Deadlines()

    @property
    def open(self) -> int:
        """The number of requests that servers have."""
        return len(self._given)

    @property
    def is_busy(self) -> bool:
        """Whether `tick` has something to do in time."""
        return bool(self._given or self._changed or self._looks)

    # Servers.

    def serves(self, channel: str) -> bool:
        """Whether a channel has a server, or had one that will probably be back."""
        found = self._channels.get(channel)
        return found is not None and self._is_served(found)

    def add(self, channel: str, sink: Sink, holder: str, *, window: int, stays: bool = True) -> Server:
        """Let a server have requests of a channel. Raises Unavailable where the servers of this worker may have too
        many already."""
        if self._windows + window > MAX_WINDOWS:
            raise Unavailable(f"the servers of this worker may have {MAX_WINDOWS} requests: use others, or less window")
        server = Server(channel, sink, holder, window=window, stays=stays)
        found = self._channels.get(channel)
        if found is None:
            found = self._channels[channel] = _Channel(channel)
        self._windows += window
        found.pool.add(server)
        self._note_change(found)
        self._call(found)
        return server

    def remove(self, server: Server, *, returns: bool = False) -> None:
        """A server has gone, and the requests that it has are lost, if they can't be answered without it
        (`Server.stays`). ``returns``: it will probably be back soon."""
        self.retire(server, returns=returns)
        if server.stays:
            for given in list(server.open.values()):
                self._end(given, lambda: NotFound("you do not serve the channel any more"))
                self._post(given.asker, Dropped(given.number, self.report(server.channel)))

    def retire(self, server: Server, *, returns: bool = False) -> None:
        """Let a server have no more requests; it may answer those that it has. One that was retired is ignored."""
        found = self._channels.get(server.channel)
        if found is None or server not in found.pool.servers:
            return
        self._windows -= server.window
        found.pool.remove(server)
        if returns and len(self._channels) <= MAX_CHANNELS:
            found.returns = self._clock() + LINGER
            self._look_at(found, found.returns)
        self._note_change(found)
        if not self._is_served(found):
            self._close(found)

    def _is_served(self, found: _Channel) -> bool:
        return bool(found.pool.servers) or found.returns > self._clock()

    def _close(self, found: _Channel) -> None:
        """The last server of a channel has gone: workers with requests that wait are told at once."""
        self._channels.pop(found.name, None)
        self._changed.pop(found.name, None)
        if found.due:
            self._looks.remove(found.name, found.due)
        report = self.report(found.name)
        for asker in found.followers:
            self._post(asker, Told(report))

    def report(self, channel: str) -> Report:
        """The servers of a channel, now."""
        found = self._channels.get(channel)
        serial = next(self._serials)
        if found is None or not self._is_served(found):
            return Report(self._worker, serial, channel, 0)
        pool = found.pool
        room = 0 if found.waits else max(0, pool.room - len(found.called))
        return Report(self._worker, serial, channel, max(1, len(pool.servers)), *pool.least, room)

    def follow(self, channel: str, asker: str) -> Report:
        """The servers of a channel, for a worker that is told of changes from now on, if there are any."""
        found = self._channels.get(channel)
        if found is not None and asker != self._worker:
            found.followers[asker] = self._clock()
        return self.report(channel)

    # Requests.

    def take(self, asked: Asked) -> None:
        """Give a request to a server, or return it."""
        found, now = self._channels.get(asked.channel), self._clock()
        if found is None:
            self._post(asked.asker, Returned(asked.number, self.report(asked.channel)))
            return
        if (asked.asker, asked.number) in self._numbers:
            return  # the backbone has brought it twice
        found.followers[asked.asker] = now
        is_turn = found.called.pop(asked.asker, None) is not None if asked.called else not found.waits
        has_room = is_turn and found.pool.room > len(found.called)
        server = self._ready(found, len(asked.payload)) if has_room else None
        if server is None:
            found.waits[asked.asker] = len(asked.payload)
            self._look_at(found, now)
            self._post(asked.asker, Returned(asked.number, self.report(asked.channel)))
            return
        given = Given(
            self._prefix + secrets.token_urlsafe(16), asked.asker, asked.number, now + asked.left, server
        )  # fmt: skip
        self._begin(given)
        server.sink.give(given, Message(asked.channel, asked.kind, asked.payload), asked.left)

    def _ready(self, found: _Channel, size: int) -> Server | None:
        """The server for the next request, which has so many bytes; None: those with room have too much to read."""
        choices = islice(found.pool.choices(), TRIED)
        return next((server for server in choices if server.sink.is_ready(size)), None)

    def settle(self, id: str, holder: str, outcome: Message | Failure) -> None:
        """Take the answer of a server to a request that it has. The message's channel counts for nothing. Raises
        NotFound, Forbidden, Conflict and TooLate; and Unavailable where the backbone is full: then it has the request
        still."""
        given = self._given.get(id)
        if given is None:
            over = self._over.get(id)
            if over is None:
                raise NotFound("there is no such request: perhaps it was over long ago")
            raise over[1]() if over[0] == holder else _another()
        if given.holder != holder:
            raise _another()
        channel = given.server.channel
        if self._clock() >= given.deadline:
            self._end(given, _late)
            self._go_on(channel)
            raise _late()
        self._end(given, lambda: Conflict("this request was answered already"))
        found = self._channels.get(channel)
        if found is not None and len(found.waits) == 1:
            found.waits.pop(given.asker, None)  # the report tells it that there is room, which no other waits for
        report = self.report(channel)
        letter: Letter
        if isinstance(outcome, Failure):
            letter = Failed(given.number, outcome.code, outcome.message, report)
        else:
            letter = Answered(given.number, outcome.kind, outcome.payload, report)
        if not self._post(given.asker, letter):
            del self._over[id]
            self._begin(given)
            raise Unavailable("the backbone is full: answer again soon")
        self._go_on(channel)

    def withdraw(self, asker: str, number: int) -> None:
        """The client of a request has gone: its server is told."""
        given = self._numbers.get((asker, number))
        if given is not None:
            self._end(given, lambda: TooLate("the client has gone: nobody waits for the answer"))
            given.server.sink.withdrawn(given)
            self._go_on(given.server.channel)

    def _begin(self, given: Given) -> None:
        self._given[given.id] = self._numbers[given.asker, given.number] = given
        self._deadlines.add(given.id, given.deadline)
        found = self._channels.get(given.server.channel)
        if found is not None:
            found.pool.begin(given)
            self._note_change(found)
        else:
            given.server.open[given.id] = given

    def _end(self, given: Given, over: _Over) -> None:
        del self._given[given.id]
        del self._numbers[given.asker, given.number]
        self._deadlines.remove(given.id, given.deadline)
        found = self._channels.get(given.server.channel)
        if found is not None:
            found.pool.end(given)
            self._note_change(found)
        else:
            del given.server.open[given.id]
        if len(self._over) >= MAX_OVER:
            del self._over[next(iter(self._over))]
        self._over[given.id] = given.holder, over

    # Turns.

    def wait(self, asker: str, channel: str) -> None:
        """Call a worker with requests that wait, when there is room."""
        found = self._channels.get(channel)
        if found is None:
            self._post(asker, Told(self.report(channel)))
            return
        found.followers[asker] = self._clock()
        found.waits[asker] = 0
        self._call(found)

    def passed(self, asker: str, channel: str) -> None:
        """A worker that was called has no request any more."""
        found = self._channels.get(channel)
        if found is not None and found.called.pop(asker, None) is not None:
            self._call(found)

    def _go_on(self, channel: str) -> None:
        found = self._channels.get(channel)
        if found is not None and found.waits:
            self._call(found)

    def _call(self, found: _Channel) -> None:
        """Call workers that wait, as there is room, once each: a request may come at once and be returned."""
        for asker, size in list(found.waits.items()):
            if found.pool.room <= len(found.called):
                break
            if asker not in found.waits:
                continue
            now = self._clock()
            if self._ready(found, size) is None:
                self._look_at(found, now)
                continue
            del found.waits[asker]
            found.called[asker] = now + KEPT
            self._look_at(found, now + KEPT)
            self._post(asker, Called(self.report(found.name)))

    # Time, and other workers.

    def tick(self) -> None:
        """Do what is due: end requests whose time is up, and tell workers of changes."""
        now = self._clock()
        for id in self._deadlines.due(now):
            given = self._given.get(id)
            if given is not None:
                self._end(given, _late)
                self._go_on(given.server.channel)
        for channel in self._looks.due(now):
            found = self._channels.get(channel)
            if found is not None:
                found.due = 0.0
                self._look(found, now)
        told = 0
        while self._changed and told < TOLD_AT_ONCE:
            channel = next(iter(self._changed))
            del self._changed[channel]
            told += self._tell(channel, now)

    def _look(self, found: _Channel, now: float) -> None:
        """Look at the times of a channel: room that was kept for nothing, servers that have not come back."""
        for asker in [asker for asker, until in found.called.items() if until <= now]:
            del found.called[asker]
        if not self._is_served(found):
            self._close(found)
            return
        for until in found.called.values():
            self._look_at(found, until)
        if found.returns > now:
            self._look_at(found, found.returns)
        self._call(found)

    def _look_at(self, found: _Channel, at: float) -> None:
        """Look at the times of a channel soon after one of them, or earlier."""
        if found.due and found.due <= at:
            return
        if found.due:
            self._looks.remove(found.name, found.due)
        found.due = at
        self._looks.add(found.name, at)

    def _note_change(self, found: _Channel) -> None:
        if found.followers:
            self._changed[found.name] = None

    def _tell(self, channel: str, now: float) -> int:
        """Tell the followers of a channel how its servers are; return how many these are."""
        found = self._channels.get(channel)
        if found is None:
            return 0
        for asker in [asker for asker, asked in found.followers.items() if now - asked > FOLLOWS]:
            del found.followers[asker]
        report = self.report(channel)
        for asker in found.followers:
            self._post(asker, Told(report))
        return len(found.followers)

    def gone(self, is_gone: Callable[[str], bool]) -> None:
        """Workers have ended: nobody waits for the answers to their requests."""
        for asker, number in [key for key in self._numbers if is_gone(key[0])]:
            self.withdraw(asker, number)
        for found in list(self._channels.values()):
            for askers in (found.followers, found.waits, found.called):
                for asker in [asker for asker in askers if is_gone(asker)]:
                    askers.pop(asker, None)
            self._call(found)


def _late() -> Refusal:
    return TooLate("the time of this request is up")


def _another() -> Refusal:
    return Forbidden("another server has this request")
