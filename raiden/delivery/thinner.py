"""The thinned groups of a worker at work: what each puts before its sinks when messages come, and when the time has
come for those that wait."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Iterator
from typing import Final, TypeAlias

import gevent

from raiden.delivery.connection_ids import ConnectionIds
from raiden.delivery.selection import Selection
from raiden.delivery.sends import Sends
from raiden.delivery.skipped import Put, with_notices
from raiden.delivery.table import Sink, Subscription
from raiden.delivery.thinned import Thinned
from raiden.model.encoding import Encoding
from raiden.model.message import Message
from raiden.model.page import Gap
from raiden.runtime import faults
from raiden.runtime.stats import Stats

Group: TypeAlias = "Thinned[Sink, Subscription]"
Groups: TypeAlias = "Selection[Thinned[Sink, Subscription]]"


# The gap told to subscribers to whom a delivery failed: nobody knows how much of the delivery they have.
LOST: Final = Gap("", 0, 0)


class Thinner:
    """Puts the messages of thinned groups before their sinks. One timer serves all groups."""

    def __init__(self, sends: Sends, stats: Stats, ids: ConnectionIds) -> None:
        self._sends = sends
        self._stats = stats
        self._ids = ids
        self._timer = gevent.get_hub().loop.timer(0)
        # The times at which groups are to be looked at, with a number for those with the same time. Groups that have
        # no subscriptions any more are left out when there are `_many`.
        self._alarms: list[tuple[float, int, Encoding, Group]] = []
        self._numbers = itertools.count()
        self._many = 64

    def close(self) -> None:
        self._timer.stop()
        self._timer.close()

    def put(self, groups: Groups, run: list[Message], dirty: list[Sink]) -> tuple[int, int]:
        """Put what is due of a run before the sinks of a topic's groups. Returns the bytes, counted for each sink, and
        counted once."""
        now = time.monotonic()
        size = most = 0
        for key, passed in groups.matching(run).items():
            group = groups.groups[key]
            for message in passed:
                each, once = self._do(key[0], group.offer(message, now), dirty)
                size, most = size + each, most + once
            self._watch(key[0], group)
        return size, most

    def settle(self, groups: Groups | None, dirty: list[Sink]) -> None:
        """Put all that waits in a topic's groups before their sinks: something comes that must be behind it."""
        for (encoding, _), group in [] if groups is None else groups.groups.items():
            self._do(encoding, group.tick(time.monotonic(), all_of_them=True), dirty)

    def _do(
        self, encoding: Encoding, puts: Iterator[Put[Sink, Subscription]], dirty: list[Sink]
    ) -> tuple[int, int]:  # fmt: skip
        size = most = 0
        for put in puts:
            if not put.sinks:
                continue
            data = with_notices(encoding, put.message, put.skipped, put.place)
            excluded = self._excluded(put.message)
            for sink in put.sinks:
                if excluded and sink.own_id == excluded:
                    self._tell_only(encoding, sink, put, dirty)
                    continue
                pending = sink.pending
                if not pending:
                    dirty.append(sink)
                pending.append(data)
            self._stats.delivered += len(put.sinks)
            size, most = size + len(data) * len(put.sinks), most + len(data)
        return size, most

    def _excluded(self, message: Message) -> bytes:
        """The own part of the id of the connection that is not to get a message; b"": it is for all of this worker."""
        attributes = message.attributes
        return b"" if attributes is None or not attributes.excluded else self._ids.own_part(attributes.excluded)

    def _tell_only(
        self, encoding: Encoding, sink: Sink, put: Put[Sink, Subscription], dirty: list[Sink]
    ) -> None:  # fmt: skip
        """Tell the excluded connection what is skipped for the message that it does not get."""
        if put.skipped is not None and encoding.notice is not None:
            if not sink.pending:
                dirty.append(sink)
            sink.pending.append(encoding.notice(put.message.channel, "skipped", put.skipped.told()))

    def _watch(self, encoding: Encoding, group: Group) -> None:
        """See to it that the group is looked at when something is due."""
        due = group.due
        if due is None or (group.alarm is not None and group.alarm <= due):
            return
        group.alarm = due
        heapq.heappush(self._alarms, (due, next(self._numbers), encoding, group))
        if len(self._alarms) > self._many:
            self._alarms = [alarm for alarm in self._alarms if len(alarm[3])]
            heapq.heapify(self._alarms)
            self._many = 2 * len(self._alarms) + 64
        if self._alarms and self._alarms[0][3] is group:
            self._rest()

    def _rest(self) -> None:
        """Wait for the next time."""
        self._timer.stop()
        if self._alarms:
            self._timer.close()
            self._timer = gevent.get_hub().loop.timer(max(0.0, self._alarms[0][0] - time.monotonic()))
            self._timer.start(self._tick, update=True)

    def _tick(self) -> None:
        dirty: list[Sink] = []
        size = most = 0
        now = time.monotonic()
        while self._alarms and self._alarms[0][0] <= now:
            at, _, encoding, group = heapq.heappop(self._alarms)
            if group.alarm != at:
                continue  # it was looked at before this time
            group.alarm = None
            try:
                each, once = self._do(encoding, group.tick(now), dirty)
                size, most = size + each, most + once
            except Exception:  # any exception: subscribers that may have missed something are told so
                faults.report("a delivery")
                for subscription in list(group.subscriptions()):
                    faults.call("telling of a gap", subscription.owner.missed, subscription, subscription.name, LOST)
                    dirty.append(subscription.sink)
            self._watch(encoding, group)
        self._sends.send(dirty, size, most)
        self._rest()
