"""The door for HTTP and WebSocket clients: what a request means.

Watchers call `readable`; requests wait in the connection's queue and are served in order (pipelining). A publish
costs no greenlet: it is answered on the spot, or when the history has taken it. What must wait otherwise is served in
one, and a connection that has subscribed needs none: its `Session` takes over. Answers are webob responses; errors are
problem+json.
"""

from __future__ import annotations

import functools
import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

import gevent
import webob

from raiden import durable, parameters, payload, transports, websocket
from raiden.backend import NotInForce
from raiden.connection import Connection, Gone, Overflow
from raiden.control import Control
from raiden.door import Door
from raiden.encoding import dumps
from raiden.heads import Heads, Repeated
from raiden.history import StoreFailed
from raiden.http import (
    CONTINUE_BYTES,
    METHODS,
    HttpError,
    Json,
    Request,
    date,
    json_bytes,
    problem,
    serialize,
    stream_response,
)
from raiden.limits import HttpLimits
from raiden.message import (
    Cursor,
    InvalidChannel,
    InvalidPayload,
    Kind,
    Message,
    check_channel,
    check_subscription,
    decode_exactly,
    json_payload,
    unquote,
)
from raiden.origins import Origins
from raiden.parser import CONTINUE, RequestParser
from raiden.payload import check_key
from raiden.recovery import Beginning
from raiden.refusals import REFUSALS, status_of
from raiden.router import Router, TooManyChannels
from raiden.sessions import LINGER, Poll, Session, Socket, Waiter, joined
from raiden.stats import Stats
from raiden.transports import Asked, Opening, Seat

log = logging.getLogger(__name__)

MAX_PIPELINED = 32

Answer: TypeAlias = "webob.Response | Json"
Handler: TypeAlias = "Callable[[Connection, Request], Answer | None]"


class PublishPlan(NamedTuple):
    """What the head of a JSON publish asks for: what its channel begins with, before its target. Of a head that is
    aimed at one target, the channel is the plan."""

    prefix: str


class SubscriptionPlan:
    """What a head asks for that subscribes, and what makes the session of a request with it. ``poll`` is the long-poll
    that the last one has begun."""

    __slots__ = ("asked", "opening", "poll")

    def __init__(self, asked: Asked, opening: Callable[[Seat, Request | Repeated], Opening]) -> None:
        self.asked = asked
        self.opening = opening
        self.poll: Poll | None = None


# Where no history is kept: taken, and on its way.
ACCEPTED = Json(202, b"{}")


def path(request: Request) -> str:
    """The channel that a request names: its path (`channel_builder`'s default)."""
    return unquote(request.environ["raiden.path"][1:])


def host_path(request: Request) -> str:
    """A `channel_builder` for virtual hosts: ``example.com/news`` for a request for ``/news`` at example.com."""
    return f"{request.host.partition(':')[0]}/{path(request)}"


class Gateway(Door):
    """Serves the connections that come in at ``listener``, which is listening already."""

    def __init__(
        self,
        listener: socket.socket,
        router: Router,
        *,
        stats: Stats,
        limits: HttpLimits | None = None,
        allowed_origins: Sequence[str] = (),
        channel_builder: Callable[[Request], str] = path,
        deflate: bool = True,
        min_peers: int = 0,
    ) -> None:
        self.limits = limits or HttpLimits()
        super().__init__(listener, self.limits, stats, "http")
        self.router = router
        self.heads = Heads()
        self.origins = Origins(allowed_origins)
        self.channel_builder = channel_builder
        self.deflate = deflate
        self.control = Control(router, stats, min_peers=min_peers)

    def drain(self, timeout: float, window: float = 0.0) -> None:
        """Accept no more, tell subscribers to come back, finish requests under way; at most ``timeout`` seconds. The
        subscribers are told one after the other, spread over ``window`` seconds, so that they don't come to another
        node all at once."""
        self.shut()
        started = time.monotonic()
        for connection in list(self.connections):
            if connection.session is None and not (connection.busy or connection.queue or connection.receiving):
                self._finish(connection)
        subscribers = [connection for connection in self.connections if connection.session is not None]
        for number, connection in enumerate(subscribers):
            early = started + min(window, timeout) * number / len(subscribers) - time.monotonic()
            if early > 0:
                gevent.sleep(early)
            if not connection.closed and connection.session is not None:
                connection.session.drain()
        deadline = started + timeout
        while self.connections and time.monotonic() < deadline:
            gevent.sleep(0.01)
        if self.connections:
            log.warning("drain timed out", extra={"connections": len(self.connections)})

    # Connections.

    def protocol(self, remote: str) -> RequestParser:
        return RequestParser(self.limits, remote, self.heads)

    def opened(self, connection: Connection) -> None:
        self._wheel.schedule(connection, self.limits.request_timeout)

    def refuse(self, sock: socket.socket) -> None:
        error = HttpError(503, "too many connections: try again later", headers={"Retry-After": "5"})
        try:
            sock.send(serialize(problem(error), keep_alive=False, http10=False))
            sock.shutdown(socket.SHUT_WR)
            sock.recv(65536)  # closing with unread data would reset the connection and might destroy the answer
        except OSError:
            pass  # it did not wait for the answer

    def readable(self, connection: Connection) -> None:
        session = connection.session
        for event in connection.receive():
            if event is Gone:
                self.close(connection)
                return
            if event is Overflow:
                self._overflow(connection)
                return
            free = connection.session is None and not connection.busy and not connection.queue
            if free and type(event) is Repeated and self._serve_again(connection, event):
                continue
            if session is None or isinstance(session, Waiter):
                if connection.queue is None:
                    connection.queue = deque()
                connection.queue.append(event)
            elif isinstance(session, Socket):
                session.received(event)
            # What follows the request of a stream without end could never be answered.
        if isinstance(session, Socket):
            session.settle()
        elif session is None:
            self._serve_queue(connection)
        if connection.queue and len(connection.queue) >= MAX_PIPELINED:
            connection.pause()

    def _overflow(self, connection: Connection) -> None:
        self.stats.slow_consumers += 1
        log.warning("slow consumer closed", extra={"connection": connection.describe()})
        if connection.session is not None:
            connection.session.overflow()
        else:
            self.close(connection)

    def due(self, connection: Connection) -> None:
        if connection.closing:
            self.close(connection)
        elif connection.session is not None:
            connection.session.tick()
        elif connection.busy:
            self._wheel.schedule(connection, self.limits.request_timeout)
        elif connection.receiving:
            error = HttpError(408, "the request took too long to arrive: send it faster", close=True)
            self._answer(connection, None, problem(error))
        else:
            self._finish(connection)

    def _finish(self, connection: Connection) -> None:
        connection.finish()
        self._wheel.schedule(connection, LINGER)

    # Requests, in the order they came.

    def _serve_queue(self, connection: Connection) -> None:
        queue = connection.queue
        while queue and not connection.busy and connection.session is None and not connection.closing:
            event = queue.popleft()
            if isinstance(event, Repeated):
                if self._serve_again(connection, event):
                    continue
                event = event.request()
            if isinstance(event, Request):
                self._serve(connection, event, self._dispatch)
            elif isinstance(event, HttpError):
                self._answer(connection, None, problem(event))
            elif event is CONTINUE:
                connection.send(CONTINUE_BYTES)
        if connection.busy or connection.session is not None or connection.closing or connection.closed:
            return
        connection.resume()
        connection.queue = None  # it is empty
        receiving = not connection.protocol.idle  # type: ignore[attr-defined]
        if not receiving:
            self._wheel.schedule(connection, self.limits.idle_timeout)
        elif not connection.receiving:
            # From its first byte on, a request must be complete in time, however its bytes trickle in.
            self._wheel.schedule(connection, self.limits.request_timeout)
        connection.receiving = receiving

    def _serve(self, connection: Connection, request: Request, handle: Handler) -> None:
        """Answer a request; ``handle`` returns the response, or None where the connection is taken care of."""
        response: Answer | None
        try:
            response = handle(connection, request)
        except HttpError as error:
            response = problem(error)
            if error.close:
                request.environ["raiden.keep_alive"] = False
        except REFUSALS as refused:
            response = problem(refusal(refused))
        except Exception:  # a fault of ours, or of the user's channel_builder, ends no more than its request
            log.exception("a request failed", extra={"method": request.method, "path": request.path})
            response = problem(HttpError(500, "the server failed; its log says why"))
        if response is not None:
            self._answer(connection, request, response)

    def _serve_waiting(self, connection: Connection, request: Request, handle: Handler) -> None:
        """Serve in a greenlet of its own what must wait for the backbone or the history."""
        connection.busy = True
        self.spawn(self._wait_and_serve, connection, request, handle)

    def _wait_and_serve(self, connection: Connection, request: Request, handle: Handler) -> None:
        self._serve(connection, request, handle)
        self._go_on(connection)

    def _go_on(self, connection: Connection) -> None:
        connection.busy = False
        if not connection.closed and connection.session is None:
            self._serve_queue(connection)

    def _answer(self, connection: Connection, request: Request | Repeated | None, response: Answer) -> None:
        """Send a response, and close after it where the connection can't go on."""
        if connection.closed:
            return
        self.stats.requests += 1
        session, connection.session = connection.session, None
        if session is not None:
            session.close()
            connection.become("http")
        if isinstance(response, Json):
            if request is not None and self._is_plain(request):
                connection.send(json_bytes(response))
                if session is not None and not connection.busy:
                    self._serve_queue(connection)
                return
            response = response.to_response()
        if isinstance(request, Repeated):
            request = request.request()
        keep_alive = request is not None and request.keep_alive and not self.draining
        head = request is not None and request.method == "HEAD"
        if request is not None:
            response.headers.update(self.origins.headers(request))
        http10 = request is not None and request.http10
        connection.send(serialize(response, keep_alive=keep_alive, http10=http10, head=head))
        if not keep_alive:
            self._finish(connection)
        elif session is not None and not connection.busy:
            self._serve_queue(connection)

    def _answer_polls(self, waiters: Iterable[Waiter], answer: Json) -> None:
        """Send the same answer to all of them."""
        data = json_bytes(answer)
        for waiter in waiters:
            connection = waiter.connection
            if connection.closed or not self._is_plain(waiter.request):
                self._answer(connection, waiter.request, answer)
                continue
            # The hot path of long-polls.
            self.stats.requests += 1
            connection.session = None
            connection.become("http")
            connection.send(data)
            if not connection.busy:
                self._was_answered(connection)

    def _was_answered(self, connection: Connection) -> None:
        """Go on with the next request; the hot path is that nothing of it has come yet."""
        if connection.queue is None and connection.protocol.idle:  # type: ignore[attr-defined]
            connection.receiving = False
            self._wheel.schedule(connection, self.limits.idle_timeout)
        else:
            self._serve_queue(connection)

    def _is_plain(self, request: Request | Repeated) -> bool:
        """Nothing about the answer depends on the request."""
        if self.draining:
            return False
        if isinstance(request, Repeated):
            return True  # it has a plan
        plain = request.keep_alive and not request.http10 and request.method != "HEAD"
        return plain and "origin" not in request.fields

    def _dispatch(self, connection: Connection, request: Request) -> Answer | None:
        self.origins.check(request)
        method, target = request.method, request.environ["raiden.path"]
        if method == "OPTIONS":
            return webob.Response(status=204, content_type=None, headerlist=[("Allow", METHODS)])
        if method not in ("GET", "HEAD", "POST", "DELETE"):
            raise HttpError(405, f"{method} is not served: use {METHODS}", headers={"Allow": METHODS})
        if target.startswith("/-/"):
            return self._dispatch_own(connection, request, target[3:])
        if method == "POST":
            channel = self._channel(request)
            messages = [Message(channel, kind, data) for kind, data in payload.payloads(request)]
            content_type = request.fields.get("content-type", "")
            batch = payload.is_batch(content_type)
            if payload.is_json(content_type):
                self._keep_plan(request, PublishPlan(channel.removesuffix(path(request))), for_pages=False)
            self._publish(connection, request, [messages], _cursors_of_a_batch if batch else _cursor)
            return None
        if method == "DELETE":
            channel = self._channel(request)
            self._serve_waiting(connection, request, lambda *_: self._delete(channel))
            return None
        return self._subscribe(connection, request, [check_subscription(self.channel_builder(request))])

    def _delete(self, channel: str) -> Answer:
        self.router.clear(channel)
        return ACCEPTED

    def _dispatch_own(self, connection: Connection, request: Request, page: str) -> Answer | None:
        if page == "publish":
            _require(request, "POST")
            self._publish_to_many(connection, request)
            return None
        _require(request, "GET", "HEAD")
        if page == "subscribe":
            names = [value for key, value in parameters.query_pairs(request) if key == "channel"]
            if not names:
                raise HttpError(400, "name what to subscribe to: /-/subscribe?channel=a&channel=b")
            return self._subscribe(connection, request, [check_subscription(name) for name in dict.fromkeys(names)])
        if page == "websocket":
            return self._subscribe(connection, request, [])
        self._serve_waiting(connection, request, lambda _, request: self.control.serve(request, page))
        return None

    def _channel(self, request: Request) -> str:
        return check_channel(self.channel_builder(request))

    def _serve_again(self, connection: Connection, repeated: Repeated) -> bool:
        """Serve what came with a head which came before, and of which is known what it asks for. False where that is
        not as simple as it seems, or refused."""
        plan = repeated.head.plan
        if plan is None or self.draining:
            return False
        if type(plan) is str:
            return self._publish_again(connection, repeated, plan)
        if type(plan) is PublishPlan:
            channel = _channel(plan.prefix, repeated.own)
            if channel is None:
                return False
            repeated.head.plan = channel
            return self._publish_again(connection, repeated, channel)
        if plan.poll is not None and plan.poll.waits:
            # The hot path of long-polls: wait with those that ask for the same.
            connection.become("poll")
            connection.session = plan.poll.add(connection, repeated)
            self._wheel.schedule(connection, plan.poll.wait)
            return True
        try:
            self._take_over(connection, repeated, plan)
        except TooManyChannels:
            return False
        return True

    def _keep_plan(self, request: Request, plan: PublishPlan | SubscriptionPlan, *, for_pages: bool) -> None:
        """Remember what a head asks for, if nothing else has a part in that, or in how it is answered. ``for_pages``:
        the answer has what a page's origin asks for."""
        # What the channel_builder of an application looks at, nobody knows.
        simple = self.channel_builder in (path, host_path) and (for_pages or "origin" not in request.fields)
        if request.head is not None and simple:
            request.head.plan = plan

    # Publish.

    def _publish_again(self, connection: Connection, repeated: Repeated, channel: str) -> bool:
        """The hot path: publish a JSON value that came with a head which came before."""
        try:
            message = Message(channel, Kind.JSON, json_payload(repeated.body), None, time.time_ns() // 1000)
        except InvalidPayload:
            return False
        connection.busy = True
        self.router.publish_one(message, self._published_again, connection)
        return True

    def _published_again(self, connection: Connection, outcome: Cursor | Exception | None) -> None:
        connection.busy = False
        if connection.closed:
            return
        answer: Answer = ACCEPTED
        if isinstance(outcome, Exception):
            answer = problem(refusal(outcome))
        elif outcome is not None:
            answer = Json(200, b'{"cursor":"%b"}' % str(outcome).encode())
        if self.draining:
            self._answer(connection, None, answer)
            return
        self.stats.requests += 1
        if answer is ACCEPTED:
            connection.send(_accepted(date()))
        elif isinstance(answer, Json):
            connection.send(json_bytes(answer))
        else:
            connection.send(serialize(answer, keep_alive=True, http10=False))
        self._was_answered(connection)

    def _publish(
        self, connection: Connection, request: Request, groups: list[list[Message]],
        body: Callable[[list[list[Cursor]]], bytes],
    ) -> None:  # fmt: skip
        """Publish groups of messages, each of one channel; ``body`` makes the answer where they have cursors."""
        key = request.fields.get("idempotency-key")
        if key is not None:
            check_key(key, all(self.router.keeps(messages[0].channel) for messages in groups))

        def published(outcome: list[list[Cursor]] | Exception) -> None:
            def answer(*_: object) -> Answer:
                if isinstance(outcome, Exception):
                    raise outcome
                return Json(200, body(outcome)) if any(outcome) else ACCEPTED

            self._serve(connection, request, answer)
            self._go_on(connection)

        self.router.publish(*groups, key=key, done=published)
        connection.busy = True

    def _publish_to_many(self, connection: Connection, request: Request) -> None:
        body = json_payload(request.raw_body)
        order = decode_exactly(body.decode())
        if not isinstance(order, dict) or not isinstance(order.get("channels"), list) or "data" not in order:
            raise HttpError(400, 'the body must be like {"channels": ["a", "b"], "data": ...}')
        names = order["channels"]
        if not names or len(names) > self.limits.max_subscriptions or not all(isinstance(n, str) for n in names):
            raise HttpError(400, f"channels must be 1 to {self.limits.max_subscriptions} names")
        data = json_payload(dumps(order["data"]))
        channels = [check_channel(name) for name in dict.fromkeys(names)]
        groups = [[Message(channel, Kind.JSON, data)] for channel in channels]

        def answer(cursors: list[list[Cursor]]) -> bytes:
            places = zip(channels, cursors, strict=True)
            return dumps({"cursors": {channel: str(found[0]) if found else None for channel, found in places}})

        self._publish(connection, request, groups, answer)

    # Subscribe.

    def _subscribe(self, connection: Connection, request: Request, names: list[str]) -> Answer | None:
        """One of the four transports; ``names`` is empty for the WebSocket that takes commands."""
        query = dict(parameters.query_pairs(request))
        if len(names) > self.limits.max_subscriptions:
            raise HttpError(400, f"at most {self.limits.max_subscriptions} channels on a connection")
        asked = Asked(
            names, parameters.filters(request, parameters.query_pairs(request)),
            parameters.starts(request, query, names),
            len(names) != 1 or names[0].endswith("*") or query.get("_wrap") == "1",
        )  # fmt: skip
        if "_durable" in query and (request.upgrade or asked.filters):
            what = "a long-poll, or a command of /-/websocket" if request.upgrade else "without filters"
            raise HttpError(400, f"a durable subscription is {what}")
        opening: Callable[[Seat, Request | Repeated], Opening]
        if request.upgrade:
            opening = functools.partial(
                transports.socket, asked=asked, agreement=websocket.accept(request, deflate=self.deflate),
                max_message=self.limits.max_ws_message, max_subscriptions=self.limits.max_subscriptions,
                session_window=self.limits.session_window, verbatim=query.get("_raw") == "1",
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
                return webob.Response(content_type="application/json", charset="utf-8")
            wait = min(wait, self.limits.max_wait)
            opening = functools.partial(transports.poll, asked=asked, wait=wait, answer=self._answer_polls)
            self._begin(connection, request, SubscriptionPlan(asked, opening), for_pages=False)
            return None
        head, encode = transports.stream_head(request, asked)
        head += tuple(self.origins.headers(request).items())
        if request.method == "HEAD":
            return stream_response(head)
        opening = functools.partial(transports.stream, asked=asked, head=head, encode=encode, http10=request.http10)
        self._begin(connection, request, SubscriptionPlan(asked, opening), for_pages=True)
        return None

    def _begin(self, connection: Connection, request: Request, plan: SubscriptionPlan, *, for_pages: bool) -> None:
        self._keep_plan(request, plan, for_pages=for_pages)
        self._take_over(connection, request, plan)

    def _poll_durably(
        self, connection: Connection, request: Request, names: list[str], query: dict[str, str], wait: float
    ) -> Answer | None:
        """A long-poll of a consumer."""
        if len(names) != 1 or not self.router.keeps(check_channel(names[0])):
            raise HttpError(400, "a durable subscription is to one channel, which has a history")
        try:
            asked = parameters.durable(query)
        except ValueError as error:
            raise HttpError(400, str(error)) from None
        if request.method == "HEAD":
            return webob.Response(content_type="application/json", charset="utf-8")

        def answer(connection: Connection, request: Request) -> Answer:
            body = durable.poll(
                self.router, names[0], asked, wait, gone=lambda: connection.closed, enough=lambda: self.draining
            )
            response = webob.Response(status=204, content_type=None)
            if body is not None:
                response = webob.Response(body=body, content_type="application/json", charset="utf-8")
            response.headers["Cache-Control"] = "no-store"
            return response

        self._serve_waiting(connection, request, answer)
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
        except TooManyChannels:
            session.close()
            raise
        if Beginning.is_known(self.router, asked.names, asked.starts):
            # The hot path of clients that come back.
            self._open(connection, opening, self._known_fields(asked, session))
            for name in asked.names:
                session.attach(name)
            self._opened(connection, opening)
            return

        def confirm(connection: Connection, _: Request) -> None:
            try:
                beginning = Beginning(self.router, asked.names, asked.starts)
            except (NotInForce, StoreFailed):
                session.close()
                raise
            if connection.closed:
                session.close()
                return
            self._open(connection, opening, self._fields(asked, beginning))
            session.begin(beginning)
            self._opened(connection, opening)

        self._serve_waiting(connection, request.request() if isinstance(request, Repeated) else request, confirm)

    def _open(self, connection: Connection, opening: Opening, fields: dict[str, str]) -> None:
        """Answer, with these fields besides, or note them for the answer."""
        self.stats.requests += not opening.session.answers_once
        connection.become(opening.transport)
        connection.session = opening.client
        opening.opened(fields)

    def _opened(self, connection: Connection, opening: Opening) -> None:
        """From now on the session gets what comes."""
        if isinstance(opening.session, Poll) and connection.session is opening.client:
            opening.session.open()
        if self.draining and connection.session is opening.client:
            opening.client.drain()

    @staticmethod
    def _fields(asked: Asked, beginning: Beginning) -> dict[str, str]:
        """What the answer to a subscriber tells of its beginning."""
        fields = {}
        if beginning.unconfirmed:
            fields["Raiden-Unconfirmed"] = ", ".join(beginning.unconfirmed)
        position = joined([beginning.place(name) for name in asked.names])
        if position is not None:
            fields["Raiden-Cursor"] = position
        if asked.starts:
            recovered = all(beginning.recovered(name) for name in asked.names)
            fields["Raiden-Recovered"] = "true" if recovered else "false"
        return fields

    def _known_fields(self, asked: Asked, session: Session) -> dict[str, str]:
        """The same for one that misses nothing, and waits for nothing."""
        fields = {}
        position = None if session.answers_once else joined([self.router.position(name) for name in asked.names])
        if position is not None:
            fields["Raiden-Cursor"] = position
        if asked.starts:
            fields["Raiden-Recovered"] = "true"
        return fields


def _channel(prefix: str, target: bytes) -> str | None:
    """What a POST to this target publishes to, where channels begin with ``prefix``; None if nothing."""
    if not target or target.startswith(b"/-/") or b"?" in target:
        return None
    try:
        return check_channel(prefix + unquote(target[1:].decode()))
    except InvalidChannel:
        return None


@functools.lru_cache(1)
def _accepted(now: str) -> bytes:
    """What `ACCEPTED` is in this second."""
    return json_bytes(ACCEPTED)


def refusal(error: Exception) -> HttpError:
    """What the client is told where the server can't, or will not, do what it asks."""
    status = status_of(error)
    return HttpError(status, str(error), headers={"Retry-After": "1"} if status == 503 else None)


def _cursor(cursors: list[list[Cursor]]) -> bytes:
    return b'{"cursor":"%b"}' % str(cursors[0][0]).encode()


def _cursors_of_a_batch(cursors: list[list[Cursor]]) -> bytes:
    return dumps({"cursors": [str(cursor) for cursor in cursors[0]]})


def _require(request: Request, *methods: str) -> None:
    if request.method not in methods:
        allow = ", ".join(methods)
        raise HttpError(405, f"use {allow} here", headers={"Allow": allow})
