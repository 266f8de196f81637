"""``/-/websocket``: commands as JSON text, many channels on one socket.

A command is first read (`raiden.sessions.commands`), and then done: `Replies` sends the answers, `Consumers` has the
consumers of durable subscriptions, and `Resumable` is the session by which the subscriptions outlive the socket.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from raiden.access.rates import Rates
from raiden.connections import client
from raiden.connections.connection import Connection
from raiden.connections.wheel import Wheel
from raiden.delivery import past
from raiden.delivery.table import End, Subscription, TooManyChannels
from raiden.history.store import TooLargeToKeep
from raiden.model import encoding
from raiden.model.filters import Filters
from raiden.model.message import Cursor
from raiden.model.page import Read
from raiden.model.refusals import Conflict, Forbidden, NotFound, Refusal, attempt
from raiden.presence.presence import Presence
from raiden.presence.watches import Watched
from raiden.protocols.websocket import WebSocket
from raiden.requests.exchange import Exchange
from raiden.router import Router
from raiden.sessions import asks, commands, in_band, pages, publishing
from raiden.sessions.allowed import Allowed
from raiden.sessions.asks import Command, Follow, Join, Keep, Leave, Ping, PublishOne, Renew, Resume, Settle, Unfollow
from raiden.sessions.attending import attend
from raiden.sessions.bell import Bells
from raiden.sessions.consume import Consumers
from raiden.sessions.kept import Taken
from raiden.sessions.recovery import Beginning, Recovery
from raiden.sessions.replies import Replies, Result
from raiden.sessions.requests import Requests
from raiden.sessions.resume import Places, Resumable, Wanted
from raiden.sessions.socket import Socket


class MultiplexSocket(Socket):
    """A WebSocket that takes commands. Its session can be resumed for ``session_window`` seconds. Parts that only some
    sockets need are made when they are first needed."""

    __slots__ = (
        "_presence", "allowed", "bells", "consumers", "exchange", "max_subscriptions", "places", "replies", "requests",
        "resumable", "session_window",
    )  # fmt: skip

    def __init__(
        self, connection: Connection, router: Router, wheel: Wheel, keepalive: float, socket: WebSocket, *,
        bells: Bells, exchange: Exchange, rates: Rates, presence: Presence, max_subscriptions: int,
        session_window: float, max_message: int,
    ) -> None:  # fmt: skip
        super().__init__(
            connection, router, wheel, keepalive, in_band.websocket(True), [], socket, rates=rates,
            max_message=max_message,
        )  # fmt: skip
        self.bells = bells
        self.exchange = exchange
        self._presence = presence
        self.max_subscriptions = max_subscriptions
        self.session_window = session_window
        self.replies = Replies(connection, max_subscriptions)
        self.places: Places | None = None
        self.consumers: Consumers | None = None
        self.resumable: Resumable | None = None
        self.requests: Requests | None = None
        self.allowed = Allowed(connection, rates)

    def message(self, data: str | bytes) -> None:
        command: dict[str, Any] = {}

        def read() -> Command:
            nonlocal command
            command = commands.parse(data)
            ask = commands.read(command)
            self.allowed.check(ask)
            return ask

        ask = attempt("a command", read)
        guest = self.allowed.guest
        # Another token counts for what comes behind it, which is judged before all that waits is done.
        if guest is None or isinstance(ask, Refusal | Renew):
            self._do(command, ask)
        else:
            self.in_line().put(guest, ask, len(data), lambda decided: self._do(command, decided))

    def _do(self, command: Mapping[str, Any], ask: Any) -> bool:
        """Do what a command asks for, unless that is refused; return whether it is done, or being done."""
        number, result = command.get("id"), ask
        if not isinstance(ask, Refusal):
            result = attempt("a command", _DO[type(ask)], self, number, ask)
        if isinstance(result, Refusal):
            client.refused(self.connection, result, str(command.get("cmd", "")), str(command.get("channel", "")))
        if result is not None:
            self.replies.reply(number, result)
        return not isinstance(result, Refusal)

    def keep_alive(self) -> None:
        # Without an answer to the last ping it is not known which of the earlier messages have come.
        if self.websocket.ponged and self.places is not None:
            told = self.places.pinged(self.router, self.subscriptions)
            if self.resumable is not None:
                self.resumable.keep_soon()
            for name, place in told.items():
                self.replies.tell({"channel": name, "cursor": str(place)})
        super().keep_alive()

    def expires_soon(self, left: float) -> None:
        self.replies.tell({"expires": round(left)})

    def drain(self) -> None:
        self._requests().finish(super().drain)

    def close(self) -> None:
        parts: tuple[Resumable | Consumers | Requests | None, ...] = (self.resumable, self.consumers, self.requests)
        for part in parts:
            if part is not None:
                part.close()
        super().close()

    def ended(self, subscription: Subscription) -> None:
        self.unsubscribe(subscription.name)
        self.replies.tell({"channel": subscription.name, "ended": True})

    def at_end(self, subscription: Subscription, end: End) -> None:
        self.replies.tell({"channel": end.channel, "end": True, "cursor": str(end.cursor)})
        if subscription.name == end.channel:
            if self.resumable is not None:
                self.resumable.end(subscription)
            self.unsubscribe(subscription.name)

    def remove(self, name: str) -> None:
        if name in self.subscriptions:
            self.ended(self.subscriptions[name])
        if self.consumers is not None:
            self.consumers.remove(name)
        if self.requests is not None:
            self.requests.withdraw(name)

    # Subscriptions.

    def subscribe(self, name: str, encode: encoding.Encoding, filters: Filters | None = None, sink: Any = None) -> None:
        super().subscribe(name, encode, filters, sink)
        self._places().begin(name)

    def attach(self, name: str) -> None:
        super().attach(name)
        if name in self.subscriptions:  # else the channel was at its end
            self._places().attached(name)

    def replay(self, subscription: Subscription, recovery: Recovery) -> None:
        with self.replies.turn:
            super().replay(subscription, recovery)

    def reached(self, name: str, place: Cursor | None) -> None:
        if place is not None:
            self._places().reached(name, place)

    def unsubscribe(self, name: str) -> None:
        super().unsubscribe(name)
        self.allowed.forget(name)
        self._places().forget(name)

    def _follow(self, number: Any, ask: Follow) -> None:
        name = ask.name
        if name in self.subscriptions:
            raise Conflict("already subscribed: unsubscribe first to change filters")
        self._check_room()
        starts, watched = {} if ask.start is None else {name: ask.start}, [name] if ask.presence else []
        wanted = Wanted({name: ask.filters}, starts, watched=watched)
        self._begin_later(number, wanted, lambda told: {"channel": name, **told[name]})
        self.allowed.watched = [*self.allowed.watched, *wanted.watched]

    def _check_room(self) -> None:
        others = sum([len(each) for each in (self.consumers, self.requests) if each is not None])
        if len(self.subscriptions) + others >= self.max_subscriptions:
            raise Forbidden(f"at most {self.max_subscriptions} subscriptions on a connection")

    def _begin_later(
        self, number: Any, wanted: Wanted, result_of: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> None:  # fmt: skip
        """Subscribe, reply when that is in force, send missed messages, and let the subscriptions go on. From the reply
        on, the session that they are of is this socket's. On a failure nothing is subscribed, and the session is given
        back."""
        names, starts, taken, resumable = list(wanted.filters), wanted.starts, wanted.taken, self.resumable
        mine: dict[str, Subscription] = {}

        def fail() -> None:
            # A subscription that was ended meanwhile may have a successor.
            for name, subscription in mine.items():
                if self.has(subscription):
                    self.unsubscribe(name)
            if taken is not None and resumable is not None:
                resumable.resuming = False
                resumable.give_back(taken)

        encode = encoding.websocket(True, self.websocket.deflate)
        try:
            for name, filters in wanted.filters.items():
                self.subscribe(name, encode, self.allowed.narrowed(filters, name, past=name in starts))
                mine[name] = self.subscriptions[name]
            if resumable is not None:
                resumable.check()
        except (TooManyChannels, TooLargeToKeep):
            fail()
            raise
        beginnings: list[Beginning] = []
        watched: list[Watched] = []

        def work() -> Result:
            try:
                watched.extend(self._presence.watch(wanted.watched))
                beginning = Beginning(self.router, names, starts, soon=False)
                self._places().known(beginning.known(names))
                if self.resumable is not None:
                    # A client that has had the reply may come back at once, and to another worker.
                    self.resumable.keep()
            except Refusal:
                fail()
                raise
            # From here on nothing yields: the subscriptions are attached at the places that are told.
            beginnings.append(beginning)
            result = result_of({name: beginning.told(name) for name in names})
            is_told = watched and self.has(mine[names[0]])
            result |= {"presence": watched[0].first.events[0][1]} if is_told else {}
            return result | ({"unconfirmed": beginning.unconfirmed} if beginning.unconfirmed else {})

        def after() -> None:
            if taken is not None and resumable is not None:
                resumable.resumed(taken)
            attend(self, self._presence, watched, mine)
            self.begin(beginnings[0], mine)

        has_session = taken is not None or (resumable is not None and resumable.is_open)
        try:
            if not (has_session or wanted.watched) and Beginning.is_known(self.router, names, starts):
                self.replies.at_once(number, work, after)
            else:
                self.replies.later(number, work, after)
        except Refusal:
            fail()
            raise

    def _unfollow(self, number: Any, ask: Unfollow) -> Result | None:
        if ask.name not in self.subscriptions:
            raise NotFound("not subscribed to that channel")
        result: Result = {"channel": ask.name}
        resumable = self.resumable
        if resumable is None or not resumable.is_open:
            self.unsubscribe(ask.name)
            return result

        def work() -> Result:
            resumable.try_to_keep()
            return result

        self.replies.later(number, work)
        self.unsubscribe(ask.name)  # nothing has yielded
        return None

    def withdraw(self, name: str, durable: str = "", refusal: Refusal | None = None) -> None:
        if durable:
            self._consumers().withdraw(name, durable)
        elif name in self.subscriptions:
            self.ended(self.subscriptions[name])

    # Messages, and durable subscriptions.

    def _publish(self, number: Any, ask: PublishOne) -> None:
        permit = self.connection.permit
        publishing.publish_one(self.router, permit, ask, self.max_message, self.replies.published, number)

    def _read(self, number: Any, ask: Read) -> None:
        pages.read(self.router, self.replies, number, ask, self.allowed.of_history(ask), self.max_message)

    def _serve(self, number: Any, ask: asks.Serve) -> None:
        self._check_room()
        self._requests().begin(number, ask)

    def _join(self, number: Any, ask: Join) -> None:
        consumers = self._consumers()
        if not consumers.has(ask.channel, ask.durable):
            self._check_room()
        consumers.join(number, ask)

    # Sessions.

    def _keep(self, number: Any, ask: Keep) -> None:
        resumable = self._resumable()
        if resumable.resuming:
            raise Conflict("a session is being resumed: it will be this socket's")
        self.replies.later(number, lambda: {"session": resumable.open(), "window": resumable.window})

    def _resume(self, number: Any, ask: Resume) -> None:
        if self.subscriptions:
            raise Conflict("resume before anything is subscribed")
        resumable = self._resumable()
        if resumable.resuming:
            raise Conflict("a session is being resumed: wait for the reply")

        def result_of(told: dict[str, Any]) -> dict[str, Any]:
            for row in told.values():
                row.setdefault("recovered", False)  # without a history, nothing is recovered
            return {"session": ask.session, "subscriptions": told}

        def check(taken: Taken) -> None:
            try:
                self.allowed.check_taken(taken)  # it may wait
                if self.subscriptions or self.connection.closed:
                    raise Conflict("resume before anything is subscribed")
            except Refusal as refusal:
                client.refused(self.connection, refusal, "resume", ", ".join(taken.rows))
                raise

        def work() -> None:
            try:
                self._begin_later(number, resumable.bring_back(ask, check), result_of)
            except BaseException:  # raised again
                resumable.resuming = False
                raise

        resumable.resuming = True
        try:
            self.replies.later(number, work)
        except Refusal:
            resumable.resuming = False
            raise

    # The client.

    def _renew(self, number: Any, ask: Renew) -> Result:
        """Go on with another token of the same subject: subscriptions that it does not permit, or only with
        other filters, end."""
        permit = self.connection.permit
        if permit is None:
            return {"expires": None}
        self.connection.permit = permit = permit.renewed(ask.token)
        self.warned = False
        for name in [name for name, each in self.subscriptions.items() if not self.allowed.may_stay(each)]:
            self.withdraw(name)
        if self.consumers is not None:
            self.consumers.retain(permit)
        if self.requests is not None:
            self.requests.retain(permit)
        self.rest()
        return {"expires": None if permit.expires is None else max(0, round(permit.expires - time.time()))}

    # Parts that are made when they are needed.

    def _places(self) -> Places:
        if self.places is None:
            self.places = Places()
        return self.places

    def _consumers(self) -> Consumers:
        if self.consumers is None:
            self.consumers = Consumers(self.bells, self.replies)
        return self.consumers

    def _requests(self) -> Requests:
        if self.requests is None:
            self.requests = Requests(self.exchange, self.replies, self.max_message)
        return self.requests

    def _resumable(self) -> Resumable:
        """The session of this socket; raises Invalid where the node keeps no history."""
        if self.resumable is None:
            self.resumable = Resumable(
                past.required(self.router.history), self.subscriptions, self.allowed.asked, self._places(),
                window=self.session_window, keepalive=self.keepalive,
                owner="" if self.connection.permit is None else self.connection.permit.owner,
            )  # fmt: skip
        return self.resumable


_DO: dict[type, Callable[..., Result | None]] = {
    PublishOne: MultiplexSocket._publish,
    Follow: MultiplexSocket._follow,
    Unfollow: MultiplexSocket._unfollow,
    Read: MultiplexSocket._read,
    asks.Members: lambda socket, number, ask: socket.replies.later(number, partial(socket._presence.of, ask.channel)),
    Join: MultiplexSocket._join,
    Leave: lambda socket, number, ask: socket._consumers().leave(number, ask),
    Settle: lambda socket, number, ask: socket._consumers().settle(number, ask),
    Keep: MultiplexSocket._keep,
    Resume: MultiplexSocket._resume,
    Renew: MultiplexSocket._renew,
    asks.Serve: MultiplexSocket._serve,
    asks.Call: lambda socket, number, ask: socket._requests().request(number, ask),
    asks.Unserve: lambda socket, number, ask: socket._requests().end(number, ask),
    asks.Respond: lambda socket, number, ask: socket._requests().settle(number, ask),
    Ping: lambda socket, number, ask: {},
    asks.Hello: lambda socket, number, ask: {"connection": socket.router.ids.of(socket.connection)},
}
