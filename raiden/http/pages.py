"""The pages of ``/-/`` about the state of the node: health, readiness, metrics, channels."""

from __future__ import annotations

from typing import Any

import gevent
import webob

from raiden.access.permit import Permit
from raiden.backend import NotInForce
from raiden.delivery import past
from raiden.delivery.census import Census
from raiden.delivery.questions import Questions, to_workers
from raiden.delivery.table import MAX_ROWS
from raiden.history.store import StoreFailed
from raiden.hooks.events import DEAD
from raiden.http import parameters
from raiden.http.queues import Queues
from raiden.model import encoding
from raiden.model.encoding import dumps
from raiden.model.names import check_channel, check_subscription, unquote
from raiden.model.page import Page
from raiden.model.refusals import NotFound
from raiden.presence.presence import Presence
from raiden.protocols.http import HttpError, Request
from raiden.router import Router
from raiden.runtime.stats import Stats, exposition

# Seconds for the store to say that it can be written.
PATIENCE = 2.0


class Pages:
    """The pages for the whole node: a worker asks the others by the backbone for what it doesn't know."""

    def __init__(
        self, router: Router, stats: Stats, presence: Presence, *, min_peers: int = 0,
        ready_without_store: bool = False,
    ) -> None:  # fmt: skip
        self.router = router
        self.stats = stats
        self.min_peers = min_peers
        self.ready_without_store = ready_without_store
        self._stats = Questions(to_workers(router.backend, b"stats", everywhere=False), at_once=1)
        self._census = Census(router.backend)
        self._queues = Queues(router.history)
        self._presence = presence

    def serve(self, request: Request, page: str, permit: Permit | None = None) -> webob.Response:
        """Return a page's response to a client with this permit (None: it may see all). Waits for other workers;
        raises NotFound for an unknown page."""
        if page == "health":
            return _json({"status": "ok"})
        if page == "ready":
            return self._ready()
        if page == "metrics":
            return self._metrics()
        if page == "nodes":
            return _json({"nodes": self.router.backend.nodes()})
        if page == "channels":
            return self._channels(request)
        if page == "durables":
            return self._durables(request)
        if page == "webhooks/dead":
            return _json(encoding.page(DEAD, self._read(request, DEAD, keeps=True)))
        if page.startswith("channels/") and page.endswith("/presence"):
            parameters.check(parameters.query_pairs(request), parameters.NONE)
            return _json(self._presence.of(check_channel(unquote(page[len("channels/") : -len("/presence")]))))
        if page.startswith("channels/") and page.endswith("/history"):
            name = page[len("channels/") : -len("/history")]
            return self._history(request, check_channel(unquote(name)), permit)
        if page.startswith("channels/"):
            return self._channel(check_subscription(unquote(page[len("channels/") :])))
        raise NotFound(
            "no such page: there are /-/publish, /-/answer/ID, /-/subscribe, /-/websocket, /-/channels, /-/durables, "
            "/-/nodes, /-/webhooks/dead, /-/metrics, /-/revoke, /-/disconnect, /-/health and /-/ready"
        )

    def _history(self, request: Request, name: str, permit: Permit | None) -> webob.Response:
        found = self._read(request, name, keeps=self.router.keeps(name))
        filters, asked = None if permit is None else permit.filters("history", name), parameters.filters(request)
        return _json(encoding.page(name, found, filters=asked if filters is None else filters.both(asked)))

    def _read(self, request: Request, name: str, *, keeps: bool) -> Page:
        pairs = parameters.query_pairs(request)
        parameters.check(pairs, parameters.HISTORY)
        return past.reader(self.router.history, parameters.read(name, dict(pairs)), keeps=keeps)()

    def _ready(self) -> webob.Response:
        try:
            self.router.backend.check()
        except NotInForce as error:
            raise _not_ready(str(error)) from None
        store = self._why_not_written()
        if store is not None and not self.ready_without_store:
            raise _not_ready(store)
        states = [row["state"] for row in self.router.backend.nodes()]
        if "leaving" in states[:1]:
            raise _not_ready("this node is leaving")
        connected = states.count("connected")
        if connected < self.min_peers:
            raise _not_ready(f"{connected} peers are connected, and min_peers = {self.min_peers}; see /-/nodes")
        return _json({"status": "ready", "peers": connected} | ({} if store is None else {"history": store}))

    def _why_not_written(self) -> str | None:
        """The reason why the history can't be written now; None where it can, or there is none."""
        history = self.router.history
        if history is None:
            return None
        try:
            with gevent.Timeout(PATIENCE, StoreFailed("the history does not answer: try again later")):
                history.check()
        except StoreFailed as error:
            return str(error)
        return None

    def _metrics(self) -> webob.Response:
        response = webob.Response(content_type="text/plain", charset="utf-8")
        response.body = exposition(self._stats.ask())
        return response

    def _channels(self, request: Request) -> webob.Response:
        """A page of the names that begin with ``_prefix`` and come behind ``_after``."""
        pairs = parameters.query_pairs(request)
        parameters.check(pairs, parameters.CHANNELS)
        query = dict(pairs)
        limit = parameters.number(query, "_limit", MAX_ROWS) if "_limit" in query else MAX_ROWS
        return _json(self._census.page(query.get("_prefix", ""), query.get("_after", ""), limit))

    def _durables(self, request: Request) -> webob.Response:
        """A page of durable subscriptions, in the order of their channels and names."""
        pairs = parameters.query_pairs(request)
        parameters.check(pairs, parameters.DURABLES)
        return _json(self._queues.page(dict(pairs)))

    def _channel(self, name: str) -> webob.Response:
        found: dict[str, Any] = {**self._census.row(name)}
        if self.router.history is not None and not name.endswith("*") and self.router.keeps(name):
            stand = self.router.history.positions([name]).get(name)
            found["cursor"] = None if stand is None else str(stand.position)
            if stand is not None and stand.ended:
                found["end"] = True
        return _json({"channel": name, **found})


def _not_ready(why: str) -> HttpError:
    return HttpError(503, f"not ready: {why}")


def _json(value: dict[str, Any] | bytes) -> webob.Response:
    response = webob.Response(content_type="application/json", charset="utf-8")
    response.body = value if isinstance(value, bytes) else dumps(value)
    return response
