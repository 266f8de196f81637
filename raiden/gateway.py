"""What the requests of HTTP and WebSocket clients mean.

A publish costs no greenlet: it is answered on the spot, or when the history has taken it. So is a subscription that
misses nothing, and is in force already.
"""

from __future__ import annotations

import functools
import socket
import time
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

import webob

from raiden import durable, page, parameters, transports, websocket
from raiden.backend import NotInForce
from raiden.bell import Bells
from raiden.channel_builders import host_path, path
from raiden.connection import Connection
from raiden.control import Control
from raiden.heads import Heads, Repeated
from raiden.history.store import StoreFailed
from raiden.hosts import Hosts
from raiden.http import METHODS, HttpError, Json, Request, date, json_bytes, problem, serialize, stream_response
from raiden.http_door import Answer, HttpDoor
from raiden.in_band import Told, joined
from raiden.limits import HttpLimits
from raiden.model import payload, strict_json
from raiden.model.encoding import dumps
from raiden.model.message import Cursor, Kind, Message
from raiden.model.names import InvalidChannel, check_channel, check_subscription, unquote
from raiden.model.near import did_you_mean
from raiden.model.payload import check_key
from raiden.model.refusals import Invalid, Refusal
from raiden.model.strict_json import InvalidPayload, json_payload
from raiden.recovery import Beginning
from raiden.reserved import Reserved
from raiden.router import Router
from raiden.sessions import Poll, Session
from raiden.stats import Stats
from raiden.table import TooManyChannels
from raiden.transports import Asked, Opening, Seat


class PublishPlan(NamedTuple):
    """What the head of a JSON publish asks for, whatever its target is: what its channel begins with."""

    prefix: str


class SubscriptionPlan:
    """What a head asks for that subscribes, and what makes the session of a request with it. ``poll`` is the long-poll
    that the last one has begun: others with this very head wait for the same, and get the same answer."""

    __slots__ = ("asked", "opening", "poll")

    def __init__(self, asked: Asked, opening: Callable[[Seat, Request | Repeated], Opening]) -> None:
        self.asked: Final = asked
        self.opening: Final = opening
        self.poll: Poll | None = None


# What HEAD tells of a long-poll, whose answer has no length yet (RFC 9110 section 8.6).
_POLL_HEAD = (("Content-Type", "application/json"), *transports.POLL_FIELDS.items())
# The members of what is published to many channels.
_ORDER = frozenset({"channels", "data"})
# Where no history is kept: taken, and on its way.
ACCEPTED = Json(202, b"{}")


class Gateway(HttpDoor):
    """Serves the connections that come in at ``listener``, which is listening already."""

    def __init__(
        self,
        listener: socket.socket,
        router: Router,
        *,
        stats: Stats,
        limits: HttpLimits | None = None,
        allowed_origins: Sequence[str] = (),
        hosts: Hosts | None = None,
        channel_builder: Callable[[Request], str] = path,
        reserved: Reserved | None = None,
        deflate: bool = True,
        min_peers: int = 0,
        ready_without_store: bool = False,
        heads: Heads | None = None,
    ) -> None:
        limits = limits or HttpLimits()
        super().__init__(
            listener, stats=stats, limits=limits, allowed_origins=allowed_origins, hosts=hosts, heads=heads
        )  # fmt: skip
        self.router = router
        self.channel_builder = channel_builder
        self.reserved = reserved or Reserved()
        self.deflate = deflate
        self._bells = Bells(router, self.limits)
        self.control = Control(router, stats, min_peers=min_peers, ready_without_store=ready_without_store)

    def dispatch(self, connection: Connection, request: Request) -> Answer | None:
        # Only behind these a head gets a plan, and it goes when settings change: what goes on by one is allowed.
        self.hosts.check(request.fields)
        self.origins.check(request.fields)
        method, target = request.method, request.environ["raiden.path"]
        if method == "OPTIONS":
            return webob.Response(status=204, content_type=None, headerlist=[("Allow", METHODS)])
        if method not in ("GET", "HEAD", "POST", "DELETE"):
            raise HttpError(405, f"{method} is not served: use {METHODS}", headers={"Allow": METHODS})
        if method == "POST":
            payload.check_coding(request)
        if target.startswith("/-/"):
            return self._dispatch_own(connection, request, target[3:])
        name = path(request)
        if self.reserved.has(name):
            return self.reserved.answer(method, name)
        if method in ("POST", "DELETE"):
            parameters.check(parameters.query_pairs(request), parameters.NONE)
        elif target == "/" and transports.wants_page(request, always=self.channel_builder is path):
            return page.response()
        if method == "POST":
            channel = self._channel(request)
            messages = [Message(channel, kind, data) for kind, data in payload.payloads(request, self.limits)]
            content_type = request.fields.get("content-type", "")
            batch = payload.is_batch(content_type)
            payload.check_batch(len(messages), self.router.backend.most_at_once(channel))
            if payload.is_json(content_type) and "idempotency-key" not in request.fields:
                self._keep_plan(request, PublishPlan(channel.removesuffix(name)), for_pages=False)
            self._publish(connection, request, [messages], _cursors_of_a_batch if batch else _cursor)
            return None
        if method == "DELETE":
            channel = self._channel(request)
            self.serve_waiting(connection, request, lambda *_: self._delete(channel))
            return None
        return self._subscribe(connection, request, (check_subscription(self.channel_builder(request)),))

    def _delete(self, channel: str) -> Answer:
        self.router.clear(channel)
        return ACCEPTED

    def _dispatch_own(self, connection: Connection, request: Request, own: str) -> Answer | None:
        if own == "publish":
            _require(request, "POST")
            parameters.check(parameters.query_pairs(request), parameters.NONE)
            self._publish_to_many(connection, request)
            return None
        _require(request, "GET", "HEAD")
        if own == "subscribe":
            names = [value for key, value in parameters.query_pairs(request) if key == "channel"]
            if not names:
                raise Invalid("name what to subscribe to: /-/subscribe?channel=a&channel=b")
            return self._subscribe(connection, request, tuple([check_subscription(n) for n in dict.fromkeys(names)]))
        if own == "websocket":
            return self._subscribe(connection, request, ())
        self.serve_waiting(connection, request, lambda _, request: self.control.serve(request, own))
        return None

    def _channel(self, request: Request) -> str:
        return check_channel(self.channel_builder(request))

    def serve_again(self, connection: Connection, repeated: Repeated) -> bool:
        plan = self.heads.plan(repeated.head)
        if plan is None or self.draining or self.access_log.on:
            return False
        if type(plan) is PublishPlan:
            channel = _channel(self.reserved, plan.prefix, repeated.own)
            return channel is not None and self._publish_again(connection, repeated, channel)
        if plan.poll is not None and plan.poll.waits:
            # The hot path of long-polls: wait with those that ask for the same.
            connection.become("poll")
            connection.session = plan.poll.add(connection, repeated)
            self._wheel.schedule(connection, plan.poll.wait)
            return True
        try:
            self._take_over(connection, repeated, plan)
        except Refusal:
            return False
        return True

    def _keep_plan(self, request: Request, plan: PublishPlan | SubscriptionPlan, *, for_pages: bool) -> None:
        """Remember what a head asks for, if nothing else has a part in that, or in how it is answered. ``for_pages``:
        the answer has what a page's origin asks for."""
        # What the channel_builder of an application looks at, nobody knows.
        simple = self.channel_builder in (path, host_path) and (for_pages or "origin" not in request.fields)
        if request.head is not None and simple:
            self.heads.keep_plan(request.head, plan)

    # Publish.

    def _publish_again(self, connection: Connection, repeated: Repeated, channel: str) -> bool:
        """The hot path: publish a JSON value that came with a head which came before."""
        if len(repeated.body) > self.limits.max_message - payload.WRAPPING:
            return False
        try:
            message = Message(channel, Kind.JSON, json_payload(repeated.body), None, time.time_ns() // 1000)
        except InvalidPayload:
            return False
        connection.busy = True
        self.router.publish_one(message, self._published_again, connection)
        return True

    def _published_again(self, connection: Connection, outcome: Cursor | Refusal | None) -> None:
        connection.busy = False
        if connection.closed:
            return
        answer: Answer = ACCEPTED
        if isinstance(outcome, Refusal):
            answer = problem(outcome)
        elif outcome is not None:
            answer = Json(200, b'{"cursor":"%b"}' % str(outcome).encode())
        if self.draining:
            self.answer(connection, None, answer)
            return
        if answer is ACCEPTED:
            self.stats.responses[202] += 1
            connection.send(_accepted(date()))
        elif isinstance(answer, Json):
            self.stats.responses[200] += 1
            connection.send(json_bytes(answer))
        else:
            self.stats.responses[answer.status_int] += 1
            connection.send(serialize(answer, keep_alive=True, http10=False))
        self.was_answered(connection)

    def _publish(
        self, connection: Connection, request: Request, groups: list[list[Message]],
        body: Callable[[list[list[Cursor]]], bytes],
    ) -> None:  # fmt: skip
        """Publish groups of messages, each of one channel; ``body`` makes the answer where they have cursors."""
        key = request.fields.get("idempotency-key")
        if key is not None:
            check_key(key, all(self.router.keeps(messages[0].channel) for messages in groups))

        def published(outcome: list[list[Cursor]] | Refusal) -> None:
            def answer(*_: object) -> Answer:
                if isinstance(outcome, Refusal):
                    raise outcome
                return Json(200, body(outcome)) if any(outcome) else ACCEPTED

            self.serve(connection, request, answer)
            self.go_on(connection)

        self.router.publish(*groups, key=key, done=published)
        connection.busy = True

    def _publish_to_many(self, connection: Connection, request: Request) -> None:
        order = strict_json.members(request.raw_body)
        if order is not None and not order.keys() <= _ORDER:
            unknown = min(order.keys() - _ORDER)
            raise Invalid(f"the body has an unknown member {unknown[:100]!r}{did_you_mean(unknown, _ORDER)}")
        if order is None or "channels" not in order or "data" not in order:
            raise Invalid('the body must be like {"channels": ["a", "b"], "data": ...}')
        names = strict_json.value(order["channels"])
        known = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not known or not 0 < len(names) <= self.limits.max_subscriptions:
            raise Invalid(f"channels must be a list of 1 to {self.limits.max_subscriptions} names")
        data = json_payload(order["data"])
        payload.check_size(Kind.JSON, data, self.limits.max_message)
        channels = [check_channel(name) for name in dict.fromkeys(names)]
        groups = [[Message(channel, Kind.JSON, data)] for channel in channels]

        def answer(cursors: list[list[Cursor]]) -> bytes:
            places = zip(channels, cursors, strict=True)
            return dumps({"cursors": {channel: str(found[0]) if found else None for channel, found in places}})

        self._publish(connection, request, groups, answer)

    # Subscribe.

    def _subscribe(self, connection: Connection, request: Request, names: tuple[str, ...]) -> Answer | None:
        """One of the four transports; ``names`` is empty for the WebSocket that takes commands."""
        pairs = parameters.query_pairs(request)
        parameters.check(pairs, parameters.SUBSCRIBE)
        query = dict(pairs)
        if len(names) > self.limits.max_subscriptions:
            raise Invalid(f"at most {self.limits.max_subscriptions} channels on a connection")
        wrap, verbatim = parameters.flag(query, "_wrap"), parameters.flag(query, "_raw")
        asked = Asked(
            names, parameters.filters(request, pairs),
            MappingProxyType(parameters.starts(request, query, names)),
            len(names) != 1 or names[0].endswith("*") or wrap,
        )  # fmt: skip
        if "_durable" in query and (request.upgrade or asked.filters):
            what = "a long-poll, or a command of /-/websocket" if request.upgrade else "without filters"
            raise Invalid(f"a durable subscription is {what}")
        if "_durable" not in query and (alone := min(query.keys() & parameters.DURABLY, default=None)):
            raise Invalid(f"{alone} is of a durable subscription: name it, as _durable=NAME")
        if "_durable" in query and (other := min(query.keys() & parameters.NOT_DURABLY, default=None)):
            raise Invalid(f"{other} is not for a durable subscription")
        opening: Callable[[Seat, Request | Repeated], Opening]
        if request.upgrade:
            opening = functools.partial(
                transports.socket, asked=asked, agreement=websocket.accept(request, deflate=self.deflate),
                unfinished=self.unfinished, max_ws_message=self.limits.max_ws_message,
                max_message=self.limits.max_message, timeout=self.limits.request_timeout, bells=self._bells,
                max_subscriptions=self.limits.max_subscriptions, session_window=self.limits.session_window,
                verbatim=verbatim,
            )  # fmt: skip
            self._begin(connection, request, SubscriptionPlan(asked, opening), for_pages=True)
            return None
        if not names:
            raise HttpError(426, "/-/websocket is a WebSocket", headers={"Upgrade": "websocket"})
        wait = parameters.wait(request, query)
        if "_durable" in query:
            return self._poll_durably(connection, request, names, query, min(wait or 0.0, self.limits.max_wait))
        if wait is not None:
            if request.method == "HEAD":
                return stream_response(_POLL_HEAD)
            wait = min(wait, self.limits.max_wait)
            opening = functools.partial(transports.poll, asked=asked, wait=wait, answer=self.answer_polls)
            self._begin(connection, request, SubscriptionPlan(asked, opening), for_pages=False)
            return None
        of_path = request.environ["raiden.path"] != "/-/subscribe"
        form = transports.form(request, wrapped=asked.wrapped, for_people=of_path)
        if form == "page":
            return page.lead_to(request, path(request))
        head, encode = transports.stream_head(request, asked, form)
        head += tuple(self.origins.headers(request.fields).items())
        if request.method == "HEAD":
            return stream_response(head)
        opening = functools.partial(transports.stream, asked=asked, head=head, encode=encode, http10=request.http10)
        self._begin(connection, request, SubscriptionPlan(asked, opening), for_pages=True)
        return None

    def _begin(self, connection: Connection, request: Request, plan: SubscriptionPlan, *, for_pages: bool) -> None:
        self._keep_plan(request, plan, for_pages=for_pages)
        self._take_over(connection, request, plan)

    def _poll_durably(
        self, connection: Connection, request: Request, names: tuple[str, ...], query: dict[str, str], wait: float
    ) -> Answer | None:
        """A long-poll of a consumer."""
        if len(names) != 1 or not self.router.keeps(check_channel(names[0])):
            raise Invalid("a durable subscription is to one channel, which has a history")
        asked = parameters.durable(query)
        if request.method == "HEAD":
            return stream_response(_POLL_HEAD)

        def answer(connection: Connection, request: Request) -> Answer:
            body = durable.poll(
                self._bells, names[0], asked, wait, gone=lambda: connection.closed, enough=lambda: self.draining
            )
            response = webob.Response(status=204, content_type=None)
            if body is not None:
                response = webob.Response(body=body, content_type="application/json", charset="utf-8")
            response.headers.update(transports.POLL_FIELDS)
            return response

        self.serve_waiting(connection, request, answer)
        return None

    def _take_over(self, connection: Connection, request: Request | Repeated, plan: SubscriptionPlan) -> None:
        """Subscribe, wait until that is in force, and only then let the client know. Then send what the client missed,
        and let the subscriptions go on from there."""
        asked = plan.asked
        opening = plan.opening(Seat(connection, self.router, self._wheel, self.limits.keepalive), request)
        session = opening.session
        plan.poll = session if isinstance(session, Poll) else None
        try:
            for name in asked.names:
                session.subscribe(name, opening.encode, asked.filters)
        except TooManyChannels as error:
            session.close()
            raise transports.refused(opening, error) from None
        if Beginning.is_known(self.router, asked.names, asked.starts):
            # The hot path of clients that come back.
            self._open(connection, request, opening, self._known(asked, session))
            for name in asked.names:
                session.attach(name)
            self._opened(connection, opening)
            return

        def confirm(connection: Connection, request: Request) -> None:
            try:
                beginning = Beginning(self.router, asked.names, asked.starts)
            except (NotInForce, StoreFailed) as error:
                session.close()
                raise transports.refused(opening, error) from None
            if connection.closed:
                session.close()
                return
            self._open(connection, request, opening, _told(asked, beginning))
            session.begin(beginning)
            self._opened(connection, opening)

        self.serve_waiting(connection, request.request() if isinstance(request, Repeated) else request, confirm)

    def _open(self, connection: Connection, request: Request | Repeated, opening: Opening, told: Told) -> None:
        """Answer, and tell this with it, or note it for the answer."""
        if not opening.session.answers_once:
            self.note(connection, request, 101 if opening.transport == "websocket" else 200)
        connection.become(opening.transport)
        connection.session = opening.client
        opening.opened(told)

    def _opened(self, connection: Connection, opening: Opening) -> None:
        """From now on the session gets what comes."""
        if isinstance(opening.session, Poll) and connection.session is opening.client:
            opening.session.open()
        if self.draining and connection.session is opening.client:
            opening.client.drain()

    def _known(self, asked: Asked, session: Session) -> Told:
        """What one is told that misses nothing, and waits for nothing."""
        position = None if session.answers_once else joined([self.router.position(name) for name in asked.names])
        return Told(position, True if asked.starts else None)


def _told(asked: Asked, beginning: Beginning) -> Told:
    """What a subscriber is told of its beginning."""
    position = joined([beginning.place(name) for name in asked.names])
    recovered = all([beginning.recovered(name) for name in asked.names]) if asked.starts else None
    return Told(position, recovered, beginning.unconfirmed)


@functools.lru_cache(1000)
def _channel(reserved: Reserved, prefix: str, target: bytes) -> str | None:
    """What a POST to this target publishes to, where channels begin with ``prefix``; None if nothing."""
    if not target or target.startswith(b"/-/") or b"?" in target:
        return None
    try:
        name = unquote(target[1:].decode())
        return None if reserved.has(name) else check_channel(prefix + name)
    except InvalidChannel:
        return None


@functools.lru_cache(1)
def _accepted(now: str) -> bytes:
    """What `ACCEPTED` is in this second."""
    return json_bytes(ACCEPTED)


def _cursor(cursors: list[list[Cursor]]) -> bytes:
    return b'{"cursor":"%b"}' % str(cursors[0][0]).encode()


def _cursors_of_a_batch(cursors: list[list[Cursor]]) -> bytes:
    return dumps({"cursors": [str(cursor) for cursor in cursors[0]]})


def _require(request: Request, *methods: str) -> None:
    if request.method not in methods:
        allow = ", ".join(methods)
        raise HttpError(405, f"use {allow} here", headers={"Allow": allow})
