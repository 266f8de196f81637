"""The apps of the setting `pusher_apps`. Pure.

All channels of an app have a prefix here. That of the only app is empty unless it is set, so that its channels are
called as they are; otherwise it is the app's id and a colon, which no name in the protocol has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from raiden.dialects.pusher.names import CACHED, MAX_NAME, SIGNED, TO_USER, kind_of
from raiden.http import origins
from raiden.model.names import MAX_CHANNEL_BYTES, has_controls
from raiden.model.near import did_you_mean
from raiden.model.options import ACTIONS, TOKEN, Channels

# What is done to signed channels by other doors only with a permission. To manage the node, as to see its pages, is an
# action on all channels, and as open as it was.
CLOSED: Final = tuple(action for action in ACTIONS if action != "manage")
# Seconds for which cached channels keep their last event.
CACHE_TTL: Final = 1800.0
_EXAMPLE = "{'id': '1', 'key': '...', 'secret': '...'}"
# Bytes of a prefix that leave room for the longest name.
_MAX_PREFIX: Final = MAX_CHANNEL_BYTES - MAX_NAME


@dataclass(frozen=True, slots=True, eq=False)
class App:
    """An app. ``client_events``: clients may publish events to each other, each connection at most
    ``client_events_per_second`` (0: any number). ``subscription_count``: subscribers are told how many they are.
    ``max_data`` bounds the bytes of an event's data, ``max_channels`` the channels of an event, ``max_batch`` the
    events of a batch. ``allowed_origins`` are the pages that may connect; None: those of the node's setting of this
    name. ``webhooks`` are as `raiden.dialects.pusher.webhooks` reads them. ``foreign`` are the beginnings, behind its
    prefix, of what belongs to other apps: no channel of its own begins so, and no user may."""

    id: str
    key: str
    secret: str
    prefix: str
    client_events: bool = True
    client_events_per_second: float = 10.0
    subscription_count: bool = False
    max_data: int = 10_240
    max_channels: int = 100
    max_batch: int = 10
    allowed_origins: tuple[str, ...] | None = None
    webhooks: tuple[Mapping[str, Any], ...] = ()
    foreign: tuple[str, ...] = ()


_TEXTS: Final = ("id", "key", "secret")
_FLAGS: Final = ("client_events", "subscription_count")
_NUMBERS: Final = ("max_data", "max_channels", "max_batch")
_OPTIONS: Final = (
    *_TEXTS, "prefix", *_FLAGS, "client_events_per_second", *_NUMBERS, "allowed_origins", "webhooks"
)  # fmt: skip


def apps(setting: Sequence[Any]) -> list[App]:
    """The apps in the setting `pusher_apps`. Raises ValueError, which says which one is wrong, and why."""
    if not setting:
        raise ValueError(f"pusher_apps must have an app, like [{_EXAMPLE}]")
    found: list[App] = []
    for number, options in enumerate(setting, 1):
        try:
            found.append(_app(options, alone=len(setting) == 1))
        except ValueError as error:
            raise ValueError(f"pusher_apps: app {number}: {error}") from None
    for name in ("id", "key"):
        if len({getattr(app, name) for app in found}) < len(found):
            raise ValueError(f"pusher_apps: two apps have the same {name}: give each its own")
    return [replace(app, foreign=_foreign(app, found)) for app in found]


def _foreign(app: App, found: Sequence[App]) -> tuple[str, ...]:
    """The beginnings, behind the prefix of an app, of what belongs to others. Raises ValueError."""
    rests = []
    for other in found:
        if other is not app and other.prefix.startswith(app.prefix):
            rests.append(other.prefix.removeprefix(app.prefix))
            if not set(rests[-1]) & set(":/"):
                raise ValueError(
                    f"pusher_apps: the channels of {app.id!r} and {other.id!r} could have the same names: give them "
                    "prefixes that end in ':'"
                )
    return tuple(rests)


def _app(options: Any, *, alone: bool) -> App:
    if not isinstance(options, Mapping):
        raise ValueError(f"it must be a dict, like {_EXAMPLE}")
    for name in options:
        if name not in _OPTIONS:
            hint = did_you_mean(str(name), _OPTIONS, f"; there are {', '.join(_OPTIONS)}")
            raise ValueError(f"it has an unknown option {name!r}{hint}")
    for name in _TEXTS:
        if not isinstance(options.get(name), str) or not options[name].isprintable() or not options[name]:
            raise ValueError(f"{name} must be a text, like in {_EXAMPLE}")
    for name in ("id", "key"):
        if "/" in options[name]:
            raise ValueError(f"{name} is a part of paths: it can't have '/'")
    for name in _FLAGS:
        if not isinstance(options.get(name, False), bool):
            raise ValueError(f"{name} is True or False")
    for name in _NUMBERS:
        value = options.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number, at least 1")
    rate = options.get("client_events_per_second", 0)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1e9:
        raise ValueError("client_events_per_second must be a number; 0: any number")
    prefix = options.get("prefix", "" if alone else f"{options['id']}:")
    if not isinstance(prefix, str) or len(prefix.encode()) > _MAX_PREFIX or has_controls(prefix):
        raise ValueError(f"prefix must be a text of at most {_MAX_PREFIX} bytes")
    if prefix.startswith("-/"):
        raise ValueError("prefix can't begin with '-/': such names are Raiden's own")
    allowed = options.get("allowed_origins")
    if allowed is not None:
        if not isinstance(allowed, list | tuple):
            raise ValueError("allowed_origins must be a list, like ['https://example.com'], or ['*'] for any page")
        for entry in allowed:
            origins.check_allowed(str(entry))
        allowed = tuple(map(str, allowed))
    hooks = options.get("webhooks", ())
    if not isinstance(hooks, list | tuple):
        raise ValueError("webhooks must be a list, like [{'url': 'https://...', 'events': ['channel_occupied']}]")
    told = {name: options[name] for name in _OPTIONS if name in options}
    return App(**{**told, "prefix": prefix, "allowed_origins": allowed, "webhooks": tuple(hooks)})


def with_own(channels: Mapping[str, Any], found: Sequence[App], *, caches: bool) -> dict[str, Any]:
    """The setting `channels`, with options for the channels of apps. By other doors, those that the application signs
    are for clients with a permission, and for nobody else. Where there is a store for ``caches``, cached channels keep
    their last event, for `CACHE_TTL` at least. All else is as the pattern says under which they come; a pattern for
    them in the setting stays as it is."""
    known = Channels(channels)
    more = {}
    for app in found:
        for begin in (*SIGNED, *CACHED, TO_USER):
            pattern = f"{app.prefix}{begin}*"
            if pattern in channels:
                continue
            wider = [each for each in channels if each.endswith("*") and pattern.startswith(each[:-1])]
            options = dict(channels[max(wider, key=len)]) if wider else {}
            if begin == TO_USER or kind_of(begin).signed:
                options = {**dict.fromkeys(CLOSED, TOKEN), **options}
            if begin in CACHED and caches:
                present = known.of(pattern[:-1])
                options["history_size"] = max(1, present.history_size)
                options["history_ttl"] = max(CACHE_TTL, present.history_ttl)
            more[pattern] = options
    return {**channels, **more}
