"""Signatures: what an application signs with its secret (HMAC-SHA256), as the protocol's "auth signatures" have it.
Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from raiden.model.refusals import Invalid, Unauthorized

# Seconds by which the clock of a server that calls the HTTP API may be wrong.
LEEWAY: Final = 600.0


def signature(secret: str, text: str) -> str:
    """The signature of a text, in lower-case hexadecimal digits."""
    return hmac.new(secret.encode(), text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def of_subscription(secret: str, socket_id: str, channel: str, channel_data: str | None) -> str:
    """The signature that lets a connection subscribe to a channel; with ``channel_data``, also to what that says."""
    told = "" if channel_data is None else f":{channel_data}"
    return signature(secret, f"{socket_id}:{channel}{told}")


def of_signin(secret: str, socket_id: str, user_data: str) -> str:
    """The signature that lets a connection sign in as a user."""
    return signature(secret, f"{socket_id}::user::{user_data}")


def is_signed(auth: object, key: str, expected: str) -> bool:
    """Whether ``auth`` is the app's key and the expected signature, as in ``KEY:HEX``."""
    return isinstance(auth, str) and equal(auth, f"{key}:{expected}")


def equal(given: str, expected: str) -> bool:
    """Whether two texts are equal, found out in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())


def of_request(secret: str, method: str, path: str, query: Mapping[str, str]) -> str:
    """The signature of a request for a path as it was sent, without its query, with these decoded parameters."""
    told = sorted((name.lower(), value) for name, value in query.items() if name.lower() != "auth_signature")
    return signature(secret, "\n".join([method, path, "&".join([f"{name}={value}" for name, value in told])]))


def check_request(
    key: str, secret: str, method: str, path: str, queries: tuple[Mapping[str, str], ...], body: bytes, now: float
) -> None:  # fmt: skip
    """Raise Unauthorized unless a request to the HTTP API is signed. ``queries`` are the ways in which its query can be
    read: a ``+`` is a space to some libraries, and itself to others."""
    query = queries[0]
    if query.get("auth_key") != key:
        raise Unauthorized("auth_key is not the key of this app")
    if query.get("auth_version") != "1.0":
        raise Unauthorized("auth_version must be 1.0")
    stamp = query.get("auth_timestamp", "")
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) < 16):
        raise Unauthorized("auth_timestamp is the Unix time in seconds")
    if abs(int(stamp) - now) > LEEWAY:
        raise Unauthorized(f"auth_timestamp differs from the time here by more than {LEEWAY:g} s: look at the clocks")
    given = query.get("auth_signature", "")
    if not any([equal(given, of_request(secret, method, path, each)) for each in queries]):
        raise Unauthorized("auth_signature is not the one of this request: is it signed with the secret of this app?")
    digest = query.get("body_md5")
    if digest is None and body:
        raise Unauthorized("body_md5, the MD5 of the body, is missing")
    if digest is not None and not equal(digest, hashlib.md5(body, usedforsecurity=False).hexdigest()):
        raise Unauthorized("body_md5 is not the MD5 of the body")


def read_query(text: str) -> tuple[dict[str, str], ...]:
    """The ways in which a query can be read: with ``+`` as a space; and, where there is any, with ``+`` as itself.
    Raises Invalid for one that is no UTF-8, or has a parameter twice."""
    if "+" in text:
        return _read(text.replace("+", " ")), _read(text)
    return (_read(text),)


def _read(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in text.split("&"):
        if not part:
            continue
        name, _, value = part.partition("=")
        try:
            key = unquote_to_bytes(name.encode("latin-1")).decode().lower()
            told = unquote_to_bytes(value.encode("latin-1")).decode()
        except UnicodeDecodeError:
            raise Invalid("the query is not UTF-8") from None
        if key in found:
            raise Invalid(f"{key[:100]!r} is there twice in the query")
        found[key] = told
    return found
