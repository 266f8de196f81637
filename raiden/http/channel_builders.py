"""The channel builders that settings can name: functions from a request to its channel. Pure."""

from __future__ import annotations

from raiden.model.names import unquote
from raiden.model.refusals import Invalid
from raiden.protocols.hosts import host
from raiden.protocols.http import Request


def path(request: Request) -> str:
    """The request's path (`channel_builder`'s default)."""
    return unquote(request.environ["raiden.path"][1:])


def host_path(request: Request) -> str:
    """A channel for virtual hosts: ``example.com/news`` for a request for ``/news`` at example.com. The host is in
    lower case and without its port. Raises Invalid where it is none."""
    found = host(request.fields.get("host", ""))
    if found is None:
        raise Invalid("the channel's name begins with the host: send a valid Host")
    return f"{found.name}/{path(request)}"
