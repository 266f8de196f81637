"""Requests as the audit log has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import webob

from raiden.connections import client
from raiden.connections.connection import Connection
from raiden.http import parameters
from raiden.model.names import InvalidChannel, unquote
from raiden.model.refusals import Refusal
from raiden.protocols.http import Json, Request

Answer: TypeAlias = "webob.Response | Json"

_ACTIONS = {"POST": "publish", "DELETE": "delete"}


def asked(request: Request) -> tuple[str, str]:
    """The action that a request asks for, and the channel or channels, also of a request that is not read further; of a
    page below ``/-/`` its path. Nothing of the query but channels."""
    method, path = request.method, request.environ["raiden.path"]
    if not path.startswith("/-/"):
        return _ACTIONS.get(method, "subscribe"), _name(path[1:])
    own = path[3:]
    if own in ("publish", "revoke", "disconnect"):
        return own, ""
    if own in ("subscribe", "websocket"):
        return "subscribe", _names(request)
    if own.startswith("channels/") and own.endswith("/history"):
        return "history", _name(own[len("channels/") : -len("/history")])
    return "manage", path


def managed(
    work: Callable[[], Answer], action: str, channel: str = "", **more: str | None
) -> Callable[[Connection, Request], Answer]:
    """The same work, for a manager's request: the audit log hears of it, also where it was done in part."""

    def serve(connection: Connection, _: Request) -> Answer:
        try:
            answer = work()
        except Refusal as refusal:
            client.done(connection, action, channel, outcome=refusal.status, reason=refusal.detail, **more)
            raise
        client.done(connection, action, channel, **more)
        return answer

    return serve


def _names(request: Request) -> str:
    try:
        return ", ".join(value for key, value in parameters.query_pairs(request) if key == "channel")
    except Refusal:
        return ""


def _name(text: str) -> str:
    try:
        return unquote(text)
    except InvalidChannel:
        return text
