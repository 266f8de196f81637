"""The policy: who may do what to which channel. Each action on a channel is for anyone, for clients that have the
permission, or for nobody (`raiden.model.options`). Pure.

A pattern is allowed where the action is allowed to every channel that it may stand for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raiden.access.clients import Client
from raiden.model.filters import NO_FILTERS, Filters
from raiden.model.options import ACTIONS, ANYONE, NOBODY, TOKEN, Channels, Options
from raiden.model.refusals import Forbidden, Unauthorized

_VERBS = {
    "subscribe": "subscribe to", "publish": "publish to", "history": "read the history of",
    "presence": "see who is at", "request": "ask", "serve": "serve", "manage": "manage",
}  # fmt: skip
# The parts of the sentence by which a client is asked for a token.
NEEDED = "a token is needed"
HOW = "over HTTP it is sent as Authorization: Bearer TOKEN, to subscribe also as ?_token=TOKEN; on /-/websocket by auth"


class Policy:
    """The policy of a door, by the options of ``channels``. ``guarded``: clients of the door have keys or tokens, so an
    action is for those that have the permission, unless the options say otherwise; else it is for anyone."""

    def __init__(self, channels: Mapping[str, Any], *, guarded: bool) -> None:
        self._channels = Channels(channels)
        self._default = TOKEN if guarded else ANYONE
        self.shows_senders = guarded and any(each.show_from for each in self._channels.all())
        """Whether there are channels whose messages say who published them."""
        self.is_open = not self.shows_senders and all(
            self._who(each, action) == ANYONE for each in self._channels.all() for action in ACTIONS
        )
        """Whether anyone may do all, and nobody hears who did it."""
        self.has_open = any(self._who(each, action) == ANYONE for each in self._channels.all() for action in ACTIONS)
        """Whether anyone may do something."""

    def check(self, client: Client, action: str, name: str, *, filtered: bool = False) -> None:
        """Raise Unauthorized or Forbidden unless the client may do the action to a channel, or to all channels that a
        pattern stands for. ``filtered``: also where it may do so with filters only."""
        if self.allows(client, action, name):
            return
        forced = self.filters(client, action, name)
        if forced is not None:
            if filtered:
                return
            raise Forbidden(f"the token has filters for {name!r}, so that its messages can't be had in this way")
        who = self._whose(action, name)
        verb = f"{_VERBS[action]} {name!r}"
        if who == NOBODY:
            raise Forbidden(f"nobody may {verb}: {_part(name)} is for nobody by the settings of channels")
        if not client.credential:
            raise Unauthorized(f"{NEEDED} to {verb}: {HOW}")
        raise Forbidden(f"{client.name} may not {verb}: list it in the {action} of its {client.credential}")

    def leaves_open(self, client: Client, action: str, name: str) -> bool:
        """Whether a delegate may still allow what this policy does not allow the client: the action is for those that
        have the permission, and the client is nobody's server, whose key lists all that it may do."""
        return self._whose(action, name) == TOKEN and client.credential in ("", "token")

    def shows_sender(self, channel: str) -> bool:
        """Whether the channel's messages say who published them."""
        return self.shows_senders and self._channels.of(channel).show_from

    def within(self, client: Client, action: str, prefix: str) -> list[str]:
        """The channels and patterns that stand for those to which the client may do the action, among the channels that
        begin with a prefix. A pattern that is not allowed as a whole is left out."""
        if self.is_open:
            return [prefix + "*"]
        wanted = [prefix + "*", *client.may(action).within(prefix)] if prefix else client.may(action).within(prefix)
        return [name for name in dict.fromkeys(wanted) if self.allows(client, action, name)]

    def allows(self, client: Client, action: str, name: str) -> bool:
        if self.is_open:
            return True
        who = self._whose(action, name)
        return who == ANYONE or (who == TOKEN and client.may(action).allows(name))

    def filters(self, client: Client, action: str, name: str) -> Filters | None:
        """The filters with which the client may do the action; None: it may not."""
        if self.allows(client, action, name):
            return NO_FILTERS
        return client.filters(action, name) if client.filtered and self._whose(action, name) == TOKEN else None

    def said(self, action: str, channel: str) -> str:
        """For whom the settings say that an action on a channel is; "": they say nothing of it."""
        word: str | None = getattr(self._channels.of(channel), action)
        return word or ""

    def _whose(self, action: str, name: str) -> str:
        """For whom an action is: of a pattern, the least of what its channels are."""
        if not name.endswith("*"):
            return self._who(self._channels.of(name), action)
        found = {self._who(options, action) for options in self._channels.within(name[:-1])}
        return next(who for who in (NOBODY, TOKEN, ANYONE) if who in found)

    def _who(self, options: Options, action: str) -> str:
        return getattr(options, action) or self._default


def _part(name: str) -> str:
    return "a part of it" if name.endswith("*") else "it"
