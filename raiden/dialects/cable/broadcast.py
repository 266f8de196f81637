"""What an application sends by HTTP: messages to publish, and clients to disconnect. Pure."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from raiden.http import headers
from raiden.model import strict_json
from raiden.model.attributes import Attributes
from raiden.model.message import Kind, Message
from raiden.model.names import InvalidChannel, check_channel
from raiden.model.payload import check_size
from raiden.model.refusals import TooLarge, Unauthorized
from raiden.model.strict_json import InvalidPayload, json_payload
from raiden.protocols.http import HttpError, Request

# The digits of a connection's id, with which that of its session begins (`raiden.delivery.connection_ids`).
_CONNECTION: Final = 30
_FORMS = 'send {"stream", "data"}, a list of these, or {"command": "disconnect", "payload": {"identifier"}}'


class Remote(NamedTuple):
    """Disconnect all clients with these identifiers, which are to come back or not."""

    identifiers: str
    reconnect: bool


Broadcast: TypeAlias = "list[Message] | Remote"


def check_key(request: Request, keys: Sequence[bytes]) -> None:
    """Raise Unauthorized unless the request has one of the keys."""
    scheme, _, key = request.fields.get("authorization", "").partition(" ")
    told = key.strip().encode()
    if scheme.lower() != "bearer" or not any([hmac.compare_digest(told, each) for each in keys]):
        raise Unauthorized("send the broadcast key as Authorization: Bearer KEY")


def read(request: Request, *, max_batch: int, max_message: int) -> Broadcast:
    """Read what a request asks for. Raises HttpError 422, which says what is wrong, and TooLarge."""
    if request.method != "POST":
        raise HttpError(405, f"use POST: {_FORMS}", headers={"Allow": "POST"})
    if headers.is_of_another_site(request):
        raise HttpError(403, "pages may not broadcast")
    try:
        asked = strict_json.value(request.raw_body, most=strict_json.MAX_SLOW)
    except InvalidPayload as error:
        raise HttpError(422, f"the body is not JSON: {error}") from None
    if isinstance(asked, list):
        if len(asked) > max_batch:
            raise TooLarge(f"{len(asked)} messages in one request: send at most {max_batch} (max_batch)")
        return [each for one in asked if (each := _message(one, max_message)) is not None]
    if isinstance(asked, dict) and "command" in asked:
        return _remote(asked)
    found = _message(asked, max_message)
    return [] if found is None else [found]


def _remote(asked: dict[str, Any]) -> Remote:
    told: Any = asked.get("payload")
    told = told if isinstance(told, dict) else {}
    identifiers = told.get("identifier")
    if asked["command"] != "disconnect" or not isinstance(identifiers, str) or not identifiers:
        raise HttpError(422, f"no command that is known here: {_FORMS}")
    return Remote(identifiers, told.get("reconnect", True) is not False)


def _message(asked: Any, most: int) -> Message | None:
    """A message to publish; None for one that is between servers of AnyCable only."""
    stream, data = (asked.get("stream"), asked.get("data")) if isinstance(asked, dict) else (None, None)
    if not isinstance(stream, str) or not isinstance(data, str):
        raise HttpError(422, f"no message: {_FORMS}")
    try:
        channel = check_channel(stream)
    except InvalidChannel as error:
        raise HttpError(422, str(error)) from None
    meta = asked.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    if meta.get("broadcast_type") == "presence":
        return None
    payload = data.encode("utf-8", "replace")
    try:
        message = Message(channel, Kind.JSON, json_payload(payload))
    except InvalidPayload:
        message = Message(channel, Kind.TEXT, payload)
    check_size(message.kind, message.payload, most)
    excluded = meta.get("exclude_socket")
    if isinstance(excluded, str) and excluded.isascii():
        message.attributes = Attributes(excluded=excluded[:_CONNECTION])
    message.transient = meta.get("transient") is True
    return message
