"""Tokens of connections and of subscriptions, which the application signs (centrifugo:
internal/jwtverify/token_verifier_jwt.go)."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from msgspec import Raw

from raiden.access.clients import Client
from raiden.access.permit import Permit, Permits
from raiden.access.tokens import MAX_INFO, EarlyToken, ExpiredToken, InvalidToken
from raiden.dialects.centrifuge.codes import INVALID_TOKEN, TOKEN_EXPIRED, Denied, Disconnected, Failed
from raiden.dialects.centrifuge.messages import EMPTY
from raiden.model.encoding import dumps
from raiden.model.names import InvalidChannel, check_channel
from raiden.model.strict_json import InvalidPayload, json_payload

# Server-side subscriptions of one token.
MAX_CHANNELS: Final = 1000


class Granted(NamedTuple):
    """What a token says of a subscription. ``info`` is shown to others, ``data`` is told the client; ``expires`` is a
    Unix time (None: never). ``join_leave``: the client is told of joins and leaves (None: the token does not say).
    ``client`` is the one that the subscription's own token names (None: it has none)."""

    info: Raw = EMPTY
    data: Raw = EMPTY
    expires: float | None = None
    join_leave: bool | None = None
    client: Client | None = None


NOTHING: Final = Granted()


class Identity(NamedTuple):
    """The client of a connection: its ``user`` ("": nobody knows), its ``info``, the Unix time at which its connection
    ``expires`` (None: never), and the subscriptions that it has without asking."""

    permit: Permit
    user: str = ""
    info: Raw = EMPTY
    expires: float | None = None
    channels: Mapping[str, Granted] = {}


def connected(permits: Permits, token: str) -> Identity:
    """The client that the token of a connection names. Raises Disconnected for a token that is not good; Failed for
    one that has expired; Unavailable."""
    try:
        claims = permits.claims(token)
        if "channel" in claims:  # it is a subscription's
            raise InvalidToken("it is not a connection's")
        info = _data(claims, "info")
        permit = _permit(permits, claims)
        channels = _channels(claims)
        expires = _expires(claims)
    except (EarlyToken, ExpiredToken):
        raise Failed(TOKEN_EXPIRED) from None
    except InvalidToken:
        raise Disconnected(INVALID_TOKEN) from None
    return Identity(permit, permit.client.subject or "", info, expires, channels)


def subscribed(permits: Permits, token: str, channel: str, user: str, client: str) -> Granted:
    """What the token of a subscription grants to a client. Raises Failed, Disconnected for a token of another channel,
    user or client, and Unavailable."""
    try:
        claims = permits.claims(token)
        holder = _permit(permits, claims).client
        if not isinstance(claims.get("channel"), str) or not claims["channel"]:
            raise Denied("subscribe", channel)
        if claims["channel"] != channel or claims.get("sub", "") != user or claims.get("client", client) != client:
            raise Disconnected(INVALID_TOKEN)
        return _granted(claims)._replace(expires=_expires(claims), client=holder)
    except (EarlyToken, ExpiredToken):
        raise Failed(TOKEN_EXPIRED) from None
    except InvalidToken:
        raise Denied("subscribe", channel) from None


def _permit(permits: Permits, claims: Mapping[str, Any]) -> Permit:
    """The permit of a token that claims this; an empty subject is none. Raises InvalidToken and Unavailable."""
    return permits.of_claims({name: value for name, value in claims.items() if (name, value) != ("sub", "")})


def ttl(expires: float) -> int:
    """The whole seconds until a Unix time, at least one."""
    return max(1, round(expires - time.time()))


def _expires(claims: Mapping[str, Any]) -> float | None:
    """When what the token is for expires."""
    at = claims.get("expire_at", claims.get("exp"))
    if at is None or at == 0:
        return None
    if isinstance(at, bool) or not isinstance(at, int | float) or not 0 < at < 1e12:
        raise InvalidToken("its expire_at is no time")
    return float(at)


def _channels(claims: Mapping[str, Any]) -> dict[str, Granted]:
    listed, named = claims.get("channels") or [], claims.get("subs") or {}
    if not isinstance(listed, list) or not isinstance(named, dict) or len(listed) + len(named) > MAX_CHANNELS:
        raise InvalidToken("its channels are no list, or its subs no object, or they are too many")
    found = {name: _granted(options) for name, options in named.items()}
    for name in listed:
        if not isinstance(name, str):
            raise InvalidToken("its channels are no texts")
        found.setdefault(name, NOTHING)
    try:
        for name in found:
            check_channel(name)
    except InvalidChannel as error:
        raise InvalidToken(str(error)) from None
    return found


def _granted(options: Any) -> Granted:
    if not isinstance(options, dict):
        raise InvalidToken("the options of a subscription are no object")
    override = options.get("override")
    forced = override.get("force_push_join_leave") if isinstance(override, dict) else None
    join_leave = forced.get("value") if isinstance(forced, dict) else None
    return Granted(
        _data(options, "info"), _data(options, "data"), None, join_leave if isinstance(join_leave, bool) else None
    )


def _data(claims: Mapping[str, Any], name: str) -> Raw:
    """Any JSON of a claim, or of one in base64 that goes before it: then bytes that are no JSON stand in an object."""
    text = claims.get(f"b64{name}")
    if isinstance(text, str) and text:
        try:
            body = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise InvalidToken(f"its b64{name} is no base64") from None
        if len(body) > MAX_INFO:
            raise InvalidToken(f"its b64{name} has more than {MAX_INFO} bytes")
        return as_json(body)
    value = claims.get(name)
    if value is None:
        return EMPTY
    data = dumps(value, "replace")
    if len(data) > MAX_INFO:
        raise InvalidToken(f"its {name} has more than {MAX_INFO} bytes")
    return Raw(data)


def as_json(body: bytes) -> Raw:
    """Bytes that should be JSON, for clients of both kinds."""
    if not body:
        return EMPTY
    try:
        return Raw(json_payload(body))
    except InvalidPayload:
        return Raw(b'{"base64":"%b"}' % base64.b64encode(body))
