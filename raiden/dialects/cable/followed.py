"""A stream that a client follows, under the identifier by which it knows it. Several identifiers of a connection may
name one stream: each gets its own copy of the messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from raiden.connections.connection import Connection
from raiden.delivery.table import End, Subscription
from raiden.dialects.cable.encodings import Encodings, Form
from raiden.dialects.cable.streams import Stream
from raiden.model.filters import Filters
from raiden.model.message import Cursor
from raiden.model.page import Gap, Start
from raiden.presence.watches import Notice
from raiden.router import Router
from raiden.sessions.recovery import Batch, Recovery


class Follower(Protocol):
    """A client that follows streams; a CableSocket is one."""

    connection: Connection
    router: Router

    def send_past(self, subscription: Subscription, recovery: Recovery, batch: Batch) -> bool:
        """Send missed messages, as fast as the client reads them. Waits; False: its connection has ended."""

    def lost(self, followed: Followed) -> None:
        """Hear that messages of a stream are lost."""

    def attending(self, followed: Followed, notice: Notice) -> None:
        """Hear who joins and leaves a stream."""


class Followed:
    """The owner of one subscription. A channel's deletion and its end are nothing that this protocol knows: the
    subscription goes on. Making it raises TooManyChannels."""

    __slots__ = ("_encodings", "_form", "_held", "_subscription", "client", "confirmed", "joined", "stream")

    lasts = True

    def __init__(
        self, client: Follower, stream: Stream, form: Form, encodings: Encodings, filters: Filters
    ) -> None:  # fmt: skip
        self.client = client
        self.stream = stream
        self._form = form
        self._encodings = encodings
        # The number of commands that had come when it was confirmed.
        self.confirmed = 0
        # The id under which the client has joined; "": it has not.
        self.joined = ""
        # The place up to which the client has got everything, where messages are held back.
        self._held: Cursor | None = None
        encoding = encodings.take(form)
        # None once it has ended: the two refer to each other.
        self._subscription: Subscription | None = None
        try:
            self._subscription = client.router.subscribe(
                stream.name, client.connection, self, encoding, filters or None
            )
        except BaseException:  # raised again
            encodings.give_back(form)
            raise

    @property
    def identifier(self) -> str:
        return self._form.identifier

    @property
    def subscription(self) -> Subscription:
        assert self._subscription is not None
        return self._subscription

    @property
    def is_over(self) -> bool:
        return self._subscription is None

    @property
    def is_held(self) -> bool:
        """Whether messages are held back, and known to the channel's history."""
        return self._held is not None

    def attach(self) -> None:
        """Get the messages that come from now on."""
        self._held = None
        self.client.router.attach(self.subscription)

    def hold(self) -> bool:
        """Hold messages back until `release` or `attach`; False where that can't be, because the channel has no history
        that would keep them."""
        if self._held is None:
            self._held = self.client.router.position(self.stream.name)
            if self._held is not None and self.subscription.topic is not None:
                self.subscription.topic.detach(self.subscription)
        return self._held is not None

    def release(self) -> None:
        """Get the messages that were held back, and those that come. Waits; raises StoreFailed."""
        if self._held is not None and not self.is_over:
            recovery = Recovery(self.client.router, self.stream.name, Start(self._held))
            whole = self.is_over or self.replay(recovery)
            if not whole and not self.is_over:
                self.client.lost(self)
        if not self.is_over:
            self.attach()

    def replay(self, recovery: Recovery) -> bool:
        """Send the missed messages; behind the last one, attach before anything yields. Waits; raises StoreFailed.
        Returns False where some are lost, and sends nothing behind these."""
        mine = self.subscription
        deletions = mine.deletions
        for batch in recovery.batches():
            if batch.gap is not None or mine.deletions != deletions:
                return False
            if not self.client.send_past(mine, recovery, batch):
                return True  # the connection has ended
        return True

    def end(self) -> None:
        """Follow the stream no more."""
        if not self.is_over:
            self.client.router.unsubscribe(self.subscription)
            self._encodings.give_back(self._form)
            self._subscription = None

    # What the router tells the owner of a subscription.

    def ended(self, subscription: Subscription) -> None:
        """Never called: see `lasts`."""

    def missed(self, subscription: Subscription, channel: str, gap: Gap) -> None:
        if not self.is_over:
            self.client.lost(self)

    def at_end(self, subscription: Subscription, end: End) -> None:
        """Go on: the channel may be deleted, and begin anew."""

    def connections(self) -> Sequence[Connection]:
        return (self.client.connection,)

    def presence(self, subscription: Subscription, notice: Notice) -> None:
        self.client.attending(self, notice)
