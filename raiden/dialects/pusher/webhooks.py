"""Webhooks of apps: Raiden's own (`raiden.hooks`), with the bodies and the signatures of the protocol. Pure."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from raiden.access.clients import Patterns
from raiden.dialects.pusher import names
from raiden.dialects.pusher.apps import App
from raiden.hooks.endpoint import OCCUPIED, VACATED, Endpoint, delivery, listed
from raiden.hooks.events import Event
from raiden.model.encoding import dumps

CLIENT_EVENT, CACHE_MISS, COUNT = "client_event", "cache_miss", "subscription_count"
ADDED, REMOVED = "member_added", "member_removed"
_BEGINNING: Final = "pusher."
# The events of the protocol by their names, as Raiden's webhooks call them.
EVENTS: Final = {
    "channel_occupied": OCCUPIED, "channel_vacated": VACATED,
    **{name: _BEGINNING + name for name in (ADDED, REMOVED, CLIENT_EVENT, CACHE_MISS, COUNT)},
}  # fmt: skip
_NAMES: Final = {type: name for name, type in EVENTS.items()}
_OPTIONS: Final = ("url", "events", "name", "timeout", "insecure")


@dataclass(frozen=True, slots=True)
class AppEndpoint(Endpoint):
    """A receiver of an app's events, which are signed with the secret of the app."""

    key: str = ""
    secret: str = ""
    prefix: str = ""

    def wants(self, event: str, channel: str | None) -> bool:
        if event not in self.events or channel is None or not channel.startswith(self.prefix):
            return False
        return names.is_listed(channel[len(self.prefix) :])

    def told(self, event: str, channel: str | None, body: bytes) -> bytes:
        if event in (OCCUPIED, VACATED) and channel is not None:
            body = dumps({"name": _NAMES[event], "channel": channel[len(self.prefix) :]})
        return b'{"time_ms":%d,"events":[%b]}' % (time.time() * 1000, body)

    def signed(self, id: str, timestamp: int, body: bytes) -> dict[str, str]:
        signature = hmac.new(self.secret.encode(), body, hashlib.sha256).hexdigest()
        return {"X-Pusher-Key": self.key, "X-Pusher-Signature": signature}


def event(name: str, channel: str, prefix: str, more: Mapping[str, Any]) -> Event:
    """An event of the protocol, of a channel as Raiden calls it; ``more`` are its further members."""
    told = {"name": name, "channel": channel[len(prefix) :], **more}
    return Event(EVENTS[name], channel, channel, dumps(told))


def endpoints(apps: Sequence[App]) -> list[Endpoint]:
    """The endpoints of apps. Raises ValueError, which says which one is wrong, and why."""
    found: list[Endpoint] = []
    for app in apps:
        for number, options in enumerate(app.webhooks, 1):
            try:
                found.append(_endpoint(app, options))
                if len({each.name for each in found}) < len(found):
                    raise ValueError(f"another one is called {found[-1].name!r}, too: give each a name of its own")
            except ValueError as error:
                raise ValueError(f"pusher_apps: webhook {number} of {app.id!r}: {error}") from None
    return found


def _endpoint(app: App, options: Any) -> AppEndpoint:
    way = delivery(options, _OPTIONS, "{'url': 'https://...', 'events': ['channel_occupied']}", f"pusher {app.id} ")
    events = frozenset([EVENTS[each] for each in listed(options.get("events"), tuple(EVENTS))])
    return AppEndpoint(
        secrets=(), events=events, channels=Patterns.of([app.prefix + "*"]), key=app.key, secret=app.secret,
        prefix=app.prefix, **way,
    )  # fmt: skip
