"""The gateway reads a request of an HTTP or WebSocket client into an ask, and then does what it asks for.

A subscription that misses nothing, and is in force already, costs no greenlet.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence

import webob

from raiden.access.permit import OPEN, Permit, Permits
from raiden.access.rates import Rates
from raiden.backend import NotInForce
from raiden.connections import client
from raiden.connections.connection import Connection
from raiden.connections.states import OPENING, SERVING, SUBSCRIBED
from raiden.delivery.table import TooManyChannels
from raiden.history.store import StoreFailed
from raiden.hooks.delegate import Delegate
from raiden.hooks.guest import Guest
from raiden.hooks.teller import Teller
from raiden.http import counted, credentials, delegated, ended
from raiden.http.audited import managed
from raiden.http.calling import Calling
from raiden.http.channel_builders import host_path, path
from raiden.http.door import Answer, Handler, HttpDoor
from raiden.http.origins import Origins
from raiden.http.pages import Pages
from raiden.http.plans import Plan, PublishPlan, SubscriptionPlan, allowed, channel_of, shown
from raiden.http.publishing import ACCEPTED, Publishing
from raiden.http.reader import AT_ONCE, Reader
from raiden.http.reserved import Reserved
from raiden.http.revoking import Ending, Revoking
from raiden.http.routes import Routes
from raiden.http.streaming import Streaming
from raiden.model.refusals import Refusal, TooFast, Unauthorized, Unavailable
from raiden.presence.presence import Presence
from raiden.protocols.heads import Heads, Repeated
from raiden.protocols.hosts import Hosts
from raiden.protocols.http import Request
from raiden.protocols.limits import HttpLimits
from raiden.requests.exchange import Exchange
from raiden.router import Router
from raiden.runtime.service import Service
from raiden.runtime.stats import Stats
from raiden.sessions import asks, costs, durable
from raiden.sessions.asks import Ask, Clear, Consume, Disconnect, Publish, Reply, Revoke, Show, Subscribe
from raiden.sessions.attending import attend, watch
from raiden.sessions.bell import Bells
from raiden.sessions.client import Client
from raiden.sessions.in_band import Told, joined
from raiden.sessions.needs import needs
from raiden.sessions.over import Consuming
from raiden.sessions.poll import Poll
from raiden.sessions.recovery import Beginning
from raiden.sessions.session import Session
from raiden.sessions.transports import Transports


class Gateway(Service):
    """The gateway for HTTP and WebSocket clients, which come in by its ``door`` at ``listener``, which is listening
    already."""

    def __init__(
        self,
        listener: socket.socket,
        router: Router,
        *,
        stats: Stats,
        limits: HttpLimits | None = None,
        allowed_origins: Sequence[str] = (),
        check_path: Callable[[str], None] | None = None,
        hosts: Hosts | None = None,
        channel_builder: Callable[[Request], str] = path,
        reserved: Reserved | None = None,
        deflate: bool = True,
        permits: Permits = OPEN,
        rates: Rates | None = None,
        token_cookie: str | None = None,
        delegate: Delegate | None = None,
        exchange: Exchange | None = None,
        min_peers: int = 0,
        ready_without_store: bool = False,
        heads: Heads | None = None,
    ) -> None:
        super().__init__()
        limits = limits or HttpLimits()
        origins = Origins(allowed_origins)
        self.router = router
        self.stats = stats
        self.limits = limits
        # Raises NotFound for a path that another gateway of the worker serves.
        self._check_path = check_path
        # The webhooks of the worker, for those who tell them of more than clients and messages; None: there are none.
        self.webhooks: Teller | None = None
        # Paths that others serve, on the same door; None: there are none.
        self.routes: Routes | None = None
        self.permits = permits
        self.rates = rates = rates or Rates()
        self.token_cookie = token_cookie
        self.delegate = delegate
        self.door = door = HttpDoor(
            listener, self, stats=stats, limits=limits, origins=origins, rates=rates, hosts=hosts, heads=heads
        )  # fmt: skip
        # Long-polls of durable subscriptions that wait, by their connection.
        self._consuming: dict[Connection, Consuming] = {}
        self.revoking = Revoking(router, permits, self._clients, self._forget)
        self.add(self.revoking)
        self.add(door)
        self.reader = Reader(
            limits, router.channels, origins, channel_builder=channel_builder,
            reserved=reserved or Reserved(), deflate=deflate,
        )  # fmt: skip
        self.publishing = Publishing(door, router.publisher, stats, limits, rates)
        self._bells = Bells(router, limits)
        exchange = exchange or Exchange(router)
        self.calling = Calling(door, exchange)
        self.presence = Presence(router, limits)
        self.add(self.presence)
        self.streaming = Streaming(door, router.publisher, limits, rates)
        self._transports = Transports(
            router, door.wheel, limits, door.unfinished, self._bells, exchange, rates, self.presence,
            door.answer_polls,
        )  # fmt: skip
        self.pages = Pages(
            router, stats, self.presence, min_peers=min_peers, ready_without_store=ready_without_store
        )  # fmt: skip

    def dispatch(self, connection: Connection, request: Request) -> Answer | None:
        # Until it is known, the client is not the one of the request before.
        connection.permit = None if self.permits.is_open and self.delegate is None else self.permits.unknown
        # A head gets a plan only after these checks, and loses it when settings change: a request that is served by a
        # plan is allowed.
        self.door.hosts.check(request.fields)
        application = None if self.routes is None else self.routes.of(request.environ["PATH_INFO"])
        if application is None or not application.judges_origins:
            self.door.origins.check(request.fields, connection.scheme)
        if self._check_path is not None:
            self._check_path(request.environ["raiden.path"])
        if application is not None:
            return application.dispatch(connection, request)
        delegate = self.delegate
        if delegate is None:
            return self._do(connection, request, self.read(connection, request))
        ask = self._read(connection, request)
        guest = self.guest(connection, request, delegate)
        return delegated.serve(self.door, connection, request, ask, guest, self.rates, self._do)

    def guest(self, connection: Connection, request: Request, delegate: Delegate) -> Guest:
        """The permit of a connection about which a delegate may be asked."""
        own, most = self.router.ids.of(connection), self.limits.max_message
        return Guest(own, connection.permit, delegate, connection.address, request.fields, most)

    def read(self, connection: Connection, request: Request) -> Ask:
        """Read what a request asks for, and judge it by the permit of what it shows, which stands at the connection
        from now on. Raises Refusal."""
        if self.permits.is_open:
            ask = self.reader.read(request)
        else:
            ask = self._read(connection, request)
            for need in needs(ask):
                connection.permit.check(*need)
        if self.rates.on:
            counted.count(self.rates, connection, ask)
        return ask

    def _read(self, connection: Connection, request: Request) -> Ask:
        """Read what a request asks for, after the permit of what it shows."""
        permits, delegate = self.permits, self.delegate
        connection.permit = self.shown(request)
        # A body costs time to read, so who sends it is looked at first.
        if request.method == "POST" and (delegate is None or not delegate.handles("publish")):
            permits.check_known(connection.permit)
        return self.reader.read(request)

    def shown(self, request: Request) -> Permit:
        """The permit of what a request shows. Raises Unauthorized, and Unavailable."""
        permits, delegate = self.permits, self.delegate
        if delegate is None or permits.know_credentials or not delegate.reads_authorization:
            return permits.of(credentials.of(request, self.token_cookie))
        return permits.unknown  # what it shows is for the delegate

    def _do(self, connection: Connection, request: Request, ask: Ask) -> Answer | None:
        """Do what a request asks for; return the answer, or None where it comes later."""
        if isinstance(ask, Reply):
            return ask.answer
        if isinstance(ask, Publish):
            if ask.prefix is not None and "origin" not in request.fields:
                self.keep_plan(request, PublishPlan(ask.prefix, shown(connection), ask.label))
            self.publishing.publish(connection, request, ask)
        elif isinstance(ask, Subscribe):
            plan = SubscriptionPlan(ask, shown(connection))
            if ask.transport != "poll" or "origin" not in request.fields:
                self.keep_plan(request, plan)
            self._subscribe(connection, request, plan)
        elif isinstance(ask, Consume):
            self.door.serve_waiting(connection, request, lambda connection, _: self._consume(connection, ask))
        elif isinstance(ask, asks.PublishLines):
            self.streaming.begin(connection, request, ask)
        elif isinstance(ask, asks.Call | asks.Take | asks.Respond):
            return self.calling.do(connection, request, ask)
        elif isinstance(ask, Clear):
            work = managed(lambda: self._clear(ask), "delete", ask.channel)
            self.door.serve_waiting(connection, request, work)
        else:
            self.door.serve_waiting(connection, request, self.manage(ask))
        return None

    def keep_plan(self, request: Request, plan: Plan) -> None:
        """Remember what a head asks for, if that, and the answer, depend on nothing else."""
        if self.door.proxies is not None and "origin" in request.fields:
            return  # the scheme of a page's request is told by trusted proxies only, and a plan serves others, too
        if self.delegate is not None:
            return  # each connection has a permit of its own
        # Nobody knows what an application's channel_builder looks at.
        if request.head is not None and self.reader.channel_builder in (path, host_path):
            self.door.heads.keep_plan(request.head, plan)

    def manage(self, ask: Show | Revoke | Disconnect) -> Handler:
        """What serves those who look after the node, and waits for other workers."""
        if isinstance(ask, Revoke):
            whose = {ask.revocation.claim: ask.revocation.value}
            return managed(lambda: self.revoking.revoke(ask), "revoke", **whose)
        if isinstance(ask, Disconnect):
            return managed(lambda: self.revoking.disconnect(ask), "disconnect", ask.channel or "", sub=ask.subject)
        return lambda connection, request: self.pages.serve(request, ask.page, connection.permit)

    def _clear(self, ask: Clear) -> Answer:
        self.router.publisher.clear(ask.channel)
        return ACCEPTED

    def _consume(self, connection: Connection, ask: Consume) -> Answer:
        """Serve a long-poll of a durable subscription. Waits."""
        if connection.permit is not None:
            ask = ask._replace(wait=connection.permit.left(ask.wait))
        consuming = self._consuming[connection] = Consuming(ask.channel)
        try:
            body = durable.poll(
                self._bells, ask, gone=lambda: consuming.reason is not None or connection.has_gone,
                enough=lambda: self.door.draining,
            )  # fmt: skip
        finally:
            del self._consuming[connection]
        if consuming.reason is not None:
            raise consuming.reason.refusal
        response = webob.Response(status=204, content_type=None)
        if body is not None:
            response = webob.Response(body=body, content_type="application/json", charset="utf-8")
        response.headers.update(dict([AT_ONCE]))
        return response

    def _clients(self) -> Iterator[tuple[Connection, Ending]]:
        """The connections with something that may be ended, now."""
        for connection in list(self.door.connections):
            if connection.session is not None:
                yield connection, connection.session
        yield from list(self._consuming.items())

    def _forget(self) -> None:
        self.door.heads.clear()
        self.permits.forget()

    def serve_again(self, connection: Connection, repeated: Repeated) -> bool:
        plan = self.door.heads.plan(repeated.head)
        if plan is None or self.door.draining or self.door.access_log.on:
            return False
        if type(plan) is PublishPlan:
            channel = channel_of(self.reader.reserved, plan.prefix, repeated.own)
            if channel is None:
                return False
            try:
                connection.permit = allowed(self.permits, plan, repeated.credential, channel)
            except Refusal:
                return False
            return self.publishing.again(connection, repeated, channel, plan.label)
        if type(plan) is not SubscriptionPlan:
            return bool(plan.serve(connection, repeated))  # of a dialect
        try:
            connection.permit = allowed(self.permits, plan, repeated.credential)
        except Refusal:
            return False
        if self.rates.on:
            try:
                costs.count(self.rates, client.account(connection), plan.ask)
            except TooFast as refusal:
                if plan.ask.transport != "poll":
                    return False
                return counted.refuse(self.door, connection, repeated, refusal, "subscribe", *plan.ask.names)
        permit = connection.permit
        if plan.poll is not None and plan.poll.waits and (permit is None or not permit.client.filtered):
            # The hot path of long-polls: wait with the others that ask for the same.
            connection.become("poll")
            connection.state = SUBSCRIBED
            connection.session = plan.poll.join(connection, repeated)
            plan.poll.schedule(connection)
            return True
        try:
            self._subscribe(connection, repeated, plan)
        except Refusal:
            return False
        return True

    # Subscribe.

    def _subscribe(self, connection: Connection, request: Request | Repeated, plan: SubscriptionPlan) -> None:
        """Subscribe, wait until that is in force, and only then tell the client. Then send the messages that the client
        missed, and let the subscriptions go on from there."""
        ask = plan.ask
        session = self._transports.session(connection, ask)
        client = session.join(connection, request)
        # A poll that does not wait is answered with all that was acknowledged before it came, so the history is asked.
        whole = ask.transport == "poll" and not ask.wait and bool(ask.starts)
        permit = connection.permit
        shared = isinstance(session, Poll) and bool(ask.wait) and (permit is None or not permit.client.filtered)
        plan.poll = session if isinstance(session, Poll) and shared else None
        try:
            for name in ask.names:
                filters = ask.filters
                if permit is not None:
                    filters = permit.narrowed(filters, name, past=name in ask.starts)
                session.subscribe(name, ask.encoding, filters)
        except TooManyChannels as error:
            session.close()
            raise ask.refused(error) from None
        is_quick = not whole and ask.presence is None and not ended.is_over(self.router, ask)
        if is_quick and Beginning.is_known(self.router, ask.names, ask.starts):
            # The hot path of clients that come back.
            self._open(connection, request, ask, session, client, self._known(connection, ask, session))
            for name in ask.names:
                session.attach(name)
            self._opened(connection, session, client)
            return

        def confirm(connection: Connection, request: Request) -> Answer | None:
            try:
                watched = [] if ask.presence is None else watch(self.presence, ask.presence)
                beginning = Beginning(self.router, ask.names, ask.starts, whole=whole)
            except (Unavailable, NotInForce, StoreFailed) as error:
                session.close()
                raise ask.refused(error) from None
            try:
                if permit is not None:
                    permit.check_still()
            except Unauthorized:
                session.close()
                raise
            if connection.closed:
                session.close()
                return None
            told = _told(ask, beginning)
            if ended.is_over(self.router, ask, beginning):
                session.close()
                return ended.answer(told)
            if not session.answers_once:
                told = told._replace(connection=self.router.ids.of(connection))
            self._open(connection, request, ask, session, client, told)
            attend(session, self.presence, watched, session.subscriptions, ask.presence)
            session.begin(beginning)
            self._opened(connection, session, client)
            return None

        self.door.serve_waiting(connection, request.request() if isinstance(request, Repeated) else request, confirm)

    def _open(
        self, connection: Connection, request: Request | Repeated, ask: Subscribe, session: Session, client: Client,
        told: Told,
    ) -> None:  # fmt: skip
        """Answer, and tell the client this in the answer, or note it for a later answer."""
        if not session.answers_once:
            self.door.note(connection, request, session.status)
        connection.become(ask.transport)
        connection.state = OPENING if connection.state == SERVING else SUBSCRIBED
        connection.session = client
        if self.door.watcher is not None and ask.transport != "poll":
            self.door.watcher.came(connection)
        session.open(ask, request, told)

    def _opened(self, connection: Connection, session: Session, client: Client) -> None:
        """Let the session get the messages that come from now on."""
        session.opened()
        if self.door.draining and connection.session is client:
            client.drain()

    def _known(self, connection: Connection, ask: Subscribe, session: Session) -> Told:
        """The beginning that a subscriber is told that misses nothing, and waits for nothing."""
        recovered = True if ask.starts else None
        if session.answers_once:
            return Told(None, recovered)
        position = joined([self.router.position(name) for name in ask.names])
        return Told(position, recovered, (), self.router.ids.of(connection))


def _told(ask: Subscribe, beginning: Beginning) -> Told:
    """The beginning of a subscription, as its subscriber is told of it."""
    position = joined([beginning.place(name) for name in ask.names])
    recovered = all([beginning.recovered(name) for name in ask.names]) if ask.starts else None
    return Told(position, recovered, beginning.unconfirmed)
