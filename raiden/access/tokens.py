"""Tokens: JSON Web Tokens (RFC 7519), signed by the application, which name a client and say what it may do.

A key fixes its algorithm, and a token's head must agree with it (RFC 8725 section 3.1). Of what the head says, only
``alg`` and ``kid`` are looked at; a head that tells where to find a key is refused.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hmac
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from raiden.access.clients import Client, Patterns
from raiden.model.encoding import dumps
from raiden.model.filters import Filters
from raiden.model.names import InvalidChannel, check_subscription
from raiden.model.options import ACTIONS
from raiden.model.refusals import Invalid, Unauthorized
from raiden.model.strict_json import is_unicode

if TYPE_CHECKING:
    from jwt.algorithms import Algorithm

# Bytes of a token, of its subject or id, and of its info.
MAX_TOKEN: Final = 8192
MAX_SUBJECT: Final = 255
MAX_INFO: Final = 4096
# Brackets in a token's head or claims.
_MAX_BRACKETS: Final = 1000
# Keys that are tried for a token without a kid.
MAX_KEYS: Final = 20
# The bytes of an HMAC key that its hash deserves (RFC 7518 section 3.2).
_HASHES = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}
HMAC = {"HS256": 32, "HS384": 48, "HS512": 64}
ALGORITHMS = (*HMAC, "RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA")
# Parameters of a head by which a token would choose its own key, or ask for what is not understood (RFC 7515 section
# 4.1).
_FOREIGN = ("crit", "jku", "jwk", "x5u", "x5c", "b64", "zip")
# Actions for which a token may have filters.
FILTERED = ("subscribe", "history")
_TEXTS: Final = frozenset({str})
_NUMBERS: Final = frozenset({int, float})
_JWT = re.compile(r"(([A-Za-z0-9_-]*)\.([A-Za-z0-9_-]*))\.([A-Za-z0-9_-]*)")


class InvalidToken(Unauthorized):
    """The token is not good; the text says why."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the token is not accepted: {why}", bad=True)


class ExpiredToken(InvalidToken):
    """The time of the token is over."""

    def __init__(self) -> None:
        super().__init__("its time is over: get another one")


class EarlyToken(InvalidToken):
    """The time of the token has not come yet."""

    def __init__(self) -> None:
        super().__init__("its time has not come yet")


@functools.cache
def _implemented() -> dict[str, Algorithm]:
    """The algorithms by name. They are imported where there is a key, for that takes 0.1 s and 10 MB."""
    from jwt.algorithms import get_default_algorithms

    return get_default_algorithms()


class Key(NamedTuple):
    """A key that signs tokens by one algorithm; ``kid`` is its name ("": it has none), ``key`` as PyJWT takes it.
    ``weak``: it is a secret that is shorter than its hash."""

    algorithm: str
    kid: str
    key: Any
    weak: bool

    @classmethod
    def of(cls, options: Any) -> Key:
        """A key of the setting `jwt_keys`. Raises ValueError, which says what is wrong, and never shows the key."""
        if not isinstance(options, Mapping):
            raise ValueError('each is a dict, like {"alg": "HS256", "key": "..."}')
        unknown = options.keys() - {"alg", "key", "file", "kid", "weak"}
        if unknown:
            raise ValueError(f"unknown option {min(map(str, unknown))!r}; there are alg, key, file, kid, weak")
        algorithm, kid = options.get("alg"), options.get("kid", "")
        if algorithm not in ALGORITHMS:
            raise ValueError(f"alg is one of {', '.join(ALGORITHMS)}, not {algorithm!r}")
        if not isinstance(kid, str) or len(kid) > MAX_SUBJECT:
            raise ValueError(f"kid is a string of at most {MAX_SUBJECT} characters")
        secret = _secret(options)
        least = HMAC.get(algorithm, 0)
        if len(secret) < least and options.get("weak") is not True:
            raise ValueError(
                f"the key of {algorithm} has {len(secret)} bytes, and needs {least}: make one with 'openssl rand -hex "
                f"{least}', or, where it is another server's, say \"weak\": True"
            )
        if algorithm not in HMAC and b"PRIVATE KEY-----" in secret:
            raise ValueError(f"the key of {algorithm} is private: 'openssl pkey -in FILE -pubout' makes a public one")
        try:
            return cls(algorithm, kid, _implemented()[algorithm].prepare_key(secret), len(secret) < least)
        except Exception:  # each algorithm raises its own
            raise ValueError(f"the key of {algorithm} can't be read: {_FORMS.get(algorithm, _PEM)}") from None

    def signed(self, data: bytes, signature: bytes) -> bool:
        if self.algorithm in HMAC:  # as PyJWT does it, in a third of the time: each client has a token of its own
            return hmac.compare_digest(hmac.digest(self.key, data, _HASHES[self.algorithm]), signature)
        return _implemented()[self.algorithm].verify(data, self.key, signature)


_PEM = "it is a public key in PEM"
_FORMS = dict.fromkeys(HMAC, "it is a secret of its own, not a public key in PEM")


def _secret(options: Mapping[str, Any]) -> bytes:
    if ("key" in options) == ("file" in options):
        raise ValueError("give the key itself as key, or the path of a file with it as file")
    if "file" in options:
        try:
            return Path(str(options["file"])).read_bytes().strip()
        except OSError as error:
            raise ValueError(f"cannot read {options['file']}: {error.strerror}") from None
    key = options["key"]
    if not isinstance(key, str | bytes) or not key:
        raise ValueError("key is a string")
    return key.encode() if isinstance(key, str) else key


class Tokens:
    """The verifier of tokens that one of ``keys`` has signed, or of those that ``elsewhere`` gives for a kid (None: a
    token without one). ``audience`` and ``issuer`` must be in them, if set;
    their times are taken with ``leeway`` seconds."""

    def __init__(
        self, keys: Sequence[Key], elsewhere: Callable[[Any], list[Key]] | None = None, *,
        audience: str | None = None, issuer: str | None = None, leeway: float = 10.0,
    ) -> None:  # fmt: skip
        self._keys = keys
        self._elsewhere = elsewhere
        self._audience = audience
        self._issuer = issuer
        self._leeway = leeway

    def client(self, token: str, now: float) -> Client:
        """The client that a token names, at the Unix time ``now``; raises InvalidToken."""
        return self.client_of(self.claims(token), now)

    def claims(self, token: str) -> dict[str, Any]:
        """What a token claims, whose signature is good; its times are not looked at. Raises InvalidToken."""
        if len(token) > MAX_TOKEN:
            raise InvalidToken(f"it has {len(token)} bytes, and may have {MAX_TOKEN}")
        parts = _JWT.fullmatch(token)
        if parts is None:
            raise InvalidToken("it is no JSON Web Token, three parts of base64url with dots between them")
        signed, head, claims, signature = parts.groups()
        self._check_signature(*_head(head), signed.encode(), _decoded(signature))
        return _object(_decoded(claims), "what it claims")

    def _check_signature(self, algorithm: str, kid: Any, data: bytes, signature: bytes) -> None:
        keys = [key for key in self._keys if kid is None or key.kid in ("", kid)]
        if not keys and self._elsewhere is not None:
            keys = self._elsewhere(kid)
        if not keys:
            raise InvalidToken(f"its kid is {_short(kid)}, and no key has that")
        keys = [key for key in keys if key.algorithm == algorithm]
        if not keys:
            raise InvalidToken(f"its algorithm is {algorithm}, and no such key is for that")
        if not any(key.signed(data, signature) for key in keys[:MAX_KEYS]):
            raise InvalidToken("its signature is not of a key that is known here")

    def check(self, claims: Mapping[str, Any], now: float) -> None:
        """Raise InvalidToken for claims of another time (`ExpiredToken`, `EarlyToken`), or for another audience or
        issuer."""
        expires, begins = _time(claims, "exp"), _time(claims, "nbf")
        if expires is not None and now >= expires + self._leeway:
            raise ExpiredToken()
        if begins is not None and now < begins - self._leeway:
            raise EarlyToken()
        self._check_names(claims)

    def client_of(self, claims: Mapping[str, Any], now: float) -> Client:
        """The client that claims name, at the Unix time ``now``; raises as `check`."""
        self.check(claims, now)
        expires = _time(claims, "exp")
        subject, info = _text(claims, "sub"), claims.get("info")
        if info is not None and len(dumps(info)) > MAX_INFO:
            raise InvalidToken(f"its info has more than {MAX_INFO} bytes")
        allowed = {action: _patterns(claims, action, subject) for action in ACTIONS if action in claims}
        filtered = {action: _filtered(claims, action, subject) for action in FILTERED if action in claims}
        if "subscribe" in allowed:
            allowed.setdefault("history", allowed["subscribe"])
            filtered.setdefault("history", filtered["subscribe"])
        return Client(
            "a client without a subject" if subject is None else subject, allowed,
            {action: found for action, found in filtered.items() if found}, credential="token",
            subject=subject, id=_text(claims, "jti"), issued=_time(claims, "iat"),
            expires=None if expires is None else expires + self._leeway, info=info,
        )  # fmt: skip

    def _check_names(self, claims: Mapping[str, Any]) -> None:
        audiences = claims.get("aud")
        listed = audiences if isinstance(audiences, list) else [audiences]
        if self._audience is not None and self._audience not in listed:
            raise InvalidToken("it is for another audience")
        if self._issuer is not None and claims.get("iss") != self._issuer:
            raise InvalidToken("it is of another issuer")


@functools.lru_cache(100)
def _head(part: str) -> tuple[str, Any]:
    """The algorithm and the kid in the head of a token, which most tokens have in common; raises InvalidToken."""
    head = _object(_decoded(part), "its head")
    foreign = [name for name in _FOREIGN if name in head]
    if foreign:
        raise InvalidToken(f"its head has {foreign[0]!r}, which is not understood")
    algorithm = head.get("alg")
    if algorithm not in ALGORITHMS:
        raise InvalidToken(f"its algorithm is {_short(algorithm)}, none of {', '.join(ALGORITHMS)}")
    return algorithm, head.get("kid")


def _decoded(part: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except (binascii.Error, ValueError):
        raise InvalidToken("a part of it is no base64url") from None


def _object(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object, none of whose members comes twice; raises InvalidToken."""
    try:
        if data.count(b"[") + data.count(b"{") > _MAX_BRACKETS:
            raise ValueError
        found = _DECODER.decode(data.decode())
    except (ValueError, RecursionError):
        raise InvalidToken(f"{what} is no JSON object, or has a member twice") from None
    if not isinstance(found, dict):
        raise InvalidToken(f"{what} is no JSON object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _no_constant(name: str) -> None:
    raise ValueError(name)


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant)


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if type(value) not in _NUMBERS or not -1e12 <= value <= 1e12:  # NaN is no number of these either
        raise InvalidToken(f"its {name} is no time: seconds since 1970")
    return float(value)


def _text(claims: Mapping[str, Any], name: str) -> str | None:
    value = claims.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not is_unicode(value) or not 0 < len(value.encode()) <= MAX_SUBJECT:
        raise InvalidToken(f"its {name} is no string of 1 to {MAX_SUBJECT} bytes")
    return value


def _patterns(claims: Mapping[str, Any], action: str, subject: str | None) -> Patterns:
    """The channels that a claim lists without filters."""
    listed = claims[action]
    if not isinstance(listed, list):
        raise InvalidToken(f"its {action} is no list of channels and patterns")
    if action in FILTERED and dict in map(type, listed):
        listed = [each for each in listed if not isinstance(each, dict)]
    # The hot path of clients with tokens of their own.
    if _TEXTS.issuperset(map(type, listed)):
        return _known_patterns(tuple(listed), action, subject if "{sub}" in "".join(listed) else None)
    return Patterns.of([_name(each, action, subject) for each in listed])


@functools.lru_cache(1000)
def _known_patterns(listed: tuple[str, ...], action: str, subject: str | None) -> Patterns:
    """The patterns of a list that many tokens have in common, or that one subject's have."""
    return Patterns.of([_name(each, action, subject) for each in listed])


def _filtered(claims: Mapping[str, Any], action: str, subject: str | None) -> list[tuple[str, Filters]]:
    """The channels that a claim lists with filters, the longest name first."""
    if dict not in map(type, claims[action]):
        return []
    found: dict[str, Filters] = {}
    for each in claims[action]:
        if not isinstance(each, dict):
            continue
        if each.keys() != {"channel", "filters"}:
            raise InvalidToken(f'its {action} has an entry that is not like {{"channel": ..., "filters": ...}}')
        name = _name(each["channel"], action, subject)
        if name in found:
            raise InvalidToken(f"its {action} has {_short(name)} with filters twice: one entry has them all")
        try:
            found[name] = Filters.of(each["filters"])
        except Invalid as error:
            raise InvalidToken(f"its {action} has filters for {_short(name)} that are none: {error}") from None
    return sorted(found.items(), key=lambda entry: len(entry[0]), reverse=True)


def _name(listed: Any, action: str, subject: str | None) -> str:
    """A channel or pattern of a claim; ``{sub}`` in it stands for the subject."""
    if not isinstance(listed, str):
        raise InvalidToken(f"its {action} has an entry that is no text")
    name = listed if subject is None or "{sub}" not in listed else listed.replace("{sub}", subject)
    if name.endswith("*") and not listed.endswith("*"):
        raise InvalidToken(f"its sub ends in '*', which would make a pattern of {listed!r} in its {action}")
    try:
        return check_subscription(name)
    except InvalidChannel:
        raise InvalidToken(f"its {action} has {_short(listed)}, which is no channel and no pattern") from None


def _short(value: Any) -> str:
    return repr(value)[:60]
