"""Sessions of ZeroMQ PUSH clients: publishers without answers, and with backpressure."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import gevent

from raiden.access.clients import Client
from raiden.backend import BackboneFull
from raiden.connections import client as clients
from raiden.connections.connection import Connection
from raiden.history.conditions import HasEnded
from raiden.history.store import StoreFailed
from raiden.model import labels
from raiden.model.labels import Label
from raiden.model.message import Cursor, Kind, Message
from raiden.model.refusals import Invalid, Refusal
from raiden.protocols.zmtp import Alike, Event
from raiden.zeromq.session import BYTES, RETRY, Common, ZmqSession, channel_of, kind_of

# Messages that are stored at once; others wait for these.
MAX_STORED = 500
# A plain number: a look-up in an enumeration takes half as long as making a message.
_RAW = int(Kind.BYTES)
# Bytes of a payload that any `max_message` allows.
_ORDINARY = 1024


class Pusher(ZmqSession):
    """The session of a PUSH client. The client can't be told anything; so it is not read from while the node can't take
    more."""

    def __init__(self, common: Common, connection: Connection, client: Client, key: bytes) -> None:
        super().__init__(common, connection, client, key)
        # Consecutive messages of one channel, kind and label, which are published together.
        self._runs: deque[list[Message]] = deque()
        # Those that wait for their rates first.
        self._early: deque[list[Message]] = deque()

    def received(self, events: list[Event]) -> bool:
        for event in events:
            if isinstance(event, Alike):
                self._add(*event)
            elif isinstance(event, list) and 2 <= len(event) <= 4:
                self._add(event[0], event[1:2], event[2:])
            else:
                self._refuse(Invalid("push [channel, payload, type, attributes], or leave out the last or both"))
        if not self.waiting:
            self._publish()
        return True

    def _add(self, channel: bytes, payloads: list[bytes], rest: list[bytes]) -> None:
        """Add messages to one channel, of the type and with the label in the rest of their frames, to those that wait
        to be published."""
        content_type = rest[0] if rest else b""
        label = labels.NOTHING
        try:
            name = channel_of(channel)
            self.permit.check("publish", name)
            if len(rest) > 1:
                label = labels.of_object(rest[1])
        except Refusal as refusal:
            self._refuse(refusal, len(payloads), channel)
            return
        kind, now = _RAW, time.time_ns() // 1000
        # The hot path is bytes of an ordinary size.
        if content_type != BYTES or max(map(len, payloads), default=0) > _ORDINARY:
            payloads, kind = self._checked(channel, payloads, content_type, label)
        attributes, transient = label
        run = [Message(name, kind, payload, None, now, "", attributes, transient) for payload in payloads]
        runs = self._early if self.common.rates.on else self._runs
        if runs and _alike(runs[-1][0], name, kind, label):
            runs[-1] += run
        elif run:
            runs.append(run)

    def _checked(
        self, channel: bytes, payloads: list[bytes], content_type: bytes, label: Label
    ) -> tuple[list[bytes], int]:
        """The payloads that are valid for their type, as they are published, and their kind."""
        good, kind, most = [], _RAW, self.common.limits.max_message - label.size
        for payload in payloads:
            try:
                found, data = kind_of(payload, content_type, most)
            except Refusal as refusal:
                self._refuse(refusal, channel=channel)
                continue
            good.append(data)
            kind = int(found)
        return good, kind

    def _refuse(self, refusal: Refusal, count: int = 1, channel: bytes = b"") -> None:
        self.common.stats.bad_messages += count
        name = channel[:100].decode("utf-8", "replace")
        clients.refused(self.connection, refusal, "publish", name)
        self.common.say(
            "dropped what a ZeroMQ client pushed", client=self.client.name, channel=name, reason=refusal.detail
        )

    def _publish(self) -> None:
        """Publish the messages that wait. Where the node can't take them, try again later, and read nothing
        meanwhile."""
        self.waiting = 0
        router, flow = self.common.router, self.common.flow
        while self._runs or self._early:
            if not self._runs and (wait := self._admit()):
                self.common.say("a ZeroMQ client pushes more than rates allow", client=self.client.name)
                self._wait(lambda call: gevent.spawn_later(wait, self.work, call))
                return
            run = self._runs[0]
            if flow.full:
                self._wait(flow.wait)
                return
            if router.publisher.stores(run[0]):
                self._store()
                return
            try:
                router.publisher.publish_now(run)
            except BackboneFull:
                self._wait(self._soon)
                return
            flow.add(run)
            self._runs.popleft()
        self.resume()

    def _admit(self) -> float:
        """Let the first messages be published that rates allow now. Returns 0, or the seconds until they allow one."""
        run = self._early.popleft()
        account = clients.account(self.connection)
        count, wait = self.common.rates.some(account, run[0].channel, len(run))
        if count:
            self._runs.append(run[:count])
        if count < len(run):
            self._early.appendleft(run[count:])
        return wait

    def _store(self) -> None:
        """Publish the first messages, of channels with history: only as many at once as let others have their turn."""
        runs: list[list[Message]] = []
        room, router = MAX_STORED, self.common.router
        while room and self._runs and router.publisher.stores(self._runs[0][0]):
            most = router.publisher.most_at_once(self._runs[0][0].channel)
            if most and runs:
                break  # messages of a channel that may be full are published by themselves
            run = self._runs.popleft()
            count = min(room, most or room)
            if len(run) > count:
                self._runs.appendleft(run[count:])
            runs.append(run[:count])
            room = 0 if most else room - count

        def stored(outcome: list[list[Cursor]] | Refusal) -> None:
            if isinstance(outcome, HasEnded):
                ended = outcome.channel
                self._refuse(outcome, sum([len(run) for run in runs if run[0].channel == ended]), ended.encode())
                self._runs.extendleft(run for run in reversed(runs) if run[0].channel != ended)
                self._publish()
            elif isinstance(outcome, Refusal):
                self._runs.extendleft(reversed(runs))
                self._wait(self._soon)
            else:
                for run in runs:
                    self.common.flow.add(run)
                self._publish()

        self.waiting = 1
        self.connection.pause()
        try:
            router.publisher.publish(*runs, done=stored)
        except StoreFailed as error:
            stored(error)

    def _wait(self, until: Callable[[Callable[[], None]], object]) -> None:
        self.waiting = 1
        self.connection.pause()
        until(self._publish)

    def _soon(self, call: Callable[[], None]) -> None:
        gevent.spawn_later(RETRY, self.work, call)


def _alike(message: Message, channel: str, kind: int, label: Label) -> bool:
    """Whether a message may be published together with others of this channel, kind and label."""
    same = message.channel == channel and message.kind == kind and message.transient == label.transient
    return same and message.attributes == label.attributes
