"""API keys, by which an application's servers come in. A node knows only their hashes. Pure."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from typing import Any, Final

from raiden.access.clients import Client, client

# The beginning of each key that is made here, by which programs that look for leaked secrets know it.
PREFIX: Final = "rdn_"
_SHA256 = re.compile("[0-9a-f]{64}")


def make() -> tuple[str, str]:
    """Make a key of 256 random bits; return it, and its hash for the settings."""
    key = PREFIX + secrets.token_urlsafe(32)
    return key, hash_of(key)


def hash_of(key: str) -> str:
    """The hash of a key. A key is random, so that a fast hash keeps it as safe as a slow one."""
    return hashlib.sha256(key.encode()).hexdigest()


def by_hash(keys: Sequence[Any]) -> dict[str, Client]:
    """The clients in the setting `api_keys`, by the hash of their key. Raises ValueError, which says what is wrong."""
    found: dict[str, Client] = {}
    for number, options in enumerate(keys, 1):
        made = client(f"key {number}", options, ("sha256",))
        digest = options.get("sha256")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise ValueError(f"sha256 of {made.name!r} is not a hash: make a key and its hash with 'raiden key'")
        if digest in found:
            raise ValueError(f"{made.name!r} and {found[digest].name!r} have the same key")
        found[digest] = made
    return found
