"""An app that a node serves: what its clients may do, by what they have shown.

The key of an app is no secret, so who shows it may subscribe to the public channels that anyone may subscribe to; where
the app's channels have a prefix, to all its public channels. What the application signs with the app's secret is
allowed, unless the options of the channel say that nobody may do that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from raiden.access.clients import Client, Patterns
from raiden.access.permit import Permit, Permits
from raiden.connections.connection import Connection
from raiden.dialects.pusher import members
from raiden.dialects.pusher.apps import App
from raiden.dialects.pusher.webhooks import EVENTS, endpoints, event
from raiden.hooks.teller import Teller
from raiden.http.origins import Origins
from raiden.model.options import ACTIONS
from raiden.model.refusals import Forbidden, Invalid, Unauthorized
from raiden.presence.watches import Share


class OpenApp:
    """An app. ``signed`` is the permit of what its application signs, and ``visitor`` that of a client that has shown
    the key. ``origins`` are the pages that may connect; None: those that may use the node. ``webhooks`` are told of
    events that only the dialect knows of. ``watched`` are the users of the watchlists of all apps."""

    def __init__(self, app: App, permits: Permits, webhooks: Teller | None, watched: Share) -> None:
        self.app = app
        self.watched = watched
        self._webhooks = webhooks
        # Called with a channel whose number of subscribers has changed; None: nobody is told of that.
        self.counted: Callable[[str], None] | None = None
        wanted = [each.events for each in endpoints([app])] if webhooks is not None else []
        self._wanted = frozenset().union(*wanted)
        self.prefix = app.prefix
        self.origins = None if app.allowed_origins is None else Origins(app.allowed_origins)
        self._permits = permits
        own = Patterns.of([app.prefix + "*"])
        self.signed = permits.of_client(Client(f"the Pusher app {app.id}", dict.fromkeys(ACTIONS, own)))
        self._public = {"subscribe": own} if app.prefix else {}
        self.visitor = permits.of_client(
            Client(f"a client of the Pusher app {app.id}", self._public, credential="")
        )  # fmt: skip

    def user(self, user: str, info: Any) -> Permit:
        """The permit of a client that has signed in now, which is a subject to others. Raises Invalid."""
        client = Client(
            self.visitor.client.name, self._public, credential="", subject=self.subject(user), issued=time.time(),
            info=info,
        )  # fmt: skip
        return self._permits.of_client(client)

    def subject(self, user: str) -> str:
        """The subject that a user is to others: its id, behind the prefix of the app. Raises Invalid for one that would
        be a user of another app."""
        if user.startswith(self.app.foreign):
            raise Invalid(f"a user's id can't begin like {user[:100]!r}: so begin the channels of another app here")
        return self.prefix + user

    def check_public(self, connection: Connection, channel: str) -> None:
        """Raise Forbidden unless a client may subscribe to a public channel."""
        if self._permits.is_open:
            return
        try:
            connection.permit.check("subscribe", channel)
        except (Forbidden, Unauthorized):
            raise Forbidden(
                f"not everyone may subscribe to {channel!r}: let channels say so (subscribe = 'anyone'), or use a "
                "private channel"
            ) from None

    def wants(self, name: str) -> bool:
        """Whether a webhook is told of the events of this name."""
        return EVENTS[name] in self._wanted

    def tell(self, name: str, channel: str, once: str | None = None, **more: Any) -> None:
        """Tell webhooks of an event of a channel; ``more`` are members of it. ``once``: see `Teller.tell`."""
        if self._webhooks is not None and self.wants(name):
            self._webhooks.tell(event(name, channel, self.prefix, more), once)

    def presence(self, name: str, what: dict[str, Any]) -> bytes:
        """The frame of a join or a leave, for clients of the app."""
        return members.encoded(name, {**what, "channel": what["channel"][len(self.prefix) :]})
