"""The stream that an identifier names, and the signatures of streams' names. Pure.

An identifier is JSON text: an object whose ``channel`` is one of three that are known here. A signed name is one of
Rails' MessageVerifier, with SHA-256 and JSON: ``base64(JSON) "--" hex(HMAC-SHA256(secret, base64))``. Several secrets
are good at once, so that they can be changed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from raiden.model import strict_json
from raiden.model.names import InvalidChannel, check_channel
from raiden.model.strict_json import InvalidPayload

# Bytes of an identifier. A signed name of 255 bytes takes some 600.
MAX_IDENTIFIER: Final = 2048
PUBSUB: Final = "$pubsub"
TURBO: Final = "Turbo::StreamsChannel"
CABLE_READY: Final = "CableReady::Stream"
# The member with the signed name, by the channel.
_SIGNED: Final = {PUBSUB: "signed_stream_name", TURBO: "signed_stream_name", CABLE_READY: "identifier"}


class Stream(NamedTuple):
    """A stream by its name, which is a Raiden channel's; ``is_signed``: the application has signed it."""

    name: str
    is_signed: bool


class Streams:
    """The streams of identifiers. ``secrets`` has those of each channel in `_SIGNED`."""

    def __init__(self, secrets: Mapping[str, Sequence[bytes]]) -> None:
        self._secrets = secrets

    def of(self, identifier: str) -> Stream | None:
        """The stream that an identifier names; None: there is none, or its signature is not good."""
        found = _members(identifier)
        kind = found.get("channel")
        if not isinstance(kind, str) or kind not in _SIGNED:
            return None
        member = _SIGNED[kind]
        signed, plain = found.get(member), found.get("stream_name") if kind == PUBSUB else None
        if signed is not None:
            name = verified(signed, self._secrets[kind]) if isinstance(signed, str) else None
        else:
            name = plain if isinstance(plain, str) else None
        if name is None:
            return None
        try:
            return Stream(check_channel(name), signed is not None)
        except InvalidChannel:
            return None


def unknown_class(identifier: str) -> str:
    """The channel class that an identifier names, if it is none that is known here; else ""."""
    kind = _members(identifier).get("channel")
    return kind if isinstance(kind, str) and kind not in _SIGNED else ""


def _members(identifier: str) -> dict[str, Any]:
    """The members of an identifier; none where it is no object."""
    if len(identifier) > MAX_IDENTIFIER:
        return {}
    try:
        found = strict_json.value(identifier.encode(), most=MAX_IDENTIFIER)
    except (InvalidPayload, UnicodeEncodeError):
        return {}
    return found if isinstance(found, dict) else {}


def verified(signed: str, secrets: Sequence[bytes]) -> str | None:
    """The name in a signed name; None where no secret has signed it, or where it is no string."""
    data, _, digest = signed.partition("--")
    if not (signed.isascii() and digest) or "--" in digest:
        return None
    written, told = data.encode(), digest.encode()
    if not any([hmac.compare_digest(_digest(secret, written), told) for secret in secrets]):
        return None
    try:
        name: Any = strict_json.value(base64.b64decode(written, validate=True))
    except (binascii.Error, InvalidPayload):
        return None
    return name if isinstance(name, str) else None


def _digest(secret: bytes, data: bytes) -> bytes:
    return hmac.digest(secret, data, hashlib.sha256).hex().encode()
