"""CURVE keys (RFC 26 of ZeroMQ), as Z85 (RFC 32), by which nodes and ZeroMQ clients know each other.

A node keeps its secret key in a file that only its user may read. The other nodes list its public key, which follows
from the secret key.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import zmq
from zmq.utils import z85

KEY_BYTES = 32


class InvalidKey(Exception):
    """A key can't be used; the text says which key, and what to do."""


class Keys(NamedTuple):
    """A node's own key pair and the public keys of all nodes that it deals with, each as Z85."""

    public: bytes
    secret: bytes
    allowed: frozenset[bytes]


def generate(path: Path) -> str:
    """Write a new secret key to ``path`` and return its public key; raises InvalidKey rather than overwrite a file."""
    public, secret = zmq.curve_keypair()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InvalidKey(f"{path} is there already: a node keeps its key; name another file") from None
    except OSError as error:
        raise InvalidKey(f"cannot write {path}: {error.strerror}") from None
    with os.fdopen(file, "wb") as key:
        key.write(secret + b"\n")
    return public.decode()


def load(path: Path, allowed: list[str]) -> Keys:
    """A node's keys: the pair whose secret is in ``path``, and those of others; raises InvalidKey."""
    secret = load_secret("node_key", path)
    public = zmq.curve_public(secret)
    return Keys(public, secret, frozenset({public, *(key.encode() for key in allowed)}))


def load_secret(setting: str, path: Path) -> bytes:
    """The secret key, as Z85, in a file that the setting names; raises InvalidKey for a file that holds none."""
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise InvalidKey(f"{setting}: cannot read {path}: {error.strerror}; 'raiden keygen' makes one") from None
    if not is_key(secret):
        raise InvalidKey(f"{setting}: {path} holds no key: make one with 'raiden keygen'")
    return secret


def is_key(text: bytes) -> bool:
    """Whether the text is a key in Z85."""
    try:
        return len(text) == KEY_BYTES * 5 // 4 and len(z85.decode(text)) == KEY_BYTES
    except (ValueError, KeyError):
        return False
