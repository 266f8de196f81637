"""Origins: the pages that may use the server. A browser says in ``Origin`` where a page came from (RFC 6454), and lets
the page read an answer only if the answer says so (the Fetch standard, section 3.3, "CORS protocol")."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from raiden.protocols.hosts import MAX_LENGTH, REMEMBERED, Host, host
from raiden.protocols.http import METHODS, HttpError
from raiden.runtime.seldom import Seldom

log = logging.getLogger(__name__)

# The fields that a page may send and read where its browser asks for nothing in particular.
_FIELDS = (
    "Content-Type, Prefer, Last-Event-ID, Idempotency-Key, Authorization, Raiden-Event, Raiden-Tags, Raiden-Transient, "
    "Raiden-Except"
)
_TOLD = (
    "Raiden-Cursor, Raiden-Recovered, Raiden-Unconfirmed, Raiden-Connection, Raiden-End, Raiden-Presence, "
    "Raiden-Request, Raiden-Left, Retry-After, RateLimit, RateLimit-Policy"
)
# Seconds for which a browser need not ask again.
_MAX_AGE = 600
_DEFAULT_PORTS = {"http": 80, "https": 443}
_SCHEME = re.compile("[a-z][a-z0-9+.-]*")
# A list of field names (RFC 9110 section 5.6.2), as browsers write it.
_NAMES = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+(, ?[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")


class Origin(NamedTuple):
    """The origin of a page (RFC 6454 section 4). With a scheme that has a default port, the port is always there."""

    scheme: str
    host: Host

    @classmethod
    def parse(cls, text: str) -> Origin:
        """Read an origin; raise ValueError for ``null``, an empty text, a URL with a path, or one without a host."""
        scheme, _, rest = text.partition("://")
        scheme = scheme.lower()
        if not _SCHEME.fullmatch(scheme):
            raise ValueError(f"{text[:100]!r} is no origin: it has no scheme")
        found = Host.parse(rest)
        return cls(scheme, found._replace(port=found.port or _DEFAULT_PORTS.get(scheme)))

    def is_of(self, request_host: str, scheme: str | None = None) -> bool:
        """Whether the page came from this host, by this ``scheme``. None: only an unknown proxy may know by which
        scheme the browser reached the host. Where Host has no port, it is the default port of the page's scheme."""
        if self.scheme not in _DEFAULT_PORTS or self.scheme != (scheme or self.scheme):
            return False
        found = host(request_host)
        return found is not None and found._replace(port=found.port or _DEFAULT_PORTS[self.scheme]) == self.host


def _origin(text: str) -> Origin | None:
    """The origin in a browser's ``Origin``; None where the text is no origin."""
    return _known_origin(text) if len(text) <= MAX_LENGTH else None


@functools.lru_cache(REMEMBERED)
def _known_origin(text: str) -> Origin | None:
    try:
        return Origin.parse(text)
    except ValueError:
        return None


class Origins:
    """The rule for pages: those of the server's own host may use it, those that ``allowed`` lists, and all if that has
    ``*``. The listed ones may do it with the browser's cookies."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._any = "*" in allowed
        self._listed = [Origin.parse(text) for text in allowed if text != "*"]
        self._told = Seldom()

    def check(self, fields: Mapping[str, str], scheme: str | None = None) -> None:
        """Raise HttpError 403 for a request, by its header fields and the ``scheme`` by which it came (None: unknown),
        of a page that may not use the server."""
        text = fields.get("origin")
        if text is None or self._any or self._is_listed(text) or self._is_own(text, fields, scheme):
            return
        if self._told.may_say(text[:100]):
            log.warning(
                "refused a page of another origin: if it may use this node, list it in allowed_origins",
                extra={"origin": text[:100], "host": fields.get("host", "")[:100]},
            )
        raise HttpError(403, f"pages of {text[:100]} may not use this server: list it in allowed_origins")

    def headers(self, fields: Mapping[str, str] | None, method: str = "") -> dict[str, str]:
        """The fields of an answer that let a page read it; the request's ``fields`` are None where its head has not
        come."""
        text = None if fields is None else fields.get("origin")
        if text is not None and self._is_listed(text):
            told = {"Access-Control-Allow-Origin": text, "Access-Control-Allow-Credentials": "true"}
        elif self._any and (text is not None or fields is None):
            told = {"Access-Control-Allow-Origin": "*"}
        elif text is not None and self._is_own(text, fields or {}):
            told = {"Access-Control-Allow-Origin": text}
        else:
            return {}
        told["Access-Control-Expose-Headers"] = _TOLD
        if method == "OPTIONS" and fields is not None:
            wanted = fields.get("access-control-request-headers", "")
            told["Access-Control-Allow-Methods"] = METHODS
            told["Access-Control-Allow-Headers"] = wanted if _NAMES.fullmatch(wanted) else _FIELDS
            told["Access-Control-Max-Age"] = str(_MAX_AGE)
        return told

    def _is_listed(self, text: str) -> bool:
        origin = _origin(text)
        return origin is not None and any(
            entry.scheme == origin.scheme and entry.host.covers(origin.host) for entry in self._listed
        )

    @staticmethod
    def _is_own(text: str, fields: Mapping[str, str], scheme: str | None = None) -> bool:
        origin = _origin(text)
        return origin is not None and origin.is_of(fields.get("host", ""), scheme)


def check_allowed(text: str) -> None:
    """Raise ValueError, which says how to write it, for an entry of `allowed_origins` that no browser ever sends."""
    if text == "*":
        return
    if text in ("null", "") or text.startswith("file:"):
        raise ValueError(
            f"{text!r} is what pages without an origin send, like those of files: serve the page by HTTP and list that "
            "address, or '*' for any page"
        )
    try:
        scheme, name = Origin.parse(text).scheme, Origin.parse(text).host.name
    except ValueError:
        scheme = name = ""
    if scheme in ("", "ws", "wss") or "*" in name.removeprefix("*."):
        raise ValueError(f"{text!r} is no origin: write it like {_as_origin(text)!r}, or '*' for any page")


def _as_origin(text: str) -> str:
    """The origin that an entry was perhaps meant to be."""
    scheme, _, rest = text.lower().rpartition("://")
    scheme = {"": "https", "ws": "http", "wss": "https"}.get(scheme, scheme)
    name = re.split(r"[/?#]", rest)[0].rpartition("@")[2]
    meant = f"{scheme}://{name}"
    try:
        return meant if "*" not in Origin.parse(meant).host.name.removeprefix("*.") else "https://*.example.com"
    except ValueError:
        return "https://example.com"
