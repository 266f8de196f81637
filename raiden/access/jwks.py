"""Sets of public keys at a URL (JWKS, RFC 7517 section 5), as identity providers publish them.

A set is fetched in a thread, when it is first needed and when a token names a key that is not in it, but at most once
in `EVERY` seconds. What was fetched stays good while the URL does not answer.
"""

from __future__ import annotations

import http.client
import json
import logging
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import gevent

from raiden.access.tokens import MAX_SUBJECT, Key
from raiden.model.refusals import Unavailable

log = logging.getLogger(__name__)

# Seconds between two times that a set is fetched, and for an answer; bytes of a set, and keys in it.
EVERY: Final = 60.0
TIMEOUT: Final = 5.0
MAX_BYTES: Final = 1 << 18
MAX_KEYS: Final = 100
# The algorithm of a key that names none, by its type and curve (RFC 7518 section 6, RFC 8037).
_ALGORITHMS: dict[Any, str] = {
    ("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("EC", "P-384"): "ES384", ("EC", "P-521"): "ES512",
    ("OKP", "Ed25519"): "EdDSA",
}  # fmt: skip
_PUBLIC = frozenset({"RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA"})


class KeysAway(Unavailable):
    """The set of keys is being fetched, or could not be: try again."""


class KeySet:
    """The keys at ``url``. ``fetch`` gets the bytes there; it is called in a thread."""

    def __init__(self, url: str, fetch: Callable[[str], bytes] | None = None) -> None:
        self.url = url
        self._fetch = fetch or _get
        self._keys: list[Key] | None = None
        self._fetched = -EVERY  # monotonic
        self._fetching = False

    def of(self, kid: Any) -> list[Key]:
        """The keys that a token with this kid (None: it has none) may be signed by. Raises KeysAway where they are not
        known yet."""
        if self._keys is None or (kid is not None and not any(key.kid == kid for key in self._keys)):
            if self._fetching or time.monotonic() - self._fetched >= EVERY:
                self._begin()
                raise KeysAway("the keys of tokens are being fetched: try again")
            if self._keys is None:
                raise KeysAway("the keys of tokens can't be fetched now: try again later")
        return [key for key in self._keys if kid is None or key.kid == kid]

    def _begin(self) -> None:
        if not self._fetching:
            self._fetching = True
            self._fetched = time.monotonic()
            gevent.spawn(self._work)

    def _work(self) -> None:
        try:
            data: bytes = gevent.get_hub().threadpool.apply(self._fetch, (self.url,))
            self._keys = read(data)
        except (OSError, ValueError, http.client.HTTPException) as error:
            log.error("keys of tokens were not fetched", extra={"url": self.url, "reason": str(error)[:200]})
        finally:
            self._fetching = False


def read(data: bytes) -> list[Key]:
    """The public keys in a set. Keys that are not for signatures, or not of a known kind, are left out (RFC 7517
    section 5). Raises ValueError."""
    try:
        found = json.loads(data)
        rows = found["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError('it is no set of keys, like {"keys": [...]}') from None
    if not isinstance(rows, list) or len(rows) > MAX_KEYS:
        raise ValueError(f"it has no list of at most {MAX_KEYS} keys")
    return [key for row in rows if (key := _key(row)) is not None]


def _key(row: Any) -> Key | None:
    if not isinstance(row, Mapping) or row.get("use", "sig") != "sig":
        return None
    algorithm = row.get("alg") or _ALGORITHMS.get((row.get("kty"), row.get("crv")))
    kid = row.get("kid", "")
    if algorithm not in _PUBLIC or not isinstance(kid, str) or len(kid) > MAX_SUBJECT:
        return None
    # As in `raiden.access.tokens`, only where there are keys.
    import jwt

    try:
        # A set has public keys; of one that has its secret as well, the public half is enough.
        made = jwt.PyJWK({name: value for name, value in row.items() if name not in _SECRET}, algorithm)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    return Key(algorithm, kid, made.key, False)


_SECRET = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _get(url: str) -> bytes:
    """The bytes at a URL; raises OSError, ValueError and HTTPException. No redirect is followed."""
    opener = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))
    until = time.monotonic() + TIMEOUT
    with opener.open(url, timeout=TIMEOUT) as answer:
        data = b""
        while piece := answer.read1(65536):
            data += piece
            if len(data) > MAX_BYTES or time.monotonic() > until:
                raise ValueError(f"its answer has more than {MAX_BYTES} bytes, or takes more than {TIMEOUT:g} s")
        return data


def known(sets: Sequence[KeySet], kid: Any) -> list[Key]:
    """The keys of all sets that a token with this kid may be signed by."""
    return [key for each in sets for key in each.of(kid)]
