"""A client's subscription to a channel: its beginning, and what is known of it while it lasts."""

from __future__ import annotations

from raiden.connections.states import CLOSING
from raiden.delivery.table import Subscription
from raiden.dialects.centrifuge import codes, tokens
from raiden.dialects.centrifuge.codes import Failed
from raiden.dialects.centrifuge.messages import SubscribeRequest, SubscribeResult
from raiden.dialects.centrifuge.parts import Channel, Talking
from raiden.dialects.centrifuge.recovery import Past
from raiden.dialects.centrifuge.tokens import Granted
from raiden.dialects.centrifuge.wire import FOSSIL
from raiden.dialects.following import follow
from raiden.model.filters import NO_FILTERS
from raiden.model.message import EARLIEST
from raiden.model.names import InvalidChannel, check_channel
from raiden.model.options import NOBODY
from raiden.presence.watches import Watched


def checked(name: str) -> str:
    """The name, if it may be a channel's; raises Failed."""
    try:
        return check_channel(name)
    except InvalidChannel:
        raise Failed(codes.BAD_REQUEST) from None


class Follow:
    """The beginning of a subscription: `begin`, `read` until it `is_ready`, then tell the client the `result`, and
    `attach`, before anything yields. ``ask`` says where the client is; what it missed has at most ``room`` bytes."""

    def __init__(
        self, talk: Talking, name: str, granted: Granted, ask: SubscribeRequest | None, *, is_server: bool = False,
        room: int | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self._talk = talk
        self._session = talk.session
        self._room = talk.dialect.gateway.limits.max_outbox if room is None else room
        self._granted = granted
        self._ask = ask or SubscribeRequest()
        self._is_server = is_server
        self._channel = Channel(granted, is_server)
        self._mine: Subscription | None = None
        self._past: Past | None = None
        self._watched: Watched | None = None
        self._has_deltas = False
        forced = talk.dialect.rules.join_leave if granted.join_leave is None else granted.join_leave
        permit = talk.connection.permit
        # Nobody sees who is at a channel where the options say so.
        forced = forced and permit.permits.policy.said("presence", name) != NOBODY
        self._watches = forced or (self._ask.join_leave and talk.may("presence", name))

    @property
    def waits(self) -> bool:
        """Whether there is something to wait for."""
        known = self._session.router.is_in_force((self.name,)) and self._is_in_an_epoch
        return self._ask.recover or self._watches or not known

    @property
    def _is_in_an_epoch(self) -> bool:
        """Whether the channel's place has an epoch, if it has a history: not so where it was just deleted."""
        return self._session.router.position(self.name) != EARLIEST

    def begin(self) -> None:
        """Subscribe. Waits until that is in force; raises a refusal."""
        talk = self._talk
        permit = talk.connection.permit
        if self._watches:
            self._watched = talk.dialect.presence.watch(self.name)
            if talk.connection.state >= CLOSING:
                raise Failed(codes.INTERNAL)
        if self.name in talk.channels:
            raise Failed(codes.ALREADY_SUBSCRIBED)
        filters = NO_FILTERS
        if permit.filters("subscribe", self.name) is not None:
            filters = permit.narrowed(filters, self.name, past=self._ask.recover)
        talk.channels[self.name] = self._channel
        # With filters, subscribers have different messages before the same one.
        self._has_deltas = talk.dialect.rules.delta and self._ask.delta == FOSSIL and not filters
        follow(self._session, self.name, talk.wire.deltas if self._has_deltas else talk.wire.encoding, filters)
        self._mine = mine = self._session.subscriptions.get(self.name)
        if mine is None:  # the channel was deleted meanwhile
            raise Failed(codes.INTERNAL)
        while not self._is_in_an_epoch:
            self._session.router.foresee(self.name)
        if self._ask.recover and self._session.router.position(self.name) is not None:
            self._past = Past(
                self._session.router, talk.connection, self.name, self._ask.epoch, self._ask.offset, mine.filters,
                self._room,
            )  # fmt: skip
            # A subscription permits the past, too, but where that is for nobody.
            policy = permit.permits.policy
            may_read = permit.filters("history", self.name) is not None
            if not (may_read or policy.leaves_open(permit.client, "history", self.name)):
                self._past.lost = True

    @property
    def is_ready(self) -> bool:
        """Whether the result can be told now."""
        return self._is_in_an_epoch and (self._past is None or self._past.is_over)

    def read(self) -> None:
        """Read what the client missed. Waits; raises StoreFailed."""
        if not self._is_in_an_epoch:
            self._session.router.foresee(self.name)
        elif self._past is not None and not self._past.is_over:
            self._past.read()

    def result(self) -> SubscribeResult:
        """The beginning, as the client is told of it."""
        place = self._session.router.position(self.name)
        result = SubscribeResult(data=self._granted.data, delta=self._has_deltas)
        if self._granted.expires is not None:
            result.expires, result.ttl = True, tokens.ttl(self._granted.expires)
        if place is None:
            return result
        result.recoverable = result.positioned = True
        result.epoch, result.offset = place.epoch, place.offset
        past = self._past
        if past is not None:
            result.was_recovering = True
            if not past.lost:
                result.recovered, result.offset = True, self._ask.offset
                publication = self._talk.wire.publication
                result.publications = [publication(message, deltas=self._has_deltas) for message in past.messages]
        return result

    @property
    def is_on(self) -> bool:
        """Whether the subscription has begun, and nobody has ended it while others were waited for."""
        return self._mine is not None and self._talk.session.has(self._mine)

    def check(self) -> None:
        """Raise Failed where the subscription has ended again, and where the client would rather have an error than a
        position from which messages are lost."""
        if not self.is_on:
            raise Failed(codes.INTERNAL)
        if self._past is not None and self._past.lost and self._ask.flag & 2:
            raise Failed(codes.UNRECOVERABLE)

    def attach(self) -> None:
        """Let the subscription go on."""
        talk, mine = self._talk, self._mine
        if mine is None or not self._session.has(mine):
            return
        self._session.attach(self.name)
        if self._watched is not None and self._session.has(mine):
            talk.dialect.presence.listen(self._watched, mine)

    def give_up(self) -> None:
        """Give back what was begun."""
        talk, mine = self._talk, self._mine
        if talk.channels.get(self.name) is self._channel:
            del talk.channels[self.name]
        if mine is not None and self._session.has(mine):
            self._session.unsubscribe(self.name)
