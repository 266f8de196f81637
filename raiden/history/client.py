"""A worker's line to the history process of its node (`raiden.history.server`).

The appends of one turn of the event loop go in one message, and each question in one of its own; both carry a number,
by which they are answered, and the time by which the process must have begun them.

**Pages.** A question that may be answered with a page goes to the process only while fewer than `PAGES` such questions
are under way; the others wait here. So neither end ever has more pages than that, however many clients ask, and appends
never stand behind more of them. Channels have their turns one after the other: a reader of one channel waits for one
page of each other channel, however much others read there.

**Time.** A call that the process has not begun `TIMEOUT` seconds after it was made fails, and has done nothing: the
process refuses it when it comes to it. An append that it may have begun is waited for, for `PATIENCE` seconds more. If
there is no answer then, or the process died meanwhile, nobody knows whether it was done, and its failure says so. Calls
that are made while there is no process wait for the next one.

**Freshness.** Each answer tells when the store last answered anybody, and a worker that has heard no answer for a
second asks. So `is_fresh` is a plain comparison, and is false soon after the store went away.
"""

from __future__ import annotations

import marshal
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import gevent
from gevent.event import Event

from raiden.history.calls import Answer, Asked, Done, plain, to_appended, to_claimed, to_page, to_refusal, to_stands
from raiden.history.pipe import Closed, Pipe
from raiden.history.store import (
    NOBODY_KNOWS,
    Append,
    Appended,
    Claimed,
    Figures,
    FiguresAsked,
    FiguresPage,
    GiveUp,
    StoreFailed,
)
from raiden.history.streams import StreamPage, to_stream_page
from raiden.model.message import Cursor
from raiden.model.page import Page, Stand
from raiden.model.refusals import Refusal
from raiden.runtime import faults

# Seconds that a call may wait to be begun, and then to be done: the engines bound their own time to 5 s.
TIMEOUT: Final = 8.0
PATIENCE: Final = 5.0
RECONNECT: Final = 0.02
# Seconds for which an answer of the store shows that it is there; seconds between two checks whether to ask.
FRESH: Final = 3.0
TICK: Final = 1.0
# Bounds of one worker's calls that wait for an answer. OVERHEAD is the bytes of a message, or a question, besides its
# payload.
MAX_WAITING: Final = 50_000
MAX_WAITING_BYTES: Final = 64 << 20
OVERHEAD: Final = 384
# Questions under way whose answers may be pages, each of `PAGE_BYTES` and the message that goes over.
PAGES: Final = 4

BUSY = "the history has too much to do: try again later"
LOST = "the history does not answer: try again later"
UNKNOWN = f"the history did not answer in time: {NOBODY_KNOWS}"


class History:
    """The history, by way of the process at ``address``, a Unix socket's. `append` never waits; the other calls wait in
    the calling greenlet, and raise StoreFailed."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._loop = gevent.get_hub().loop
        self._pipe: Pipe | None = None
        self._readable: Any = None
        self._writable: Any = None
        self._retry = self._loop.timer(RECONNECT)
        self._clock = self._loop.timer(TICK, repeat=TICK)
        self._clock.start(self._tick)
        # The appends of this turn, the callbacks for their answers, and the bytes that they count.
        self._appends: list[Any] = []
        self._dones: list[Done] = []
        self._size = 0
        # The calls that are not answered yet, by number, in the order of asking; and those of them for pages that the
        # process was not asked for yet, by channel (or another first argument), in the order of their turns.
        self._asked: dict[int, Asked] = {}
        self._pages: dict[Any, deque[Asked]] = {}
        self._pages_asked = 0
        self._number = 0
        self._life = ""
        # The time when the store last answered (CLOCK_MONOTONIC); and whether a question that only checks this is under
        # way.
        self._answered_at = 0.0
        self._asks_for_life = False
        # Called when a new life of the store has begun, and messages that it had may be gone.
        self.renewed: Callable[[], None] = lambda: None
        self.waiting = 0
        self.waiting_bytes = 0
        self._connect()

    def close(self) -> None:
        self._disconnect()
        for watcher in (self._retry, self._clock):
            watcher.stop()
            watcher.close()

    @property
    def is_fresh(self) -> bool:
        """Whether the store has answered within the last `FRESH` seconds."""
        return time.monotonic() - self._answered_at < FRESH

    # Calls.

    def append(self, appends: Sequence[Append], done: Callable[[list[Appended] | Refusal], None]) -> None:
        """Append all in one go, and call ``done`` with their places, or the refusal: `StoreFailed`, or that of a
        condition (`raiden.history.conditions`). Raises StoreFailed where too much waits already."""

        def answered(why: Any, rows: Any) -> None:
            if why is not None:
                done(to_refusal(why))
            else:
                done([to_appended(*row) for row in rows])

        size = sum([len(message[1]) + OVERHEAD for append in appends for message in append.messages])
        self._admit(size)
        if not self._appends:
            self._loop.run_callback(self.send)  # behind all that this turn brings
        self._appends.append([plain(append) for append in appends])
        self._dones.append(answered)
        self._size += size

    def after(self, channel: str, cursor: Cursor | None, limit: int) -> Page:
        return self._page("after", channel, cursor, limit)

    def before(self, channel: str, cursor: Cursor | None, limit: int) -> Page:
        return self._page("before", channel, cursor, limit)

    def before_each(self, places: Sequence[tuple[str, Cursor]], limit: int) -> list[Page]:
        """`before`, of several channels in one go."""
        asked = [(name, tuple(at), limit) for name, at in places]
        return [to_page(*found) for found in self._calls_of("before", asked, page=True)]

    def positions(self, channels: Sequence[str]) -> dict[str, Stand]:
        return to_stands(self._call("positions", list(channels)))

    def open(self, channels: Sequence[str]) -> dict[str, Stand]:
        """`positions`, and of channels without a history the places before their first message (`Store.begin`)."""
        return to_stands(self._call("open", list(channels)))

    def clear(self, channel: str) -> str:
        epoch: str = self._call("clear", channel)
        return epoch

    def stream(self, channel: str, place: Cursor | None = None, limit: int = 0, *, touch: bool = False) -> StreamPage:
        return to_stream_page(*self._call("stream", channel, place and tuple(place), limit, touch, page=limit > 0))

    def delete(self, channel: str) -> str:
        epoch: str = self._call("delete", channel)
        return epoch

    def claim(
        self, channel: str, durable: str, limit: int, wait: float, since: Cursor | None, give_up: GiveUp, *, make: bool
    ) -> Claimed:
        told = give_up.attempts, give_up.letters and plain(give_up.letters)
        asked = channel, durable, limit, wait, since and tuple(since), told, make
        return to_claimed(*self._call("claim", *asked, page=limit > 0))

    def acknowledge(
        self, channel: str, durable: str, epoch: str, claims: Sequence[tuple[int, int]],
        proofs: Sequence[str] = (),
    ) -> list[int]:  # fmt: skip
        acknowledged: list[int] = self._call("acknowledge", channel, durable, epoch, list(claims), list(proofs))
        return acknowledged

    def release(
        self, channel: str, durable: str, epoch: str, claims: Sequence[tuple[int, int]], delay: float = 0.0,
        proofs: Sequence[str] = (),
    ) -> list[int]:  # fmt: skip
        released: list[int] = self._call("release", channel, durable, epoch, list(claims), delay, list(proofs))
        return released

    def forget(self, channel: str, durable: str) -> None:
        self._call("forget", channel, durable)

    def figures(self, asked: FiguresAsked) -> FiguresPage:
        rows, more = self._call("figures", tuple(asked), page=True)
        return FiguresPage([Figures(*row) for row in rows], more)

    def keep(self, name: str, value: bytes, ttl: float, holder: str) -> bool:
        kept: bool = self._call("keep", name, value, ttl, holder)
        return kept

    def take(self, name: str, holder: str, only_from: str = "") -> tuple[bytes, str] | None:
        taken: tuple[bytes, str] | None = self._call("take", name, holder, only_from, page=True)
        return taken

    def now(self) -> int:
        now: int = self._call("now")
        return now

    def check(self) -> None:
        self._call("check")

    def size(self) -> int:
        size: int = self._call("size")
        return size

    def _page(self, name: str, channel: str, cursor: Cursor | None, limit: int) -> Page:
        return to_page(*self._call(name, channel, cursor and tuple(cursor), limit, page=True))

    def _call(self, name: str, *arguments: Any, page: bool = False) -> Any:
        return self._calls_of(name, [arguments], page=page)[0]

    def _calls_of(self, name: str, calls: Sequence[tuple[Any, ...]], *, page: bool = False) -> list[Any]:
        """Make several calls, and wait for all answers; ``page``: each may be answered with one."""
        answers: dict[int, Answer] = {}
        done = Event()

        def answered(number: int) -> Done:
            def answered(why: str | None, value: Any) -> None:
                # The greenlet that waits raises an exception, not this callback.
                answers[number] = why, value
                if len(answers) == len(calls):
                    done.set()

            return answered

        for number, arguments in enumerate(calls):
            self._ask(name, arguments, answered(number), page=page)
        done.wait()
        for why, _ in answers.values():
            if why is not None:
                raise StoreFailed(why)
        return [answers[number][1] for number in range(len(calls))]

    # Messages.

    def _admit(self, size: int) -> None:
        """Count one more waiting call, with its bytes; raises StoreFailed where too much waits already."""
        if self.waiting >= MAX_WAITING or self.waiting_bytes + size > MAX_WAITING_BYTES:
            raise StoreFailed(BUSY)
        self.waiting += 1
        self.waiting_bytes += size

    def _ask(self, name: str, arguments: Any, done: Done, *, page: bool) -> None:
        """Ask a question, behind the appends that were made before it."""
        self.send()
        number, deadline = self._number + 1, time.monotonic() + TIMEOUT
        data = marshal.dumps((number, deadline, name, arguments))
        self._admit(len(data) + OVERHEAD)
        self._number = number
        asked = self._asked[number] = Asked(
            number, data, deadline, done, count=1, size=len(data) + OVERHEAD, page=page, append=False
        )  # fmt: skip
        if page:
            self._pages.setdefault(arguments[0], deque()).append(asked)
            self._ask_for_pages()
        else:
            self._hand_over(asked)

    def send(self) -> None:
        """Ask now for the appends that were left for the end of the turn."""
        if not self._appends:
            return
        self._number += 1
        deadline = time.monotonic() + TIMEOUT
        appends, self._appends = self._appends, []
        dones, self._dones = self._dones, []
        size, self._size = self._size, 0
        data = marshal.dumps((self._number, deadline, "append", appends))

        def answered(why: str | None, answers: Any) -> None:
            for number, done in enumerate(dones):
                faults.call("an answer of the history", done, *((why, None) if why is not None else answers[number]))

        asked = self._asked[self._number] = Asked(
            self._number, data, deadline, answered, count=len(dones), size=size, page=False, append=True
        )
        self._hand_over(asked)

    def _ask_for_pages(self) -> None:
        """Ask for the next pages, while not too many are under way."""
        while self._pages and self._pages_asked < PAGES:
            channel = next(iter(self._pages))
            waiting = self._pages.pop(channel)
            asked = waiting.popleft()
            if waiting:
                self._pages[channel] = waiting
            if asked.number in self._asked:  # else its time was over
                self._pages_asked += 1
                asked.held = False
                self._hand_over(asked)

    def _hand_over(self, asked: Asked) -> None:
        """Give a call to the process, if there is one now."""
        pipe = self._pipe
        if pipe is not None and asked.data is not None:
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
            number, why, value, life, self._answered_at = marshal.loads(data)
            if life != self._life:
                known, self._life = self._life, life
                if known:
                    self.renewed()
            self._answered(number, why, value)

    def _answered(self, number: int, why: str | None, value: Any) -> None:
        asked = self._asked.pop(number, None)
        if asked is None:
            return  # it came too late
        self.waiting -= asked.count
        self.waiting_bytes -= asked.size
        if asked.page and not asked.held:
            self._pages_asked -= 1
            self._ask_for_pages()
        faults.call("an answer of the history", asked.done, why, value)

    # The connection.

    def _connect(self) -> None:
        """Connect, or try again soon: the process is not there now, or there is no descriptor for it."""
        try:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.setblocking(False)
                sock.connect(self._address)
            except BaseException:  # raised again: nobody else will close it
                sock.close()
                raise
        except OSError:
            self._retry.start(self._connect)
            return
        self._pipe = Pipe(sock)
        self._readable, self._writable = self._loop.io(sock.fileno(), 1), self._loop.io(sock.fileno(), 2)
        self._readable.start(self._receive)
        for asked in self._asked.values():
            if not asked.held:
                self._hand_over(asked)

    def _disconnect(self) -> None:
        if self._pipe is not None:
            for watcher in (self._readable, self._writable):
                watcher.stop()
                watcher.close()
            self._pipe.close()
            self._pipe = None

    def _lose(self) -> None:
        """Connect anew: the process died, and with it the calls that it had got."""
        self._disconnect()
        lost = [asked for asked in self._asked.values() if asked.data is None]
        self._connect()
        for asked in lost:
            self._answered(asked.number, UNKNOWN if asked.append else LOST, None)

    def _tick(self) -> None:
        now = time.monotonic()
        self._expire(now)
        if now - self._answered_at >= TICK and not self._asks_for_life:
            self._asks_for_life = True
            try:
                self._ask("now", (), self._lives, page=False)
            except StoreFailed:  # so much waits that answers will come
                self._asks_for_life = False

    def _lives(self, why: str | None, value: Any) -> None:
        self._asks_for_life = False

    def _expire(self, now: float) -> None:
        late = []
        for asked in self._asked.values():
            if asked.deadline > now:
                break
            if asked.data is not None or not asked.append:
                late.append((asked.number, LOST))
            elif asked.deadline + PATIENCE <= now:
                late.append((asked.number, UNKNOWN))
        for number, why in late:
            self._answered(number, why, None)
