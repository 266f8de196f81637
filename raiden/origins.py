"""Which pages may use the server. A browser says in ``Origin`` where a page came from (RFC 6454), and lets it have an
answer only if that says so (the Fetch standard, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

from raiden.http import METHODS, HttpError, Request

_FIELDS = "Content-Type, Prefer, Last-Event-ID, Idempotency-Key, Authorization"
_TOLD = "Raiden-Cursor, Raiden-Recovered, Raiden-Unconfirmed"
# Seconds that a browser need not ask again.
_MAX_AGE = 600


class Origins:
    """Pages of the server's own host may use it, and those of ``allowed``, all if that has ``*``."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self.allowed = list(allowed)

    def check(self, request: Request) -> None:
        """Raise HttpError 403 for the page of another."""
        origin = request.fields.get("origin")
        if origin is not None and not self._allows(origin, request):
            raise HttpError(403, f"pages of {origin[:100]} may not use this server: list it in allowed_origins")

    def headers(self, request: Request) -> dict[str, str]:
        """What of the answer lets a page have it."""
        origin = request.fields.get("origin")
        if origin is None or not self._allows(origin, request):
            return {}
        headers = {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": _TOLD,
            "Vary": "Origin",
        }
        if request.method == "OPTIONS":
            headers["Access-Control-Allow-Methods"] = METHODS
            headers["Access-Control-Allow-Headers"] = _FIELDS
            headers["Access-Control-Max-Age"] = str(_MAX_AGE)
        return headers

    def _allows(self, origin: str, request: Request) -> bool:
        if "*" in self.allowed or origin in self.allowed:
            return True
        return origin.partition("://")[2].lower() == request.fields.get("host", "").lower()
