"""A worker's line to the history process of its node (`raiden.history.server`).

What one turn of the event loop asks goes in one message. What was asked of a process that died fails at once; what is
asked before there is another one waits for it. Either fails after `TIMEOUT`.
"""

from __future__ import annotations

import marshal
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from gevent.event import Event

from raiden.history import Append, Appended, Claimed, Gap, Page, Record, StoreFailed
from raiden.history.pipe import Closed, Pipe
from raiden.message import Cursor

# Seconds. The engines bound their own time to 5 s, and another group may be before.
TIMEOUT = 8.0
RECONNECT = 0.02
# What may wait for an answer, of one worker. OVERHEAD is what a message takes besides its payload.
MAX_WAITING, MAX_WAITING_BYTES, OVERHEAD = 50_000, 64 << 20, 384

BUSY = "the history has too much to do: try again later"
LOST = "the history does not answer: try again later"

Done = Callable[[str | None, Any], None]


class _Asked:
    """A message of calls that waits for its answer; ``data`` until there is a process to give it to."""

    __slots__ = ("data", "number", "since", "size", "waiting")

    def __init__(self, number: int, data: bytes, waiting: list[Done], size: int) -> None:
        self.number = number
        self.data: bytes | None = data
        self.waiting = waiting
        self.size = size
        self.since = time.monotonic()


class History:
    """Asks at ``address``, a Unix socket's. `append` never waits; the others wait in the calling greenlet, and raise
    StoreFailed."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._loop = gevent.get_hub().loop
        self._pipe: Pipe | None = None
        self._readable: Any = None
        self._writable: Any = None
        self._retry = self._loop.timer(RECONNECT)
        self._clock = self._loop.timer(1.0, repeat=1.0)
        self._clock.start(self._expire)
        self._calls: list[tuple[str, Any]] = []
        self._dones: list[Done] = []
        self._size = 0
        self._asked: deque[_Asked] = deque()
        self._number = 0
        self.waiting = 0
        self.waiting_bytes = 0
        self._connect()

    def close(self) -> None:
        self._disconnect()
        for watcher in (self._retry, self._clock):
            watcher.stop()
            watcher.close()

    # Calls.

    def append(self, appends: Sequence[Append], done: Callable[[list[Appended] | StoreFailed], None]) -> None:
        """Append all in one go, and call ``done`` with where they stand or why they failed. Raises StoreFailed where
        too much waits already."""

        def answered(why: str | None, rows: Any) -> None:
            if why is not None:
                done(StoreFailed(why))
            else:
                done([Appended(epoch, range(first, end), repeated) for epoch, first, end, repeated in rows])

        size = sum([len(message[1]) + OVERHEAD for append in appends for message in append.messages])
        self._ask("append", [_plain(append) for append in appends], answered, size)

    def after(self, channel: str, cursor: Cursor | None, limit: int) -> Page:
        return self._page("after", channel, cursor, limit)

    def before(self, channel: str, cursor: Cursor | None, limit: int) -> Page:
        return self._page("before", channel, cursor, limit)

    def before_each(self, places: Sequence[tuple[str, Cursor]], limit: int) -> list[Page]:
        """`before`, of several channels in one go."""
        return [_page(*found) for found in self._calls_of("before", [(name, tuple(at), limit) for name, at in places])]

    def positions(self, channels: Sequence[str]) -> dict[str, Cursor]:
        return {name: Cursor(*place) for name, place in self._call("positions", list(channels)).items()}

    def clear(self, channel: str) -> str:
        epoch: str = self._call("clear", channel)
        return epoch

    def claim(self, channel: str, durable: str, limit: int, wait: float, since: Cursor | None) -> Claimed:
        rows, epoch, gap = self._call("claim", channel, durable, limit, wait, since and tuple(since))
        return Claimed([(Record(*row), attempt) for row, attempt in rows], epoch, gap and Gap(*gap))

    def acknowledge(self, channel: str, durable: str, epoch: str, claims: Sequence[tuple[int, int]]) -> list[int]:
        acknowledged: list[int] = self._call("acknowledge", channel, durable, epoch, list(claims))
        return acknowledged

    def release(self, channel: str, durable: str, epoch: str, claims: Sequence[tuple[int, int]]) -> None:
        self._call("release", channel, durable, epoch, list(claims))

    def forget(self, channel: str, durable: str) -> None:
        self._call("forget", channel, durable)

    def keep(self, name: str, value: bytes, ttl: float, holder: str) -> bool:
        kept: bool = self._call("keep", name, value, ttl, holder)
        return kept

    def take(self, name: str, holder: str, only_from: str = "") -> tuple[bytes, str] | None:
        taken: tuple[bytes, str] | None = self._call("take", name, holder, only_from)
        return taken

    def check(self) -> None:
        self._call("check")

    def size(self) -> int:
        size: int = self._call("size")
        return size

    def _page(self, name: str, channel: str, cursor: Cursor | None, limit: int) -> Page:
        return _page(*self._call(name, channel, cursor and tuple(cursor), limit))

    def _call(self, name: str, *arguments: Any) -> Any:
        return self._calls_of(name, [arguments])[0]

    def _calls_of(self, name: str, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Make several calls, in one message, and wait for all answers."""
        answers: list[tuple[str | None, Any]] = []
        done = Event()

        def answered(why: str | None, value: Any) -> None:
            # An exception is raised by who waits, not here.
            answers.append((why, value))
            if len(answers) == len(calls):
                done.set()

        for arguments in calls:
            self._ask(name, arguments, answered, 0)
        done.wait()
        for why, _ in answers:
            if why is not None:
                raise StoreFailed(why)
        return [value for _, value in answers]

    # Messages.

    def _ask(self, name: str, arguments: Any, done: Done, size: int) -> None:
        if self.waiting >= MAX_WAITING or self.waiting_bytes + size > MAX_WAITING_BYTES:
            raise StoreFailed(BUSY)
        if not self._calls:
            self._loop.run_callback(self.send)  # behind all that this turn brings
        self._calls.append((name, arguments))
        self._dones.append(done)
        self.waiting += 1
        self.waiting_bytes += size
        self._size += size

    def send(self) -> None:
        """Ask now what was to be asked at the end of the turn."""
        if not self._calls:
            return
        self._number += 1
        calls, self._calls = self._calls, []
        self._asked.append(_Asked(self._number, marshal.dumps((self._number, calls)), self._dones, self._size))
        self._dones, self._size = [], 0
        if self._pipe is not None:
            self._hand_over(self._pipe, self._asked[-1])

    def _hand_over(self, pipe: Pipe, asked: _Asked) -> None:
        assert asked.data is not None
        pipe.send(asked.data)
        asked.data = None
        if pipe.waits:
            self._writable.start(self._flush)

    def _flush(self) -> None:
        assert self._pipe is not None
        self._pipe.flush()
        if not self._pipe.waits:
            self._writable.stop()

    def _receive(self) -> None:
        assert self._pipe is not None
        try:
            messages = self._pipe.receive()
        except Closed:
            self._lose()
            return
        for data in messages:
            number, answers = marshal.loads(data)
            if self._asked and self._asked[0].number == number:  # else it came too late
                asked = self._asked.popleft()
                self._forget(asked)
                for done, (why, value) in zip(asked.waiting, answers, strict=True):
                    done(why, value)

    # The connection.

    def _connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            sock.connect(self._address)
        except OSError:  # the process is not there now
            sock.close()
            self._retry.start(self._connect)
            return
        self._pipe = Pipe(sock)
        self._readable, self._writable = self._loop.io(sock.fileno(), 1), self._loop.io(sock.fileno(), 2)
        self._readable.start(self._receive)
        for asked in self._asked:
            self._hand_over(self._pipe, asked)

    def _disconnect(self) -> None:
        if self._pipe is not None:
            for watcher in (self._readable, self._writable):
                watcher.stop()
                watcher.close()
            self._pipe.close()
            self._pipe = None

    def _lose(self) -> None:
        """The process died, and with it what it was asked."""
        self._disconnect()
        lost, self._asked = self._asked, deque()
        self._connect()
        for asked in lost:
            self._fail(asked)

    def _expire(self) -> None:
        while self._asked and time.monotonic() - self._asked[0].since > TIMEOUT:
            self._fail(self._asked.popleft())

    def _fail(self, asked: _Asked) -> None:
        self._forget(asked)
        for done in asked.waiting:
            done(LOST, None)

    def _forget(self, asked: _Asked) -> None:
        self.waiting -= len(asked.waiting)
        self.waiting_bytes -= asked.size


def _page(rows: Any, epoch: str, position: Any, gap: Any, more: bool) -> Page:
    records = [Record(*row) for row in rows]
    return Page(records, epoch, position and Cursor(*position), gap and Gap(*gap), more)


def _plain(append: Append) -> tuple[Any, ...]:
    """The fields of an `Append`, in their order."""
    return (
        append.channel, append.messages, append.size, append.ttl, append.key, int(append.durability), append.retain,
    )  # fmt: skip
