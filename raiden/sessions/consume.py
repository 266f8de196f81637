"""The consumers of durable subscriptions on a ``/-/websocket``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raiden.access.permit import Permit
from raiden.connections import client
from raiden.delivery import past
from raiden.history.store import StoreFailed
from raiden.model import encoding
from raiden.model.page import Gap
from raiden.model.refusals import Conflict, Invalid, NotFound, Refusal
from raiden.sessions.asks import Join, Leave, Settle
from raiden.sessions.bell import Bells
from raiden.sessions.durable import Claim, Consumer
from raiden.sessions.lasting import REPLAY_BYTES
from raiden.sessions.replies import Replies, Result


class Consumers:
    """Consumers by channel and durable: each sends the messages that it claims, and its client acknowledges these by
    commands."""

    __slots__ = ("_bells", "_consumers", "_replies")

    def __init__(self, bells: Bells, replies: Replies) -> None:
        self._bells = bells
        self._replies = replies
        self._consumers: dict[tuple[str, str], Consumer] = {}

    def __len__(self) -> int:
        return len(self._consumers)

    def has(self, channel: str, durable: str) -> bool:
        return (channel, durable) in self._consumers

    def close(self) -> None:
        """End all consumers, because the socket ends: claims that are not acknowledged are given back."""
        for consumer in self._consumers.values():
            consumer.end()
        self._consumers.clear()

    def retain(self, permit: Permit) -> None:
        """End the consumers that the permit does not allow."""
        for channel, durable in list(self._consumers):
            if not permit.consumes(channel, durable):
                self.withdraw(channel, durable)

    def remove(self, channel: str) -> None:
        """End the consumers of a channel."""
        for consumed, durable in list(self._consumers):
            if consumed == channel:
                self.withdraw(channel, durable)

    def withdraw(self, channel: str, durable: str) -> None:
        """End a consumer that its client may not be any longer."""
        self._end(channel, durable)
        self._replies.tell({"channel": channel, "durable": durable, "ended": True})

    def join(self, number: Any, ask: Join) -> None:
        """Consume a durable, from the reply on. Raises Invalid, Conflict, TooManyConsumers, TooManyChannels and
        TooManyRequests."""
        channel, durable = ask.channel, ask.durable
        if not self._bells.router.keeps(channel):
            raise Invalid("a durable subscription is to a channel that has a history")
        if self.has(channel, durable):
            raise Conflict("already subscribed: unsubscribe first")
        consumer = Consumer(
            self._bells, channel, durable, window=ask.window, ack_wait=ask.ack_wait, since=ask.since
        )  # fmt: skip
        self._consumers[channel, durable] = consumer
        lost: list[Gap] = []

        def work() -> Result:
            try:
                # A new durable has its place before the reply: messages that are published after that are for its
                # consumers.
                _, gap = consumer.claim(0)
            except StoreFailed:
                self._end(channel, durable, consumer)
                raise
            lost.extend([gap] if gap else [])
            return {"channel": channel, "durable": durable}

        def after() -> None:
            for gap in lost:
                self._tell_gap(ask, gap)
            self._serve(consumer, ask)

        self._later(number, work, after, undo=lambda: self._end(channel, durable, consumer))

    def settle(self, number: Any, ask: Settle) -> None:
        """Acknowledge messages, or give them back; raises NotFound and TooManyRequests."""
        consumer = self._consumers.get((ask.channel, ask.durable))
        if consumer is None:
            raise NotFound("not subscribed to that channel by that name")
        taken = consumer.take(ask.cursors)

        def work() -> Result:
            done = consumer.reject(taken, ask.delay) if ask.rejected else consumer.acknowledge(taken)
            late = [str(cursor) for cursor in consumer.late(ask.cursors, taken, done)]
            return {"returned" if ask.rejected else "acknowledged": len(done), **({"late": late} if late else {})}

        self._later(number, work, undo=lambda: consumer.take_back(taken))

    def leave(self, number: Any, ask: Leave) -> Result | None:
        """Consume a durable no longer, and perhaps end it for all. Returns the reply, or None where it comes later,
        behind the last that the consumer has to tell; raises NotFound, Invalid and TooManyRequests."""
        history = past.required(self._bells.router.history)  # by its settings, the channel may keep none any more
        consumer = self._consumers.get((ask.channel, ask.durable))
        if consumer is None and not ask.forget:
            raise NotFound("not subscribed to that channel by that name")
        result = {"channel": ask.channel, "durable": ask.durable}

        def work() -> Result:
            gap = None if consumer is None else consumer.rest()
            if gap is not None:
                self._tell_gap(ask, gap)
            if ask.forget:
                history.forget(ask.channel, ask.durable)
                client.done(self._replies.connection, "forget", ask.channel, durable=ask.durable)
            return result

        later = ask.forget or (consumer is not None and consumer.claiming)
        if later:
            self._replies.later(number, work)  # refuses before anything is done
        self._end(ask.channel, ask.durable)
        return None if later else result

    def _later(
        self, number: Any, work: Callable[[], Result], after: Callable[[], None] | None = None, *,
        undo: Callable[[], object],
    ) -> None:  # fmt: skip
        try:
            self._replies.later(number, work, after)
        except Refusal:
            undo()
            raise

    def _serve(self, consumer: Consumer, ask: Join) -> None:
        """Send the messages that the consumer claims, for as long as it lasts."""
        while not consumer.over:
            try:
                with self._replies.turn:
                    claims, gap = consumer.claim()
                    if gap is not None:
                        self._tell_gap(ask, gap)
                    sent = self._send(consumer, ask.durable, claims)
                if not sent:
                    break
                if claims and ask.settled:
                    consumer.acknowledge(consumer.take([message.cursor for message, _ in claims if message.cursor]))
            except StoreFailed:
                claims = []  # ask again soon
            if not claims:
                consumer.wait()
        if self._end(ask.channel, ask.durable, consumer) and not self._replies.connection.closed:
            self._replies.tell({"channel": ask.channel, "durable": ask.durable, "ended": True})

    def _send(self, consumer: Consumer, durable: str, claims: list[Claim]) -> bool:
        """Send claims as fast as the peer reads them; False where it does not, or unsubscribes meanwhile."""
        connection, size = self._replies.connection, 0
        for number, (message, attempts) in enumerate(claims, 1):
            if consumer.over:
                return False
            data = encoding.text_frame(encoding.claim(durable, message, attempts))
            connection.send(data)
            size += len(data)
            if size > REPLAY_BYTES or number == len(claims):
                size = 0
                if not connection.wait_until_sent(consumer.ack_wait):
                    return False
        return True

    def _tell_gap(self, ask: Join | Leave, gap: Gap) -> None:
        self._replies.tell({"durable": ask.durable, **encoding.gap(ask.channel, gap)})

    def _end(self, channel: str, durable: str, mine: Consumer | None = None) -> bool:
        """End the consumer of a durable, and say whether there was one; with ``mine`` only that one, which may have a
        successor."""
        consumer = self._consumers.get((channel, durable))
        if consumer is None or (mine is not None and mine is not consumer):
            return False
        del self._consumers[channel, durable]
        consumer.end()
        if self._replies.connection.permit is not None:
            self._replies.connection.permit.ended(channel, durable)
        return True
