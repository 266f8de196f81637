"""Thinned groups: subscriptions with the same options that get the newest messages, at most so many a second. Pure.

     open --a message: it is sent--> closed --a message--> waiting --the time: the newest is sent--> closed
       ^-------------the time----------'

A group has one state for all its subscriptions, so their bytes are made once. Each value of the key, and each channel
of a pattern, is open, closed for the time between two messages, or waiting: then it has a newest message, and those
before it are skipped. Subscribers are told of these in front of the message that follows.

A subscription that begins must not get messages from before that. It is *fresh* until a message comes, which it gets at
once. If others still wait for messages from before that one, it is *young*: it is sent, and told of, only what came
behind that message. Once nothing waits from before, it is like the others.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Generic, TypeAlias, TypeVar

from raiden.delivery.laggards import Laggards
from raiden.delivery.skipped import Put, Skipped, Value, before
from raiden.model.filters import Filters, as_text
from raiden.model.message import Cursor, Message
from raiden.model.thinning import Thinning

# Values of the key, and channels of a pattern, that a group remembers; bytes of its messages that wait.
MAX_VALUES: Final = 1000
MAX_WAITING: Final = 4 << 20
# Values that all groups of a worker remember together, besides one for each.
MAX_IN_ALL: Final = 50_000
# Groups of subscriptions that are young. With one more, all that waits is sent: then none is.
MAX_YOUNG: Final = 16
# Characters of a value that is kept as it is; of a longer one a hash is kept.
SHORT: Final = 64

Sink = TypeVar("Sink")
Member = TypeVar("Member")


# Messages that are left of others, by their cursors, each with what is skipped before it.
Left: TypeAlias = dict[Cursor | None, Skipped | None]


class Room:
    """The room for the values of several groups: ``count`` are remembered, and ``most`` may be."""

    __slots__ = ("count", "most")

    def __init__(self, most: int = MAX_IN_ALL) -> None:
        self.count = 0
        self.most = most


class _Run:
    """Messages of one value that are skipped: ``number`` is that of the first one, ``count`` how many they are."""

    __slots__ = ("behind", "count", "first", "last", "number")

    def __init__(self, number: int, message: Message) -> None:
        self.number = number
        self.count = 1
        self.first = self.last = message.cursor
        self.behind = before(message)

    @property
    def skipped(self) -> Skipped:
        return Skipped(self.count, self.first, self.last, self.behind)


class _State:
    """The state of one value. ``until`` is the time up to which it is closed. Its newest message waits, the
    ``number``th of the group. Those before it are in ``runs``: there is a new one where subscriptions were young."""

    __slots__ = ("newest", "number", "runs", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.newest: Message | None = None
        self.number = 0
        self.runs: list[_Run] = []

    def first(self, after: int) -> tuple[int, Cursor | None] | None:
        """The first message behind the ``after``th that was neither sent nor told as skipped: its number, and the place
        before it."""
        for run in self.runs:
            if run.number > after:
                return run.number, run.behind
        if self.newest is None or self.number <= after:
            return None
        return self.number, before(self.newest)

    def skipped_after(self, after: int) -> Skipped | None:
        """The messages behind the ``after``th that are skipped."""
        found: Skipped | None = None
        for run in self.runs:
            if run.number > after:
                found = run.skipped if found is None else found.and_then(run.skipped)
        return found


class Thinned(Generic[Sink, Member]):
    """A group of subscriptions with the same thinning: each a sink, with its member. Times are seconds of one clock.
    ``is_behind`` says whether a member reads too slowly. ``has_places``: the messages are of one channel, so that there
    is a place after each where a client goes on that comes back; those of a pattern have none. `offer` and `tick` are
    iterators: each `Put` is to be done before the next one is asked for. ``alarm`` is for the caller: the time of the
    next `tick` that it has arranged. ``room`` is shared with other groups; None: it has its own."""

    __slots__ = (
        "_begins", "_boundary", "_bytes", "_every", "_has_places", "_laggards", "_last", "_number", "_room", "_states",
        "_subject", "_waiting", "alarm", "fresh", "members", "young",
    )  # fmt: skip

    def __init__(
        self, thinning: Thinning, is_behind: Callable[[Member], bool], *, has_places: bool = True,
        room: Room | None = None,
    ) -> None:  # fmt: skip
        self._has_places = has_places
        self._room = Room() if room is None else room
        self._every = thinning.every
        self._subject = thinning.subject
        self._laggards: Laggards[Sink, Member] | None = Laggards(is_behind) if thinning.latest else None
        self.members: dict[Sink, Member] = {}
        self.fresh: dict[Sink, Member] = {}
        # Young subscriptions, by the number of the message that they began with; and its cursor.
        self.young: dict[int, dict[Sink, Member]] = {}
        self._begins: dict[int, Cursor | None] = {}
        # The number of the last message, and that of the last one with which a subscription began.
        self._number = self._boundary = 0
        self._last: Message | None = None
        # Values that are closed or wait, in the order of their times; and those that wait, in the order of the first
        # message that each has.
        self._states: OrderedDict[Value, _State] = OrderedDict()
        self._waiting: OrderedDict[Value, _State] = OrderedDict()
        self._bytes = 0
        self.alarm: float | None = None

    def join(self, sink: Sink, member: Member) -> None:
        """Add a subscription, which gets the messages that are offered from now on."""
        (self.fresh if self._every else self.members)[sink] = member

    def leave(self, sink: Sink, member: Member) -> None:
        """Remove a subscription; one that is not there changes nothing."""
        for group in (self.members, self.fresh, *self.young.values()):
            if group.get(sink) is member:
                del group[sink]
                if self._laggards is not None:
                    self._laggards.leave(sink)
        for after in [after for after, group in self.young.items() if not group]:
            del self.young[after], self._begins[after]

    def close(self) -> None:
        """Give back the room for its values: its last subscription has left."""
        self._room.count -= len(self._states)
        self._states.clear()
        self._waiting.clear()
        self._bytes = 0

    def subscriptions(self) -> Iterator[Member]:
        for group in (self.members, self.fresh, *self.young.values()):
            yield from group.values()

    def __len__(self) -> int:
        return len(self.members) + len(self.fresh) + sum([len(group) for group in self.young.values()])

    @property
    def due(self) -> float | None:
        """The time at which `tick` may have something to do; None: nothing waits."""
        found = next(iter(self._states.values())).until if self._waiting else None
        look = None if self._laggards is None else self._laggards.due
        return look if found is None else found if look is None else min(found, look)

    def place(self, sink: Sink) -> Cursor | None:
        """The place up to which a subscription to one channel was sent everything, or told that it was skipped; None:
        all that came."""
        lag = None if self._laggards is None else self._laggards.place(sink)
        waits = None if sink in self.fresh else self._place(self._after(sink))
        return min([each for each in (lag, waits) if each is not None], key=lambda each: each.offset, default=None)

    def offer(self, message: Message, now: float) -> Iterator[Put[Sink, Member]]:
        """Take the next message; yields what is to be put before sinks now."""
        return self._all_read(self._offer(message, now), now)

    def tick(self, now: float, *, all_of_them: bool = False) -> Iterator[Put[Sink, Member]]:
        """Yield what is due now, or all that waits."""
        yield from self._all_read(self._tick(now, all_of_them), now)
        if self._laggards is not None:
            for put, is_last in self._laggards.tick(now, all_of_them):
                (sink,) = put.sinks
                place = self._place_behind(put.message, self._after(sink)) if is_last else None
                yield put._replace(place=place)

    def _all_read(self, puts: Iterable[Put[Sink, Member]], now: float) -> Iterator[Put[Sink, Member]]:
        """Keep messages back for those that read too slowly."""
        return iter(puts) if self._laggards is None else self._laggards.passed(puts, now)

    def _offer(self, message: Message, now: float) -> Iterator[Put[Sink, Member]]:
        value = self._value(message)
        self._number += 1
        self._last = message
        if not self._every:
            yield Put(self.members, message, None, None, value)
            return
        state = self._states.get(value)
        if state is None or (state.newest is None and state.until <= now):
            yield from self._make_room(value, now)
            self._close(value, now)
            yield from self._begin(now)
            yield from self._put(message, value, None, self._number)
            return
        if state.newest is None:
            self._waiting[value] = state
        else:
            self._skip(state, state.newest)
        state.newest, state.number = message, self._number
        self._bytes += len(message.payload)
        if self.fresh:
            yield Put(self.fresh, message, None, None, value)
            yield from self._begin(now)
        while self._bytes > MAX_WAITING:
            yield from self._send(next(iter(self._waiting)), now)

    def _tick(self, now: float, all_of_them: bool) -> Iterator[Put[Sink, Member]]:
        for value in list(self._waiting) if all_of_them else ():
            yield from self._send(value, now)
        while self._waiting:
            value, state = next(iter(self._states.items()))
            if state.until > now:
                return
            if state.newest is None:
                self._forget(value)  # it is open again
            else:
                yield from self._send(value, now)

    def _value(self, message: Message) -> Value:
        if self._subject is None:
            return message.channel, None
        text = as_text(self._subject.of(message))
        if text is not None and len(text) > SHORT:
            text = "#" + hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        return message.channel, text

    def _skip(self, state: _State, message: Message) -> None:
        """Skip the message that waited: a newer one has come."""
        self._bytes -= len(message.payload)
        runs = state.runs
        if runs and runs[-1].number > self._boundary:
            runs[-1].count += 1
            runs[-1].last = message.cursor
        else:
            runs.append(_Run(state.number, message))
            if len(runs) > 2 * MAX_YOUNG:
                state.runs = self._joined(runs)

    def _joined(self, runs: list[_Run]) -> list[_Run]:
        """Runs, of which those are one that no young subscription tells apart: it may have left."""
        found = runs[:1]
        for run in runs[1:]:
            last = found[-1]
            if any([last.number <= after < run.number for after in self.young]):
                found.append(run)
            else:
                last.count += run.count
                last.last = run.last
        return found

    def _close(self, value: Value, now: float) -> None:
        if self._states.pop(value, None) is None:
            self._room.count += 1
        self._states[value] = _State(now + self._every)

    def _forget(self, value: Value) -> None:
        del self._states[value]
        self._room.count -= 1

    def _send(self, value: Value, now: float) -> Iterator[Put[Sink, Member]]:
        """Put the newest message of a value that waits before those that have yet to get it."""
        state = self._waiting.pop(value)
        message = state.newest
        assert message is not None
        self._bytes -= len(message.payload)
        self._close(value, now)
        yield from self._put(message, value, state, state.number)

    def _put(
        self, message: Message, value: Value, state: _State | None, number: int
    ) -> Iterator[Put[Sink, Member]]:  # fmt: skip
        """Put a message before all that did not begin with it, or behind it."""
        for after, group in ((0, self.members), *self.young.items()):
            if number > after or (after == number and state is None):
                skipped = None if state is None else state.skipped_after(after)
                yield Put(group, message, skipped, self._place_behind(message, after), value)
        first = self._first(0)
        for after in [after for after in self.young if first is None or after < first[0]]:
            self.members.update(self.young.pop(after))
            del self._begins[after]

    def _begin(self, now: float) -> Iterator[Put[Sink, Member]]:
        """Let subscriptions that are fresh begin with the last message."""
        if self.fresh:
            if len(self.young) >= MAX_YOUNG:
                yield from self._tick(now, True)
            self.young[self._number], self.fresh = self.fresh, {}
            self._begins[self._number] = None if self._last is None else self._last.cursor
            self._boundary = self._number

    def _after(self, sink: Sink) -> int:
        """The number of the message behind which a subscription is to get all; 0: it is not young."""
        return next((after for after, group in self.young.items() if sink in group), 0)

    def _first(self, after: int) -> tuple[int, Cursor | None] | None:
        """The first message behind the ``after``th that waits or is skipped and not told, or one before it: its number,
        and the place before that."""
        if not self._waiting:
            return None
        first = next(iter(self._waiting.values())).first(0 if self._subject is not None else after)
        if first is None or first[0] > after:
            return first
        # Others wait for an earlier one. To look at all values for those behind it would take too long.
        return after + 1, self._begins[after]

    def _place(self, after: int) -> Cursor | None:
        first = self._first(after)
        return None if first is None else first[1]

    def _place_behind(self, message: Message, after: int) -> Cursor | None:
        """The place to tell behind a message; None: it is the message's own cursor."""
        if not self._has_places or message.cursor is None or self._last is None:
            return None
        place = self._place(after) or self._last.cursor
        return None if place == message.cursor else place

    def _make_room(self, value: Value, now: float) -> Iterator[Put[Sink, Member]]:
        """Forget values that are open again. If there are still too many, forget the one that would be open first."""
        states = self._states
        while states:
            first, state = next(iter(states.items()))
            if state.newest is not None or state.until > now:
                break
            self._forget(first)
        is_full = len(states) >= MAX_VALUES or self._room.count >= self._room.most
        if states and is_full and value not in states:
            first, state = next(iter(states.items()))
            if state.newest is not None:
                yield from self._send(first, now)
            self._forget(first)


def of_past(messages: Sequence[Message], filters: Filters | None) -> Left | None:
    """The messages of a page that a subscription with these filters gets: as if they came now as far apart as they were
    published. The last one, of each value, is among them. None: it gets all that match."""
    if filters is None or filters.thinning is None or not filters.thinning.rate:
        return None
    found: Left = {}
    group: Thinned[object, object] = Thinned(filters.thinning._replace(latest=False), bool)
    now = 0.0
    for message in messages:
        if filters.match(message):
            now = max(now, message.published / 1e6)
            while (due := group.due) is not None and due <= now:
                found.update({put.message.cursor: put.skipped for put in group.tick(due)})
            found.update({put.message.cursor: put.skipped for put in group.offer(message, now)})
    found.update({put.message.cursor: put.skipped for put in group.tick(now, all_of_them=True)})
    return found
