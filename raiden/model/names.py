"""Names: of channels, of patterns, and of durable subscriptions. Pure."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes

from raiden.model.refusals import Invalid

# Bytes of the name of a channel or a pattern, and of a durable subscription.
MAX_CHANNEL_BYTES, MAX_NAME = 255, 128


class InvalidChannel(Invalid):
    """The name can't be a channel's or a pattern's; the text says why."""


def check_channel(name: str) -> str:
    """Return the name if a message may be published to it, else raise InvalidChannel."""
    if name.endswith("*"):
        raise InvalidChannel("a name that ends in '*' is a pattern: name one channel, by its full name")
    return check_subscription(name)


def check_subscription(name: str) -> str:
    """Return the name of a channel or a pattern (``*`` at its end), else raise InvalidChannel."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidChannel("a channel's name must be valid Unicode, without lone surrogates") from None
    if not 1 <= size <= MAX_CHANNEL_BYTES:
        raise InvalidChannel(f"a channel's name has 1 to {MAX_CHANNEL_BYTES} bytes of UTF-8; this one has {size}")
    if has_controls(name):
        raise InvalidChannel("a channel's name may not contain control characters")
    if name.startswith("-/"):
        raise InvalidChannel("names that begin with '-/' are Raiden's own; choose another")
    return name


def has_controls(text: str) -> bool:
    """Whether a text has control characters (Unicode's category Cc)."""
    return not text.isprintable() and any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text)


def unquote(text: str) -> str:
    """Percent-decode strictly (RFC 3986 section 2.1): every ``%`` needs two hex digits, the result is UTF-8."""
    if "%" not in text:
        return text
    for part in text.split("%")[1:]:
        if len(part) < 2 or not all(c in "0123456789abcdefABCDEF" for c in part[:2]):
            raise InvalidChannel("bad percent-encoding: '%' must be followed by two hex digits; write '%25' for itself")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise InvalidChannel("bad percent-encoding: the decoded bytes are not UTF-8") from None


def topic(name: str) -> bytes:
    """The topic, to which the backbone is subscribed, of a channel (``name NUL``) or of a pattern (its prefix)."""
    return name[:-1].encode() if name.endswith("*") else name.encode() + b"\0"


def check_durable(name: Any) -> str:
    """Return the name of a durable subscription if it may be one, else raise Invalid."""
    if not isinstance(name, str) or not 0 < len(name.encode("utf-8", "surrogatepass")) <= MAX_NAME:
        raise Invalid(f"durable is a name of 1 to {MAX_NAME} bytes, which consumers share")
    if not name.isprintable():
        raise Invalid("the name of a durable subscription must be printable")
    return name
