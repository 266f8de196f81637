"""The HTTP API, by which servers publish events and ask about channels. Each request is signed with the secret of its
app, and a success is 200."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import gevent
import ujson
from gevent.event import AsyncResult

from raiden.connections import client
from raiden.connections.connection import Connection
from raiden.connections.states import SERVING
from raiden.delivery.census import Census
from raiden.delivery.questions import to_workers
from raiden.dialects.pusher import events, names, signatures
from raiden.dialects.pusher.events import Event
from raiden.dialects.pusher.names import kind_of
from raiden.dialects.pusher.opened import OpenApp
from raiden.dialects.pusher.socket import PusherSocket
from raiden.gateway import Gateway
from raiden.http.door import Answer
from raiden.model import strict_json
from raiden.model.encoding import dumps
from raiden.model.message import Cursor, Message
from raiden.model.payload import check_key, check_message
from raiden.model.refusals import Invalid, NotFound, Refusal, TooFast, attempt
from raiden.protocols.http import HttpError, Json, Request, retry_after
from raiden.sessions.asks import Disconnect

# Channels of an answer; those about whose members is asked at once.
MAX_CHANNELS: Final = 100_000
_AT_ONCE: Final = 500
_DONE: Final = Json(200, b"{}")
Work = Callable[[], Mapping[str, Any]]


class Api:
    """The HTTP API for ``apps``, by their ids."""

    def __init__(self, gateway: Gateway, apps: Mapping[str, OpenApp]) -> None:
        self._gateway = gateway
        self._apps = apps
        self._census = Census(gateway.router.backend)
        # The numbers of clients on each worker.
        self._ask_connections = to_workers(gateway.router.backend, b"pusher", everywhere=True)
        gateway.router.answers.others[b"pusher"] = self._connections_here

    def dispatch(self, connection: Connection, request: Request, parts: list[str]) -> Answer | None:
        """Serve a request for a path below that of the apps, which has these decoded parts."""
        refusal = attempt("a request", self._begin, connection, request, parts)
        if not isinstance(refusal, Refusal):
            return None
        client.refused(connection, refusal, "publish" if request.method == "POST" else "manage", "")
        return _refused(refusal)

    def _begin(self, connection: Connection, request: Request, parts: list[str]) -> None:
        self._gateway.door.origins.check(request.fields, connection.scheme)
        app = self._apps.get(parts[0])
        if app is None:
            raise NotFound(f"there is no app {parts[0][:100]!r}")
        queries = signatures.read_query(request.environ["QUERY_STRING"])
        signatures.check_request(
            app.app.key, app.app.secret, request.method, request.environ["raiden.path"], queries, request.raw_body,
            time.time(),
        )  # fmt: skip
        connection.permit = app.signed
        self._route(connection, request, app, parts[1:], queries[0])

    def _route(
        self, connection: Connection, request: Request, app: OpenApp, parts: list[str], query: Mapping[str, str]
    ) -> None:  # fmt: skip
        """Do what a request for the path of these parts asks for."""
        match parts:
            case ["events"]:
                _only(request, "POST")
                self._publish(connection, request, app, [events.read(_body(request), app.app)], one=True)
            case ["batch_events"]:
                _only(request, "POST")
                self._publish(connection, request, app, events.read_batch(_body(request), app.app), one=False)
            case ["users", user, "terminate_connections"]:
                _only(request, "POST")
                self._later(connection, request, lambda: self._terminate(connection, app, user))
            case ["channels"]:
                _only(request, "GET")
                self._later(connection, request, self._channels(app, query))
            case ["channels", name]:
                _only(request, "GET")
                names.check(name, app.prefix)
                info = events.read_info(query.get("info"))
                self._later(connection, request, lambda: self._channel(app, name, info))
            case ["channels", name, "users"]:
                _only(request, "GET")
                if not kind_of(names.check(name, app.prefix)).presence:
                    raise Invalid(f"{name!r} is no presence channel: only these have users")
                self._later(connection, request, lambda: self._users(app, name))
            case ["connections"]:
                _only(request, "GET")
                self._later(connection, request, lambda: self._connections(app))
            case _:
                raise NotFound("there is no such path in the HTTP API")

    def _later(self, connection: Connection, request: Request, work: Work) -> None:
        """Answer with what ``work`` returns, which waits for other workers."""

        def serve(connection: Connection, request: Request) -> Answer:
            outcome = attempt("a request", work)
            return _refused(outcome) if isinstance(outcome, Refusal) else Json(200, dumps(outcome))

        self._gateway.door.serve_waiting(connection, request, serve)

    # Publishing.

    def _publish(
        self, connection: Connection, request: Request, app: OpenApp, published: list[Event], *, one: bool
    ) -> None:  # fmt: skip
        """Publish events, all or none, and answer then; ``one``: the request was for one, and not for a batch."""
        gateway = self._gateway
        groups = [[message] for event in published for message in event.messages(app.prefix)]
        channels = [group[0].channel for group in groups]
        key = request.fields.get("idempotency-key")
        for group in groups:
            app.signed.check("publish", group[0].channel)
            check_message(group[0], gateway.limits.max_message)
        if key is not None:
            check_key(key, all([gateway.router.keeps(channel) for channel in channels]))
        if gateway.rates.on:
            gateway.rates.publish(client.account(connection), Counter(channels).items())
        if any([event.info for event in published]):

            def work() -> Mapping[str, Any]:
                self._wait(groups, key)
                return self._told(app, published, one=one)

            self._later(connection, request, work)
            return

        def done(outcome: list[list[Cursor]] | Refusal) -> None:
            told = _refused(outcome) if isinstance(outcome, Refusal) else _DONE
            gateway.door.serve(connection, request, lambda *_: told)
            gateway.door.go_on(connection)

        gateway.router.publisher.publish(*groups, key=key, done=done)
        connection.state = SERVING

    def _wait(self, groups: list[list[Message]], key: str | None) -> None:
        """Publish, and wait until that is done; raises a refusal."""
        outcome: AsyncResult[list[list[Cursor]] | Refusal] = AsyncResult()
        self._gateway.router.publisher.publish(*groups, key=key, done=outcome.set)
        found = outcome.get()
        if isinstance(found, Refusal):
            raise found

    def _told(self, app: OpenApp, published: list[Event], *, one: bool) -> dict[str, Any]:
        """What was asked about the channels of events, once these are published."""
        asked = [(event, name) for event in published for name in event.channels]
        rows = _together([partial(self._about, app, name, event.info) for event, name in asked])
        if one:
            return {"channels": {name: row for (_, name), row in zip(asked, rows, strict=True)}}
        return {"batch": rows}

    # Channels.

    def _channels(self, app: OpenApp, query: Mapping[str, str]) -> Work:
        """What answers with the channels that somebody subscribes to. Raises Invalid."""
        begin, info = query.get("filter_by_prefix", ""), events.read_info(query.get("info"), ("user_count",))
        if info and not begin.startswith("presence-"):
            raise Invalid("user_count is for presence channels: ask for those, by filter_by_prefix=presence-")

        def work() -> Mapping[str, Any]:
            found = self._occupied(app, begin)
            rows: list[dict[str, Any]] = [{} for _ in found]
            if info:
                rows = _together([partial(self._about, app, name, info) for name in found])
            return {"channels": dict(zip(found, rows, strict=True))}

        return work

    def _occupied(self, app: OpenApp, begin: str) -> list[str]:
        """The names of an app's channels, which begin so, that somebody subscribes to."""
        found: list[str] = []
        after: str | None = ""
        while after is not None and len(found) < MAX_CHANNELS:
            page = self._census.page(app.prefix + begin, after)
            found += [full[len(app.prefix) :] for full in page["channels"]]
            after = page.get("next")
        return [name for name in found if names.is_listed(name)]

    def _channel(self, app: OpenApp, name: str, info: tuple[str, ...]) -> dict[str, Any]:
        if "user_count" in info and not kind_of(name).presence:
            raise Invalid("user_count is for presence channels")
        count = self._census.row(app.prefix + name)["subscribers"]
        return {"occupied": count > 0, **self._about(app, name, info, count)}

    def _about(self, app: OpenApp, name: str, info: tuple[str, ...], count: int | None = None) -> dict[str, Any]:
        """What is asked about a channel; ``count`` is the number of its subscribers, if that is known."""
        found: dict[str, Any] = {}
        if "subscription_count" in info:
            found["subscription_count"] = self._census.row(app.prefix + name)["subscribers"] if count is None else count
        if "user_count" in info and kind_of(name).presence:
            found["user_count"] = self._members(app, name)["count"]
        if "cache" in info and kind_of(name).cached:
            found["cache"] = self._cached(app.prefix + name)
        return found

    def _members(self, app: OpenApp, name: str) -> dict[str, Any]:
        told: dict[str, Any] = ujson.loads(self._gateway.presence.of(app.prefix + name))
        return told

    def _users(self, app: OpenApp, name: str) -> dict[str, Any]:
        return {"users": [{"id": row["sub"]} for row in self._members(app, name)["members"] or ()]}

    def _cached(self, channel: str) -> dict[str, Any] | None:
        """The last event of a channel, and the seconds for which it is kept; None: there is none."""
        router = self._gateway.router
        if router.history is None or router.channels is None or not router.keeps(channel):
            return None
        page = router.history.before(channel, None, 1)
        messages = page.messages(channel)
        if not messages or messages[-1].is_empty_end:
            return None
        last, options = messages[-1], router.channels.of(channel)
        left = last.published / 1e6 + max(options.history_ttl, options.retain) - time.time()
        return {"data": last.payload.decode("utf-8", "replace"), "ttl": max(0, round(left))}

    # Connections.

    def _terminate(self, connection: Connection, app: OpenApp, user: str) -> dict[str, Any]:
        """End the connections of a user, on all nodes."""
        subject = app.subject(user)
        self._gateway.revoking.disconnect(Disconnect(subject, None))
        client.done(connection, "disconnect", sub=subject)
        return {}

    def _connections(self, app: OpenApp) -> dict[str, Any]:
        """The number of the app's clients on all nodes."""
        (counts,) = self._ask_connections([app.app.id])
        return {"connections": sum([count for count in counts if isinstance(count, int)])}

    def _connections_here(self, id: Any) -> int:
        app = self._apps.get(str(id))
        sessions = [connection.session for connection in list(self._gateway.door.connections)]
        return sum([isinstance(session, PusherSocket) and session.app is app for session in sessions])


def _together(work: Sequence[Callable[[], dict[str, Any]]]) -> list[dict[str, Any]]:
    """Do all, some at once, since each waits for other workers. Raises the first refusal."""
    found: list[dict[str, Any]] = []
    for at in range(0, len(work), _AT_ONCE):
        running = [gevent.spawn(attempt, "a question", each) for each in work[at : at + _AT_ONCE]]
        gevent.joinall(running)
        for each in running:
            if isinstance(each.value, Refusal):
                raise each.value
            found.append(each.value)
    return found


def _only(request: Request, method: str) -> None:
    """Raise HttpError 405 for another method."""
    if request.method != method:
        raise HttpError(405, f"use {method}", headers={"Allow": method})


def _body(request: Request) -> Any:
    return strict_json.value(request.raw_body, most=strict_json.MAX_SLOW)


def _refused(refusal: Refusal) -> Json:
    """The answer of a request that is refused, which libraries show as it is."""
    fields = tuple(refusal.headers.items()) if isinstance(refusal, HttpError) else ()
    if isinstance(refusal, TooFast):
        fields = (("Retry-After", str(int(retry_after(refusal)) + 1)),)
    elif refusal.status == 503:
        fields = (("Retry-After", "1"),)
    return Json(refusal.status, dumps({"error": refusal.detail}), fields)
