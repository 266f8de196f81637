"""Tokens and keys for tests, made by PyJWT."""

from __future__ import annotations

import time
from typing import Any

import jwt

from raiden.access import api_keys

SECRET = "a secret of thirty-two bytes, yes"
OTHER = "another secret of thirty-two bytes"
KEY, _HASH = api_keys.make()
SMALL_KEY, _SMALL_HASH = api_keys.make()
ACTIONS = ("subscribe", "publish", "history", "presence", "request", "serve", "manage")


def on(*names: str) -> dict[str, Any]:
    """The permission to do all to these channels."""
    return {action: list(names) for action in ACTIONS}


JWT_KEYS = [{"alg": "HS256", "key": SECRET}]
API_KEYS = [
    {"name": "server", "sha256": _HASH, **on("*")},
    {"name": "small", "sha256": _SMALL_HASH, **on("elsewhere")},
]


def token(sub: str | None = "ann", *, secret: str = SECRET, lasts: float = 86400, **claims: Any) -> str:
    """A token; without further claims it permits all actions on all channels. Some are made when tests are collected,
    so it lasts for longer than all tests take."""
    claims = claims or on("*")
    claims = {"exp": time.time() + lasts, **({} if sub is None else {"sub": sub}), **claims}
    return jwt.encode(claims, secret, "HS256")


def bearer(credential: str | None) -> dict[str, str]:
    return {} if credential is None else {"Authorization": f"Bearer {credential}"}
