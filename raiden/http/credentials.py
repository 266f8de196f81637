"""Credentials: the token or the API key that a request shows. Pure."""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie

from raiden.http import headers, parameters
from raiden.model.refusals import Unauthorized
from raiden.protocols.http import Request
from raiden.protocols.websocket import TOKEN

# The paths of the server's own that subscribe.
_SUBSCRIBING = ("/-/subscribe", "/-/websocket")


def of(request: Request, cookie: str | None) -> str | None:
    """The credential of a request: of ``Authorization: Bearer`` (RFC 6750 section 2.1), else, where it subscribes, of a
    WebSocket's subprotocol or of ``_token`` in the query, else of the ``cookie`` of this name. None: it shows none.
    Raises Unauthorized for another scheme."""
    fields = request.fields
    told = fields.get("authorization")
    if told is not None:
        scheme, _, credential = told.partition(" ")
        if scheme.lower() != "bearer" or not credential.strip():
            raise Unauthorized("send the token as Authorization: Bearer TOKEN", bad=True)
        return credential.strip()
    path = request.environ["raiden.path"]
    if request.method in ("GET", "HEAD") and (not path.startswith("/-/") or path in _SUBSCRIBING):
        offered = [each.strip() for each in fields.get("sec-websocket-protocol", "").split(",")]
        for each in offered:
            if each.lower().startswith(TOKEN):
                return each[len(TOKEN) :]
        query = dict(parameters.query_pairs(request))
        if "_token" in query:
            return query["_token"]
    return _of_cookie(request, cookie) if cookie is not None and "cookie" in fields else None


def _of_cookie(request: Request, name: str) -> str | None:
    """The credential in a cookie. A page of another origin that may use this server sends its own (``Origin`` was
    looked at); where a browser says that another site asks, and not which, the cookie counts for nothing."""
    if headers.is_of_another_site(request):
        return None
    try:
        found = SimpleCookie(request.fields["cookie"]).get(name)
    except CookieError:
        return None
    return None if found is None else found.value
