"""The door for HTTP: connections, and their requests, in the order they came.

Watchers call `readable`. A connection's requests are served one after the other (pipelining): the bytes behind a
request that is under way wait in the connection's `RequestParser`. A request that must wait is served in a greenlet. A
connection that has subscribed needs none: its `Session` takes over. Answers are webob responses; errors are
problem+json.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeAlias, cast

import gevent
import webob

from raiden.access.rates import Rates
from raiden.connections import client
from raiden.connections.connection import Connection
from raiden.connections.door import PORTION, Door
from raiden.connections.states import CLOSING, IDLE, OPENING, RECEIVING, SERVING, SUBSCRIBED
from raiden.connections.tls import Tls, TlsSocket
from raiden.http.access_log import AccessLog
from raiden.http.audited import asked
from raiden.http.introduction import Introduction
from raiden.http.origins import Origins
from raiden.model.refusals import Refusal, attempt
from raiden.protocols.heads import Heads, Repeated
from raiden.protocols.hosts import Hosts
from raiden.protocols.http import CONTINUE_BYTES, HttpError, Json, Request, json_bytes, problem, serialize
from raiden.protocols.limits import HttpLimits
from raiden.protocols.parser import CONTINUE, MAX_PIPELINED, RequestParser
from raiden.protocols.proxies import Proxies, Source
from raiden.protocols.unfinished import SLOW, Unfinished
from raiden.protocols.websocket import WebSocket
from raiden.runtime.audit import STATUSES
from raiden.runtime.stats import Stats
from raiden.sessions.lasting import LINGER
from raiden.sessions.poll import Waiter

log = logging.getLogger(__name__)

Answer: TypeAlias = "webob.Response | Json"
Handler: TypeAlias = "Callable[[Connection, Request], Answer | None]"


class Application(Protocol):
    """The application behind a door, which knows the meaning of requests. It answers at once, or later by the door's
    `answer`."""

    def dispatch(self, connection: Connection, request: Request) -> Answer | None:
        """Return the answer to a request; None where the application itself takes care of the connection. Raises
        Refusal."""

    def serve_again(self, connection: Connection, repeated: Repeated) -> bool:
        """Serve a request with a remembered head by its plan. Returns False where there is no plan, where the request
        is not as simple as that, or where it is refused."""


class HttpDoor(Door):
    """A server for the connections that come in at ``listener``, which is listening already; an application answers
    their requests."""

    def __init__(
        self, listener: socket.socket, application: Application, *, stats: Stats, limits: HttpLimits,
        origins: Origins, rates: Rates, hosts: Hosts | None = None, heads: Heads | None = None,
    ) -> None:  # fmt: skip
        super().__init__(listener, limits, stats, "http", rates)
        self.limits = limits
        self._application = application
        self.heads = heads or Heads()
        self.unfinished = Unfinished(lambda: limits.max_unfinished)
        self.hosts = hosts or Hosts()
        self.origins = origins
        # The TLS of connections that come in from now on; None: they have none.
        self.tls: Tls | None = None
        # The trusted proxies, which say whose requests they pass on; None: there are none.
        self.proxies: Proxies | None = None
        # Whether each connection begins with a header of its proxy.
        self.is_introduced = False
        self.access_log = AccessLog()

    def drain(self, timeout: float, window: float = 0.0) -> None:
        """Accept no more, tell subscribers to come back, finish requests under way; at most ``timeout`` seconds. The
        subscribers are told one after the other, spread over ``window`` seconds, so that they don't come to another
        node all at once."""
        self.shut()
        started = time.monotonic()
        for connection in list(self.connections):
            if connection.state == IDLE:
                self.readable(connection)  # a request may have come that nobody has looked at yet
            if connection.state == IDLE:
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
        return RequestParser(self.limits, remote, self.heads, self.unfinished)

    def wire(self, sock: socket.socket) -> socket.socket:
        return sock if self.tls is None or self.is_introduced else TlsSocket(sock, self.tls)

    def opened(self, connection: Connection) -> None:
        if self.is_introduced:
            connection.session = Introduction(self, connection)
        elif self.tls is not None:
            connection.scheme = "https"
        self.wheel.schedule(connection, self.limits.request_timeout)

    def refuse(self, sock: socket.socket, refusal: Refusal) -> None:
        if self.tls is not None:
            return  # an answer would take a handshake
        response = problem(refusal)
        response.headers.update(self.origins.headers(None))
        try:
            sock.send(serialize(response, keep_alive=False, http10=False))
            sock.shutdown(socket.SHUT_WR)
            sock.recv(65536)  # closing with unread data would reset the connection and might destroy the answer
        except OSError:
            pass  # the client did not wait for the answer

    def readable(self, connection: Connection) -> None:
        if connection.overflown and connection.state != CLOSING:
            self._overflow(connection)
            return
        if type(connection.protocol) is WebSocket and connection.protocol.deflate and connection.state != CLOSING:
            self.read_packed(connection)
            return
        permit = connection.permit
        # Messages about which a delegate is asked wait: of these only few are taken at once.
        data = connection.read(self.portion if permit is None or not permit.is_personal else PORTION)
        if data is None:
            self.leave(connection)
            return
        if len(data) >= PORTION:
            self.much = True
        session = connection.session
        if not data or connection.state == CLOSING:
            if self.tls is not None and isinstance(connection.socket, TlsSocket):
                self.much = connection.socket.took >= PORTION  # records may have no bytes for us, and cost time
            return
        if session is not None:
            session.receive(data)
            return
        parser = _parser(connection)
        if connection.state == SERVING:
            parser.feed(data)
        else:
            repeated = parser.whole(data)
            if repeated is not None:
                self._serve_repeated(connection, repeated)
                self._served(connection)
                return
            self._serve_next(connection, parser.feed(data))
        if parser.waiting >= MAX_PIPELINED:
            connection.pause()

    def _overflow(self, connection: Connection) -> None:
        self.stats.slow_consumers += 1
        log.warning("slow consumer closed", extra={"connection": connection.describe()})
        if connection.session is not None:
            connection.session.overflow()
        else:
            self.close(connection)

    def due(self, connection: Connection) -> None:
        state = connection.state
        if state == CLOSING and connection.is_moving():
            self.wheel.schedule(connection, LINGER)
        elif state == CLOSING:
            self.close(connection)
        elif connection.session is not None:
            connection.session.tick()
        elif state == SERVING:
            self.wheel.schedule(connection, self.limits.request_timeout)
        elif state == RECEIVING:
            parser = _parser(connection)
            left = parser.left(self.limits.request_timeout)
            if left > 0:
                self.wheel.schedule(connection, left)
                return
            error = HttpError(408, SLOW, close=True)
            error.fields = parser.fields
            self._refuse(connection, error)
        elif connection.is_moving():  # it is not idle yet: its last answer is still on its way
            self.wheel.schedule(connection, self.limits.idle_timeout)
        else:
            self._finish(connection)

    def _finish(self, connection: Connection) -> None:
        connection.finish()
        self.wheel.schedule(connection, LINGER)

    # Requests, in the order they came.

    def _serve_next(self, connection: Connection, events: Iterator[object]) -> None:
        """Serve the requests that have come, until one is under way, or none is left that is whole."""
        for event in events:
            if isinstance(event, Repeated):
                self._serve_repeated(connection, event)
            elif isinstance(event, Request):
                self._serve_new(connection, event)
            elif isinstance(event, HttpError):
                self._refuse(connection, event)
            elif event is CONTINUE:
                connection.send(CONTINUE_BYTES)
            if connection.state >= SERVING:
                return
        self._served(connection)

    def _serve_repeated(self, connection: Connection, repeated: Repeated) -> None:
        if self.proxies is not None:
            self._note_client(connection, self.proxies, repeated.head.environ)
        if not self._application.serve_again(connection, repeated):
            self._serve_new(connection, repeated.request())

    def _serve_new(self, connection: Connection, request: Request) -> None:
        """Serve a request that no plan serves."""
        if self.proxies is not None:
            self._note_client(connection, self.proxies, request.environ)
            request.environ["REMOTE_ADDR"] = connection.address
        self.serve(connection, request, self._application.dispatch)

    def _note_client(self, connection: Connection, proxies: Proxies, environ: Mapping[str, Any]) -> None:
        """Note the client of a request, and the scheme by which it came, where a trusted proxy tells them."""
        source = proxies.source(connection.remote, environ)
        if source is None:
            connection.address = connection.remote
        else:
            connection.address, connection.scheme = source

    def introduced(self, connection: Connection, source: Source | None, rest: bytes) -> None:
        """Go on with a connection, whose proxy has told its source (None: the proxy itself), with the bytes behind
        that."""
        if source is not None:
            connection.scheme = source.scheme
            connection.protocol = self.protocol(source.address)
        if source is not None and not self.comes_from(connection, source.address):
            self.stats.refused_connections += 1
            self.close(connection)
        elif self.tls is not None:
            connection.scheme = "https"
            connection.socket = TlsSocket(connection.socket, self.tls, rest)
            self.readable(connection)
        elif rest:
            self._serve_next(connection, _parser(connection).feed(rest))

    def is_proxy(self, address: str) -> bool:
        return self.proxies is not None and self.proxies.trusts(address)

    def _served(self, connection: Connection) -> None:
        """Wait for more, unless a request is under way: all that has come was served."""
        if connection.state >= SERVING:
            return
        if _parser(connection).idle:
            self.wheel.schedule(connection, self.limits.idle_timeout)
            connection.state = IDLE
        elif connection.state == IDLE:
            # From its first byte on, a request must be complete in time, however its bytes trickle in.
            self.wheel.schedule(connection, self.limits.request_timeout)
            connection.state = RECEIVING

    def serve(self, connection: Connection, request: Request, handle: Handler) -> None:
        """Answer a request; ``handle`` returns the response, or None where it takes care of the connection itself."""
        response = attempt(
            "a request", handle, connection, request, method=request.method, path=request.environ["raiden.path"]
        )
        if isinstance(response, Refusal):
            if response.status in STATUSES:
                client.refused(connection, response, *asked(request))
            if isinstance(response, HttpError) and response.close:
                request.environ["raiden.keep_alive"] = False
            response = problem(response)
        if response is not None:
            self.answer(connection, request, response)

    def serve_waiting(self, connection: Connection, request: Request, handle: Handler) -> None:
        """Serve a request that must wait for the backbone or the history, in a greenlet of its own."""
        connection.state = SERVING
        self.task(self._wait_and_serve, connection, request, handle)

    def _wait_and_serve(self, connection: Connection, request: Request, handle: Handler) -> None:
        self.serve(connection, request, handle)
        self.go_on(connection)

    def go_on(self, connection: Connection) -> None:
        """Go on with the next request after one was served, unless that has subscribed."""
        if connection.state == OPENING:
            connection.state = SUBSCRIBED
        elif connection.state == SERVING:
            connection.state = IDLE
            self.was_answered(connection)

    def _refuse(self, connection: Connection, error: HttpError) -> None:
        """Answer bytes that are no valid request, and close."""
        response = problem(error)
        response.headers.update(self.origins.headers(error.fields))
        self.answer(connection, None, response)

    def answer(self, connection: Connection, request: Request | Repeated | None, response: Answer) -> None:
        """Send a response, and close after it where the connection can't go on."""
        if connection.closed:
            return
        self.note(connection, request, response.status if isinstance(response, Json) else response.status_int)
        session, connection.session = connection.session, None
        if session is not None:
            session.close()
            self._ends(connection)
        if isinstance(response, Json):
            if request is not None and self._is_plain(request):
                connection.send(json_bytes(response))
                if session is not None and connection.state == IDLE:
                    self.was_answered(connection)
                return
            response = response.to_response()
        if isinstance(request, Repeated):
            request = request.request()
        keep_alive = request is not None and request.keep_alive and not self.draining
        head = request is not None and request.method == "HEAD"
        if request is not None:
            for name, value in self.origins.headers(request.fields, request.method).items():
                response.headers.setdefault(name, value)  # a dialect has fields of its own
        http10 = request is not None and request.http10
        connection.send(serialize(response, keep_alive=keep_alive, http10=http10, head=head))
        if not keep_alive:
            self._finish(connection)
        elif session is not None and connection.state == IDLE:
            self.was_answered(connection)

    def _ends(self, connection: Connection) -> None:
        """End the long-poll that the connection was; where its request is still being served, `go_on` follows."""
        connection.become("http")
        if connection.state == OPENING:
            connection.state = SERVING
        elif connection.state == SUBSCRIBED:
            connection.state = IDLE

    def note(self, connection: Connection, request: Request | Repeated | None, status: int) -> None:
        """Count an answer, and log it if that is wanted."""
        self.stats.responses[status] += 1
        if self.access_log.on:
            self.access_log.write(request, status, connection.remote if request is None else connection.address)

    def answer_polls(self, waiters: Iterable[Waiter], answer: Json) -> None:
        """Send the same answer to all these clients of a long-poll."""
        data = json_bytes(answer)
        for waiter in waiters:
            connection = waiter.connection
            if connection.closed or not self._is_plain(waiter.request):
                self.answer(connection, waiter.request, answer)
                continue
            # The hot path of long-polls.
            self.stats.responses[answer.status] += 1
            connection.session = None
            self._ends(connection)
            connection.send(data)
            if connection.state == IDLE:
                self.was_answered(connection)

    def was_answered(self, connection: Connection) -> None:
        """Go on with the next request of an idle connection; the hot path is that nothing of it has come yet."""
        parser = _parser(connection)
        if parser.idle:
            self.wheel.schedule(connection, self.limits.idle_timeout)
        else:
            self._serve_next(connection, parser.feed(b""))
            if parser.waiting < MAX_PIPELINED:
                connection.resume()

    def _is_plain(self, request: Request | Repeated) -> bool:
        """Whether neither the answer nor its log line depends on the request."""
        if self.draining or self.access_log.on:
            return False
        if isinstance(request, Repeated):
            return True  # it has a plan
        plain = request.keep_alive and not request.http10 and request.method != "HEAD"
        return plain and "origin" not in request.fields


def _parser(connection: Connection) -> RequestParser:
    """The parser of a connection that has not become a WebSocket."""
    return cast(RequestParser, connection.protocol)
