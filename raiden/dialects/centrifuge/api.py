"""The server API, by which an application publishes, and looks after channels and clients."""

from __future__ import annotations

import hmac
import time
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec
from gevent.event import AsyncResult
from msgspec import Raw

from raiden import __version__
from raiden.access.clients import Client
from raiden.access.rates import account
from raiden.connections import client as clients
from raiden.connections.connection import Connection
from raiden.delivery.census import Census
from raiden.dialects.centrifuge import codes, requests
from raiden.dialects.centrifuge.channels import checked
from raiden.dialects.centrifuge.cluster import Cluster
from raiden.dialects.centrifuge.codes import Failed, error_of
from raiden.dialects.centrifuge.history import Histories
from raiden.dialects.centrifuge.messages import Error, HistoryResult, PresenceStatsResult
from raiden.dialects.centrifuge.presence import Clients
from raiden.dialects.centrifuge.requests import Count, Counts, Members, Nodes, Nothing, Place, Response, Responses
from raiden.dialects.centrifuge.wire import STREAM, wire
from raiden.gateway import Gateway
from raiden.http.door import Answer
from raiden.http.parameters import query_pairs
from raiden.model.message import Cursor
from raiden.model.payload import MAX_KEY, check_message
from raiden.model.refusals import Refusal, attempt
from raiden.protocols.http import HttpError, Json, Request

# Channels that an answer lists.
MAX_CHANNELS: Final = 100_000
_PAGE: Final = 1000
_METHODS_THAT_END: Final = frozenset({"disconnect", "unsubscribe", "history_remove"})
_WIRE: Final = wire(STREAM, False)


class _Method(NamedTuple):
    """A method: what its request is, and what does it, which waits."""

    kind: type[Any]
    do: Callable[[Any], Any]


class Api:
    """The API behind ``key``, which allows all."""

    def __init__(
        self, gateway: Gateway, key: str, *, histories: Histories, presence: Clients
    ) -> None:  # fmt: skip
        self._gateway = gateway
        self._key = key.encode()
        self._histories = histories
        self._presence = presence
        self._cluster = Cluster(gateway)
        self._census = Census(gateway.router.backend)
        # The holder of the key, as rates and the audit log know it.
        self._holder = gateway.permits.of_client(Client("centrifuge_api_key"))
        self._methods: dict[str, _Method] = {
            "publish": _Method(requests.PublishAsk, self._publish),
            "broadcast": _Method(requests.BroadcastAsk, self._broadcast),
            "subscribe": _Method(requests.SubscribeAsk, self._subscribe),
            "unsubscribe": _Method(requests.UnsubscribeAsk, self._do),
            "disconnect": _Method(requests.DisconnectAsk, self._disconnect),
            "refresh": _Method(requests.RefreshAsk, self._do),
            "presence": _Method(requests.ChannelAsk, self._members),
            "presence_stats": _Method(requests.ChannelAsk, self._counts),
            "history": _Method(requests.HistoryAsk, self._history),
            "history_remove": _Method(requests.ChannelAsk, self._history_remove),
            "channels": _Method(requests.ChannelsAsk, self._channels),
            "info": _Method(requests.InfoAsk, self._info),
        }
        self._kinds = {"batch": requests.BatchAsk, **{name: each.kind for name, each in self._methods.items()}}

    def dispatch(self, connection: Connection, request: Request, name: str) -> Answer | None:
        """Answer a request for a method, later; raises HttpError."""
        if not self._knows(request):
            raise HttpError(
                401, "send the key of centrifuge_api_key as X-API-Key: KEY", headers={"WWW-Authenticate": "apikey"}
            )
        if request.method != "POST":
            raise HttpError(405, "the methods of this API are for POST", headers={"Allow": "POST"})
        kind = self._kinds.get(name)
        if kind is None:
            known = ", ".join(sorted(self._kinds))
            raise HttpError(404, f"there is no method {name!r}: POST to /api/publish, or to another of {known}")
        found = attempt("a request of the API", requests.read, request.raw_body, kind)
        if isinstance(found, Refusal):
            raise HttpError(400, f"the body is no request of {name} in JSON")
        by_status = request.fields.get("x-centrifugo-error-mode", "").lower() == "transport"
        connection.permit = self._holder
        self._gateway.door.serve_waiting(
            connection, request, lambda *_: _answer(name, self._run(connection, name, found), by_status)
        )  # fmt: skip
        return None

    def _run(self, connection: Connection, name: str, ask: Any) -> Any:
        """The result of a method, or its error; the audit log hears of it. Waits."""
        do = partial(self._batch, connection) if name == "batch" else self._methods[name].do
        found = attempt("a request of the API", do, ask)
        channel = getattr(ask, "channel", "")
        if isinstance(found, Refusal):
            clients.refused(connection, found, f"api {name}", channel)
        elif name in _METHODS_THAT_END:
            whose = {each: told for each in ("user", "client") if (told := getattr(ask, each, ""))}
            clients.done(connection, f"api {name}", channel, **whose)
        return error_of(found) if isinstance(found, Refusal) else found

    def _knows(self, request: Request) -> bool:
        """Whether a request shows the key."""
        shown = request.fields.get("x-api-key")
        if shown is None:
            scheme, _, shown = request.fields.get("authorization", "").partition(" ")
            if scheme.lower() != "apikey":
                shown = dict(query_pairs(request)).get("api_key", "")
        return hmac.compare_digest(shown.strip().encode(), self._key)

    @staticmethod
    def _attempt(do: Callable[[Any], Any], ask: Any) -> Any:
        """The result of a request, or its error. Waits."""
        found = attempt("a request of the API", do, ask)
        return error_of(found) if isinstance(found, Refusal) else found

    # Messages.

    def _publish(self, ask: requests.PublishAsk) -> Place:
        self._count([ask.channel])
        return _place(self._begin(ask.channel, ask))

    def _broadcast(self, ask: requests.BroadcastAsk) -> Responses:
        if len(ask.channels) > requests.MOST:
            raise Failed(codes.LIMIT_EXCEEDED)
        self._count(ask.channels)
        begun = [self._attempt(partial(self._begin, channel), ask) for channel in ask.channels]
        responses = []
        for each in begun:
            found = each if isinstance(each, Error) else self._attempt(_place, each)
            responses.append(Response(error=found) if isinstance(found, Error) else Response(result=found))
        return Responses(responses)

    def _count(self, channels: Sequence[str]) -> None:
        """Count messages to channels for rates; raises TooFast and TooLarge."""
        if self._gateway.rates.on:
            self._gateway.rates.publish(account(self._holder, ""), Counter(channels).items())

    def _begin(self, channel: str, content: requests.Content) -> AsyncResult[Any]:
        """Publish; what becomes of it is known later."""
        message = content.message(checked(channel))
        check_message(message, self._gateway.limits.max_message)
        publisher = self._gateway.router.publisher
        key = content.idempotency_key or None
        if key is not None and len(key.encode()) > MAX_KEY:
            raise Failed(codes.BAD_REQUEST)
        if not publisher.stores(message):
            key = None  # nothing would remember it
        done: AsyncResult[Any] = AsyncResult()
        publisher.publish_one(message, _set, done, key)
        return done

    def _history(self, ask: requests.HistoryAsk) -> HistoryResult:
        name = checked(ask.channel)
        self._histories.check(name)
        found = self._histories.page(name, ask.limit, ask.since, ask.reverse)
        publications = [_WIRE.publication(message) for message in found.messages]
        return HistoryResult(publications, found.position.epoch, found.position.offset)

    def _history_remove(self, ask: requests.ChannelAsk) -> Nothing:
        self._gateway.router.publisher.clear(checked(ask.channel))
        return Nothing()

    # Clients.

    def _subscribe(self, ask: requests.SubscribeAsk) -> Nothing:
        checked(ask.channel)
        return self._do(ask)

    def _do(self, ask: requests.Whose) -> Nothing:
        self._cluster.do(ask)
        return Nothing()

    def _disconnect(self, ask: requests.DisconnectAsk) -> Nothing:
        reason = ask.disconnect
        if reason is not None and not (3000 <= reason.code < 5000 and len(reason.reason.encode()) <= 120):
            raise Failed(codes.BAD_REQUEST)
        return self._do(ask)

    def _members(self, ask: requests.ChannelAsk) -> Members:
        self._presence.check()
        return Members({each.client: each for each in self._presence.of(checked(ask.channel))})

    def _counts(self, ask: requests.ChannelAsk) -> PresenceStatsResult:
        self._presence.check()
        return self._presence.count(checked(ask.channel))

    # The node.

    def _channels(self, ask: requests.ChannelsAsk) -> Counts:
        prefix = ask.pattern
        for mark in "*?[":
            prefix = prefix.partition(mark)[0]
        found: dict[str, Count] = {}
        after: str | None = ""
        while after is not None and len(found) < MAX_CHANNELS:
            page = self._census.page(prefix, after, _PAGE)
            for name, row in page["channels"].items():
                is_channel = not name.endswith("*") and row["subscribers"]
                if is_channel and (not ask.pattern or fnmatchcase(name, ask.pattern)):
                    found[name] = Count(row["subscribers"])
            after = page.get("next")
        return Counts(found)

    def _info(self, ask: requests.InfoAsk) -> Nodes:
        rows = self._gateway.router.backend.nodes()
        return Nodes([
            requests.Node(
                row["id"], row["address"], __version__, row["connections"], row["channels"],
                round(row.get("uptime", time.time() - row["since"])),
            )
            for row in rows
        ])  # fmt: skip

    def _batch(self, connection: Connection, ask: requests.BatchAsk) -> Raw:
        """The replies to several commands, one after the other."""
        if len(ask.commands) > requests.MOST:
            raise Failed(codes.LIMIT_EXCEEDED)
        return Raw(b'{"replies":[%b]}' % b",".join([self._command(connection, command) for command in ask.commands]))

    def _command(self, connection: Connection, command: dict[str, Raw]) -> bytes:
        name = next(iter(command), "")
        method = self._methods.get(name)
        if method is None:
            return msgspec.json.encode({"error": codes.METHOD_NOT_FOUND})
        found = self._attempt(partial(requests.read, bytes(command[name])), method.kind)
        if not isinstance(found, Error):
            found = self._run(connection, name, found)
        return msgspec.json.encode({"error" if isinstance(found, Error) else name: found})


def _set(done: AsyncResult[Any], outcome: Cursor | Refusal | None) -> None:
    done.set(outcome)


def _place(done: AsyncResult[Any]) -> Place:
    """Where a message stands that is being published. Waits; raises a refusal."""
    outcome: Cursor | Refusal | None = done.get()
    if isinstance(outcome, Refusal):
        raise outcome
    return Place() if outcome is None else Place(outcome.offset, outcome.epoch)


def _answer(name: str, found: Any, by_status: bool) -> Json:
    """The answer to a request: the result, or the error, by the ``status`` of the answer or in its body."""
    if isinstance(found, Error):
        data = msgspec.json.encode(found)
        if by_status:
            return Json(requests.STATUSES.get(found.code, 500), data)
        return Json(200, b'{"error":%b}' % data)
    data = msgspec.json.encode(found)
    return Json(200, data if name == "batch" else b'{"result":%b}' % data)
