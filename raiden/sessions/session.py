"""Sessions: the subscriptions of a client, from the answer to its request on.

The gateway makes a session, and from then on its door hands events to the connection's `Client`: `receive` for bytes,
`tick` when the connection is due, `drain` when the node stops, `overflow` when it was too slow, and `close` when it is
gone. A session holds the subscriptions and gives them back in `close`. `replay` sends the messages that were missed
before the live ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raiden.connections.connection import Connection
from raiden.delivery.table import End, Subscriber, Subscription
from raiden.history.store import StoreFailed
from raiden.model import encoding
from raiden.model.filters import Filters
from raiden.model.message import Cursor
from raiden.model.page import Gap
from raiden.presence.watches import Notice
from raiden.protocols.heads import Repeated
from raiden.protocols.http import Request
from raiden.router import Router
from raiden.sessions.asks import Subscribe
from raiden.sessions.client import Client
from raiden.sessions.in_band import Told
from raiden.sessions.recovery import Beginning, Recovery

# The gap reported to a subscriber who asks for the past of a channel that keeps none.
NO_HISTORY = Gap("", 0, 0)


class Session:
    """The base of all sessions, which has subscriptions by name. ``told_by_head``: the answer's head told the gap
    before the first message, which need not be told in band."""

    __slots__ = ("router", "subscriptions")

    lasts = False
    answers_once = False
    """Whether the answer tells the position when it leaves, not when it begins."""
    status = 200
    """The status of its answer."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self.subscriptions: dict[str, Subscription] = {}

    @property
    def told_by_head(self) -> bool:
        return False

    @property
    def owner(self) -> Subscriber:
        """The one that is told what happens to the subscriptions."""
        return self

    def join(self, connection: Connection, request: Request | Repeated) -> Client:
        """Return the client that the connection is from now on, by this request."""
        raise NotImplementedError

    def open(self, ask: Subscribe, request: Request | Repeated, told: Told) -> None:
        """Tell the client that the subscriptions are in force, and where they begin."""
        raise NotImplementedError

    def opened(self) -> None:
        """Get the messages that come from now on: missed ones are sent, or being sent."""

    def subscribe(self, name: str, encode: encoding.Encoding, filters: Filters | None = None, sink: Any = None) -> None:
        self.subscriptions[name] = self.router.subscribe(name, sink, self.owner, encode, filters or None)

    def attach(self, name: str) -> None:
        """Get the next messages of a channel or pattern."""
        if name in self.subscriptions:
            self.router.attach(self.subscriptions[name])

    def begin(self, beginning: Beginning, mine: Mapping[str, Subscription] | None = None) -> None:
        """Let subscriptions go on from their beginning; in a greenlet, if some miss something. ``mine`` are the
        subscriptions of the beginning, by name; None: all of the session. Those that ended meanwhile are left out."""
        mine = dict(self.subscriptions) if mine is None else mine
        here = [mine[name] for name in beginning.names if name in mine and self.has(mine[name])]
        behind = [subscription for subscription in here if subscription.name in beginning.recoveries]
        for subscription in behind:
            self.reached(subscription.name, beginning.recoveries[subscription.name].known)
        # First those that miss nothing, or have no history: nothing has yielded since their places were told.
        for subscription in here:
            name = subscription.name
            if name not in beginning.recoveries:
                self.attach(name)
                if beginning.recovered(name) is False and not self.told_by_head and self.has(subscription):
                    self.missed(subscription, name, NO_HISTORY)
        try:
            for subscription in behind:
                self.replay(subscription, beginning.recoveries[subscription.name])
        except StoreFailed:
            self.fail()

    def has(self, subscription: Subscription) -> bool:
        """Whether a subscription has not ended, nor was replaced by another one of the same name."""
        return self.subscriptions.get(subscription.name) is subscription

    def replay(self, subscription: Subscription, recovery: Recovery) -> None:
        """Send the missed messages of a channel, then attach, unless the subscription ends meanwhile; raises
        StoreFailed."""
        raise NotImplementedError

    def was_deleted(self, subscription: Subscription, deletions: int) -> bool:
        """Whether the channel was deleted since ``deletions`` was its number of deletions; this ends the subscription,
        unless it outlasts that: then it goes on with what follows the deletion."""
        if self.lasts or not self.has(subscription) or subscription.deletions == deletions:
            return False
        self.router.unsubscribe(subscription)
        self.ended(subscription)
        return True

    def reached(self, name: str, place: Cursor | None) -> None:
        """Note that missed messages of a channel were sent up to this place; None: the subscription is attached."""

    def unsubscribe(self, name: str) -> None:
        subscription = self.subscriptions.pop(name, None)
        if subscription is not None:
            self.router.unsubscribe(subscription)

    def close(self) -> None:
        for name in list(self.subscriptions):
            self.unsubscribe(name)

    def missed(self, subscription: Subscription, channel: str, gap: Gap) -> None:
        """Tell the client that messages were lost: those that come next follow the gap."""
        raise NotImplementedError

    def at_end(self, subscription: Subscription, end: End) -> None:
        """Tell the client that the channel has come to its end. A subscription to that channel alone is over."""
        raise NotImplementedError

    def connections(self) -> Sequence[Connection]:
        """The connections of its clients."""
        raise NotImplementedError

    def presence(self, subscription: Subscription, notice: Notice) -> None:
        """Tell the client who is at a channel, joins and leaves it."""
        raise NotImplementedError

    def fail(self) -> None:
        """End the connection, because promised messages can't be had: the client comes back."""
        raise NotImplementedError

    def ended(self, subscription: Subscription) -> None:
        """The channel was deleted."""
        self.subscriptions.pop(subscription.name, None)
