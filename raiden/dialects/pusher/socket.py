"""The WebSocket of a client: its commands, and what it is told.

A subscription to a channel is made when the command comes, and confirmed once it is in force; those of one client wait
together. A command that can't be done is answered, and the connection stays open.
"""

from __future__ import annotations

import time
from typing import Any, Final

from raiden.connections import client
from raiden.connections.connection import Connection
from raiden.delivery.table import End, Subscription
from raiden.dialects.pusher import codes, events, frames, members, names, signatures, watchlist
from raiden.dialects.pusher.limits import EventRate
from raiden.dialects.pusher.names import Kind, kind_of
from raiden.dialects.pusher.opened import OpenApp
from raiden.dialects.pusher.socket_ids import socket_id
from raiden.dialects.pusher.watchlist import Watchlist
from raiden.dialects.pusher.webhooks import CACHE_MISS, CLIENT_EVENT
from raiden.dialects.socket import DialectSocket
from raiden.gateway import Gateway
from raiden.model import strict_json
from raiden.model.attributes import NOBODY, Attributes
from raiden.model.message import Cursor, Message
from raiden.model.message import Kind as Payload
from raiden.model.page import Gap, Start
from raiden.model.payload import check_message
from raiden.model.refusals import Forbidden, Invalid, Refusal, TooLarge, Unauthorized, attempt
from raiden.model.strict_json import json_payload
from raiden.presence.here import Subject
from raiden.presence.watches import Notice, Watched
from raiden.protocols.websocket import WebSocket
from raiden.sessions.over import Over
from raiden.sessions.recovery import Beginning

# Seconds of silence after which a client asks whether the server is there.
ACTIVITY_TIMEOUT: Final = 120
# Seconds in which webhooks are told once that a channel has no last event, however many ask for that.
MISSES: Final = 10.0
# The code of a client event that is refused.
_REFUSED_EVENT: Final = 4301


class PusherSocket(DialectSocket):
    """The WebSocket of a client of an app."""

    __slots__ = ("app", "event_rate", "user", "waiting", "watchlist")

    transport = "pusher"
    lasts = True

    def __init__(self, gateway: Gateway, connection: Connection, core: WebSocket, app: OpenApp) -> None:
        super().__init__(gateway, connection, core)
        self.app = app
        # The user that it has signed in as, the rate of its events, the users that it watches; most clients have none.
        self.user: Subject | None = None
        self.event_rate: EventRate | None = None
        self.watchlist: Watchlist | None = None
        # Subscriptions that wait to be in force, also those that the client has given up meanwhile.
        self.waiting = 0

    @property
    def socket_id(self) -> str:
        return socket_id(self.router.ids.of(self.connection))

    def greet(self) -> None:
        self.connection.send(frames.established(self.socket_id, ACTIVITY_TIMEOUT))

    # Commands.

    def message(self, data: str | bytes) -> None:
        if isinstance(data, bytes):
            self.goodbye(codes.NOT_TEXT, "frames are text")
            return
        refusal = attempt("a command", self._do, data)
        if isinstance(refusal, Refusal):
            self.connection.send(frames.error(None, refusal.detail))

    def _do(self, data: str) -> None:
        told = strict_json.members(data.encode())
        event = None if told is None else _value(told.get("event"))
        if told is None or not isinstance(event, str):
            raise Invalid("a message is a JSON object with the name of an event")
        if event == "pusher:ping":
            self.connection.send(frames.PONG)
        elif event == "pusher:subscribe":
            self._subscribe(_object(told.get("data")))
        elif event == "pusher:unsubscribe":
            name = _object(told.get("data")).get("channel")
            if isinstance(name, str):
                self._leave(self.app.prefix + name)
        elif event == "pusher:signin":
            self._sign_in(_object(told.get("data")))
        elif event.startswith(frames.OF_CLIENTS):
            self._publish(event, told)
        elif not event.startswith(frames.OWN):
            raise Invalid("clients publish events whose names begin with 'client-'")

    # Subscriptions.

    def _subscribe(self, data: dict[str, Any]) -> None:
        name = data.get("channel")
        if not isinstance(name, str):
            raise Invalid("a channel's name is a string")
        refusal = attempt("a subscription", self._ask, name, data)
        if isinstance(refusal, Refusal):
            client.refused(self.connection, refusal, "subscribe", self.app.prefix + name)
            self._refuse(name, refusal)

    def _refuse(self, name: str, refusal: Refusal) -> None:
        kind = "Error"
        if isinstance(refusal, Unauthorized | Forbidden):
            kind = "AuthError"
        elif isinstance(refusal, TooLarge):
            kind = "LimitReached"
        self.connection.send(frames.refused(name, kind, refusal.detail, refusal.status))

    def _ask(self, name: str, data: dict[str, Any]) -> None:
        if len(name) > names.MAX_NAME:
            raise TooLarge(f"a channel's name has at most {names.MAX_NAME} characters")
        kind, channel = kind_of(names.check(name, self.app.prefix)), self.app.prefix + name
        self.rates.subscribe(client.account(self.connection), 1)
        mine = self.subscriptions.get(channel)
        if mine is not None:
            if mine.since:  # else it will be confirmed
                self._confirm(name, mine)
            return
        member = self._allowed(name, kind, data)
        limit = self.gateway.limits.max_subscriptions
        if max(len(self.subscriptions), self.waiting) >= limit:
            raise TooLarge(f"at most {limit} subscriptions on a connection")
        self.subscribe(channel, frames.live(self.app.prefix, self.websocket.deflate))
        mine = self.subscriptions[channel]
        if member is None and not kind.cached and Beginning.is_known(self.router, (channel,), {}):
            self._confirm(name, mine)
            self.attach(channel)
        else:
            self.waiting += 1
            self.gateway.door.task(self._begin_later, name, kind, mine, member)

    def _confirm(self, name: str, mine: Subscription) -> None:
        """Tell the client that it is subscribed, and who is there."""
        listed, own = None, self.gateway.presence.names.get(mine)
        if own is not None:
            (watched,) = self.gateway.presence.watch((mine.name,))  # it is watched already, so this waits for nothing
            listed = members.listing(watched.watch.listing(), own)
        self.connection.send(frames.succeeded(name, listed))

    def _leave(self, channel: str) -> None:
        mine = self.subscriptions.get(channel)
        if mine is not None:
            self.gateway.presence.leave(mine)  # it does not come back, as one that was lost may
            self.unsubscribe(channel)

    def _allowed(self, name: str, kind: Kind, data: dict[str, Any]) -> Subject | None:
        """Return the member that the client becomes by a subscription, if the channel has members; raise a refusal
        where the client may not subscribe."""
        user = names.user_of(name)
        if user is not None:
            if self.user is None or self.user.sub != user:
                raise Forbidden("only the connections that are signed in as this user hear what is sent to it")
            return None
        if not kind.signed:
            self.app.check_public(self.connection, self.app.prefix + name)
            return None
        channel_data = data.get("channel_data")
        if channel_data is not None and not isinstance(channel_data, str):
            raise Invalid("channel_data is a JSON object, in a string")
        app = self.app.app
        expected = signatures.of_subscription(app.secret, self.socket_id, name, channel_data)
        if not signatures.is_signed(data.get("auth"), app.key, expected):
            raise Unauthorized("auth is not the signature of this subscription, by the key and the secret of the app")
        self.app.signed.check("subscribe", self.app.prefix + name)
        if not kind.presence:
            return None
        if channel_data is not None:
            return members.of_channel_data(channel_data)
        if self.user is None:
            raise Unauthorized("a presence channel takes channel_data with a user_id, or a client that has signed in")
        return self.user

    def _begin_later(self, name: str, kind: Kind, mine: Subscription, member: Subject | None) -> None:
        """Confirm a subscription once it is in force, and the members of its channel are known."""
        channel = mine.name

        def wait() -> tuple[list[Watched], Beginning]:
            beginning = Beginning(self.router, (channel,), {channel: Start(last=1)} if kind.cached else {})
            return [] if member is None else self.gateway.presence.watch((channel,), fresh=True), beginning

        outcome = attempt("a subscription", wait)
        self.waiting -= 1
        if not self.has(mine):
            return  # the client has gone, or does not want it any more
        if not isinstance(outcome, Refusal) and member is not None:
            outcome = attempt("a subscription", self._join, mine, member, *outcome)
        if isinstance(outcome, Refusal):
            self.unsubscribe(channel)
            self._refuse(name, outcome)
            return
        watched, beginning = outcome
        # Nothing yields from here until the client is told, and the subscription attached.
        self._confirm(name, mine)
        if watched:
            self.gateway.presence.listen(watched[0], mine)
        if kind.cached:
            recovery = beginning.recoveries.get(channel)
            if recovery is None or recovery.begin == self.router.position(channel):
                self.connection.send(frames.cache_miss(name))
                self.app.tell(CACHE_MISS, channel, once=f"{channel} {int(time.time() / MISSES)}")
        self.begin(beginning, {channel: mine})

    def _join(
        self, mine: Subscription, member: Subject, watched: list[Watched], beginning: Beginning
    ) -> tuple[list[Watched], Beginning]:
        """Let a subscription count as a member from now on. Raises TooLarge where the channel has no room for it."""
        rows, presence = watched[0].watch.listing()["members"], self.gateway.presence
        most = self.gateway.limits.max_presence
        # Those that have joined here since the list was made, in this very turn perhaps, are not in it.
        here = members.named(mine, presence.names)
        known = None if rows is None else here | {row["sub"]: row["info"] for row in rows}
        if known is None or (member.sub not in known and len(known) >= most):
            raise TooLarge(f"a presence channel has at most {most} members")
        # Who is there already keeps its info.
        presence.name(mine, Subject(member.sub, known.get(member.sub, member.info)))
        return watched, beginning

    def presence(self, subscription: Subscription, notice: Notice) -> None:
        own = self.gateway.presence.names.get(subscription)
        if own is None:
            return
        name = notice.channel[len(self.app.prefix) :]
        if not members.concerns(notice.events, own.sub):
            self.connection.send(notice.encoded(self.app, self.app.presence))
            return
        for event, what in notice.events:
            if event == "presence":
                listed = members.listing(what, own)
                if listed is not None:  # it was too long before
                    self.connection.send(frames.succeeded(name, listed))
            elif what["sub"] != own.sub:
                self.connection.send(members.encoded(event, {"channel": name, event: what}))

    # Events of clients.

    def _publish(self, event: str, told: dict[str, bytes]) -> None:
        name = _value(told.get("channel"))
        if not isinstance(name, str):
            raise Invalid("an event is for a channel")
        refusal = attempt("an event", self._check_and_publish, event, name, told.get("data", b"null"))
        if isinstance(refusal, Refusal):
            self._refuse_event(name, refusal)

    def _refuse_event(self, name: str, refusal: Refusal) -> None:
        client.refused(self.connection, refusal, "publish", self.app.prefix + name)
        self.connection.send(frames.error(_REFUSED_EVENT, refusal.detail, name))

    def _check_and_publish(self, event: str, name: str, data: bytes) -> None:
        app, kind, channel = self.app.app, kind_of(name), self.app.prefix + name
        if not app.client_events:
            raise Forbidden("this app has no client events")
        if not kind.signed or kind.encrypted:
            raise Forbidden("client events are for private and presence channels that are not encrypted")
        mine = self.subscriptions.get(channel)
        if mine is None or not mine.since:
            raise Forbidden("subscribe to the channel first")
        events.check_name(event)
        if len(data) > app.max_data:
            raise TooLarge(f"the data of an event has at most {app.max_data} bytes; this has {len(data)}")
        self._count(channel)
        self.app.signed.check("publish", channel)
        own = self.gateway.presence.names.get(mine) if kind.presence else None
        attributes = Attributes(
            event=event, excluded=self.router.ids.of(self.connection),
            sender=NOBODY if own is None else events.sender(own.sub),
        )  # fmt: skip
        message = Message(channel, Payload.JSON, json_payload(data), attributes=attributes, transient=True)
        check_message(message, self.max_message)

        def published(_: object, outcome: Cursor | Refusal | None) -> None:
            if isinstance(outcome, Refusal):
                self._refuse_event(name, outcome)
            elif self.app.wants(CLIENT_EVENT):
                more = {} if own is None else {"user_id": own.sub}
                value = strict_json.value(message.payload)
                self.app.tell(CLIENT_EVENT, channel, event=event, data=value, socket_id=self.socket_id, **more)

        self.router.publisher.publish_one(message, published, None)

    def _count(self, channel: str) -> None:
        per_second = self.app.app.client_events_per_second
        if per_second:
            now = time.monotonic()
            if self.event_rate is None:
                self.event_rate = EventRate(per_second, now)
            if not self.event_rate.take(per_second, now):
                raise Forbidden(f"at most {per_second:g} client events a second on a connection")
        if self.rates.on:
            self.rates.publish_one(client.account(self.connection), channel)

    # Users.

    def _sign_in(self, data: dict[str, Any]) -> None:
        refusal = attempt("a sign-in", self._become, data)
        if isinstance(refusal, Refusal):
            client.refused(self.connection, refusal, "connect", "")
            self.goodbye(codes.UNAUTHORIZED, refusal.detail)

    def _become(self, data: dict[str, Any]) -> None:
        told, app = data.get("user_data"), self.app.app
        if not isinstance(told, str):
            raise Invalid("user_data is a JSON object, in a string")
        if not signatures.is_signed(
            data.get("auth"), app.key, signatures.of_signin(app.secret, self.socket_id, told)
        ):  # fmt: skip
            raise Unauthorized("auth is not the signature of this sign-in, by the key and the secret of the app")
        value = strict_json.value(told.encode("utf-8", "surrogatepass"), most=strict_json.MAX_SLOW)
        if not isinstance(value, dict) or not isinstance(value.get("id"), str):
            raise Invalid("user_data is a JSON object with an id, which is a string")
        user = members.member(value["id"], value.get("user_info"))
        watched = watchlist.read(value.get("watchlist"), self.app.prefix)
        if self.user is not None and self.user.sub != user.sub:
            raise Forbidden("another user has signed in on this connection")
        self.connection.permit = self.app.user(user.sub, user.info)
        self.user = user
        self.connection.send(frames.told("pusher:signin_success", {"user_data": told}))
        if watched and self.watchlist is None:
            self.watchlist = Watchlist(self.connection, self.app.prefix)
            self.gateway.door.task(self.watchlist.begin, self.gateway.presence, self.app.watched, watched)

    # What happens to its subscriptions, and its end.

    def close(self) -> None:
        if self.watchlist is not None:
            self.watchlist.close()
        super().close()

    def attach(self, name: str) -> None:
        super().attach(name)
        self._count_again(name)

    def unsubscribe(self, name: str) -> None:
        super().unsubscribe(name)
        self._count_again(name)

    def _count_again(self, channel: str) -> None:
        if self.app.counted is not None and not kind_of(channel[len(self.app.prefix) :]).presence:
            self.app.counted(channel)

    def missed(self, subscription: Subscription, channel: str, gap: Gap) -> None:
        """The protocol has no word for messages that are lost."""

    def at_end(self, subscription: Subscription, end: End) -> None:
        """The protocol has no word for the end of a channel: it goes on with the first message behind a deletion."""

    def remove(self, name: str) -> None:
        if name in self.subscriptions:
            self.unsubscribe(name)
            self._refuse(name[len(self.app.prefix) :], Forbidden("the application has ended this subscription"))

    def over(self, reason: Over) -> None:
        self.goodbye(codes.OF_RAIDEN.get(reason.code, reason.code), reason.text)

    def goodbye(self, code: int, reason: str) -> None:
        code = codes.OF_RAIDEN.get(code, code)
        error = frames.error(code, reason) if code in codes.OWN else b""
        self.websocket.close(code, reason[:120])
        self.finish(error + self.websocket.data_to_send())


def _value(raw: bytes | None) -> Any:
    return None if raw is None else strict_json.value(raw, most=strict_json.MAX_SLOW)


def _object(raw: bytes | None) -> dict[str, Any]:
    """The data of a command: an object, or a string that has one; raises Invalid."""
    value = _value(raw)
    if isinstance(value, str):
        value = strict_json.value(value.encode("utf-8", "surrogatepass"), most=strict_json.MAX_SLOW)
    if not isinstance(value, dict):
        raise Invalid("the data of a command is a JSON object")
    return value
