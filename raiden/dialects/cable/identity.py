"""The client of a connection, by its token: a JSON Web Token that the application has signed with a secret of this
dialect's own. Its claim ``ext`` is a string, the connection's identifiers as the application writes them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from raiden.access.permit import Permit, Permits
from raiden.access.tokens import HMAC, ExpiredToken, InvalidToken, Key, Tokens
from raiden.http import parameters
from raiden.model.refusals import Refusal, Unauthorized, Unavailable
from raiden.protocols.http import Request
from raiden.protocols.websocket import subprotocols_of

# The beginning of a subprotocol that is a token.
_SUBPROTOCOL: Final = "anycable-token."


class Identity(NamedTuple):
    """A client: its permit (None: as anyone's), and its identifiers ("": it has none)."""

    permit: Permit | None = None
    identifiers: str = ""


class Identities:
    """The clients of requests. ``secrets`` sign their tokens ((): tokens are not looked at); ``parameter`` is the name
    of the query parameter with a token, and with ``X-`` before it that of the field. ``leeway`` is in seconds."""

    def __init__(
        self, permits: Permits, secrets: Sequence[bytes], *, required: bool, parameter: str, leeway: float
    ) -> None:  # fmt: skip
        self._permits = permits
        keys = [Key.of({"alg": name, "key": secret, "weak": True}) for secret in secrets for name in HMAC]
        self._tokens = Tokens(keys, leeway=leeway) if keys else None
        self._required = required
        self._parameter = parameter
        self._field = f"x-{parameter.lower()}"

    def of(self, request: Request) -> Identity:
        """The client of a request. Raises InvalidToken, Unauthorized where it shows none and must, and Unavailable
        where it is not known which tokens are revoked."""
        token = None if self._tokens is None else self._shown(request)
        if self._tokens is None or token is None:
            if self._required:
                raise Unauthorized("a token is needed to connect")
            return Identity()
        claims = self._tokens.claims(token)
        client = self._tokens.client_of(claims, time.time())
        identifiers = _identifiers(claims)
        if client.subject is None and identifiers:
            client = dataclasses.replace(client, name=identifiers, subject=identifiers)
        permit = self._permits.of_client(client)
        if not self._permits.revocations.known:
            raise Unavailable("it is not known yet which tokens are revoked: try again later")
        permit.check_still()
        return Identity(permit, identifiers)

    def _shown(self, request: Request) -> str | None:
        told = request.fields.get(self._field)
        if told:
            return told
        if request.query_string:
            told = dict(parameters.query_pairs(request)).get(self._parameter)
        if told:
            return told
        offered = subprotocols_of(request)
        return next((each.removeprefix(_SUBPROTOCOL) for each in offered if each.startswith(_SUBPROTOCOL)), None)


def _identifiers(claims: dict[str, Any]) -> str:
    told = claims.get("ext")
    if told is None:
        return ""
    if not isinstance(told, str):
        raise InvalidToken("its ext is no string")
    return told


def reason(refusal: Refusal) -> tuple[str, bool]:
    """The reason that a client is told why it may not connect, and whether it is to come back."""
    if refusal.status >= 500:
        return "server_restart", True
    return ("token_expired" if isinstance(refusal, ExpiredToken) else "unauthorized"), False
