"""The configuration of channels: options by pattern; the longest match wins. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any

from raiden.model.names import InvalidChannel, check_channel, check_subscription
from raiden.model.near import did_you_mean

# Channels whose options are remembered; to find them anew costs a look at each pattern.
REMEMBERED = 10_000


class Durability(IntEnum):
    """The failures that an acknowledged message survives."""

    STORED = 0  # the end of any process
    SYNCED = 1  # the end of the machine: it was flushed to the disk before the answer
    SHARED = 2  # the end of the node: another machine has it


# The actions on a channel that clients may be allowed, and for whom an action may be.
ACTIONS = ("subscribe", "publish", "history", "presence", "request", "serve", "manage")
ANYONE, TOKEN, NOBODY = "anyone", "token", "nobody"


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a channel. Times are seconds; At most ``history_size`` messages are kept, each for
    ``history_ttl``; the last one for ``retain``, if that is longer. ``ack`` names a `Durability`, in small letters.
    ``discard`` says what is dropped where the history is full and a durable subscription still needs its oldest
    message: "old", that message, or "new", the publish. A durable subscription hands a message out ``max_attempts``
    times (0: again and again), and then gives it up, to the channel ``dead_letter`` if there is one. ``show_from``:
    messages say who published them, by the subject and the info of its token.

    Each of `ACTIONS` is for "anyone", for clients whose key or token permits it ("token"), or for "nobody"; "": for
    anyone, unless clients have keys or tokens."""

    history_size: int = 100
    history_ttl: float = 300.0
    retain: float = 0.0
    ack: str = "stored"
    discard: str = "old"
    max_attempts: int = 0
    dead_letter: str = ""
    show_from: bool = False
    subscribe: str = ""
    publish: str = ""
    history: str = ""
    presence: str = ""
    request: str = ""
    serve: str = ""
    manage: str = ""

    @property
    def keeps(self) -> bool:
        """Whether the channel has a history."""
        return (self.history_size > 0 and self.history_ttl > 0) or self.retain > 0

    @property
    def durability(self) -> Durability:
        return Durability[self.ack.upper()]

    @property
    def most_at_once(self) -> int:
        """The number of messages that may be published together; 0: any number. More than the history keeps would push
        each other out."""
        return max(1, self.history_size) if self.discard == "new" else 0


_NAMES = {option.name: option for option in fields(Options)}
# The options that are whole numbers, those that are true or false, and those that are one of some words.
_WHOLE = frozenset({"history_size", "max_attempts"})
_FLAGS = frozenset({"show_from"})
_WORDS = {
    "ack": [durability.name.lower() for durability in Durability], "discard": ["old", "new"],
    **{action: [ANYONE, TOKEN, NOBODY] for action in ACTIONS},
}  # fmt: skip


class Channels:
    """Options by channel: ``{"news.*": {"history_size": 1000}}``. An option that a pattern leaves out has the default,
    whatever shorter patterns say. Raises ValueError, which says what is wrong, for anything that is no option."""

    def __init__(self, patterns: Mapping[str, Any] | None = None) -> None:
        self._patterns = {pattern: _options(pattern, values) for pattern, values in (patterns or {}).items()}
        self._prefixes = sorted((p[:-1] for p in self._patterns if p.endswith("*")), key=len, reverse=True)
        self._found: dict[str, Options] = {}
        for pattern, options in self._patterns.items():
            self._check_dead_letter(pattern, options.dead_letter)

    def _check_dead_letter(self, pattern: str, channel: str) -> None:
        if not channel:
            return
        options, name = self.of(channel), f"channels: {channel!r}, the dead_letter of {pattern!r},"
        if not options.keeps:
            raise ValueError(f"{name} must keep history: set its history_size")
        if options.dead_letter:
            raise ValueError(f"{name} must have no dead_letter of its own: give {channel!r} options of its own")
        if options.discard == "new":
            raise ValueError(
                f"{name} can't refuse what is given up: set its discard to 'old', and a large history_size"
            )

    def of(self, channel: str) -> Options:
        found = self._found.get(channel)
        if found is None:
            if len(self._found) >= REMEMBERED:
                self._found.clear()
            found = self._found[channel] = self._find(channel)
        return found

    def _find(self, channel: str) -> Options:
        exact = self._patterns.get(channel)
        if exact is not None:
            return exact
        for prefix in self._prefixes:
            if channel.startswith(prefix):
                return self._patterns[prefix + "*"]
        return Options()

    def within(self, prefix: str) -> list[Options]:
        """The options that channels may have whose names begin with the prefix."""
        narrower = [options for pattern, options in self._patterns.items() if pattern.startswith(prefix)]
        wider = next((each for each in self._prefixes if prefix.startswith(each)), None)
        return [*narrower, Options() if wider is None else self._patterns[wider + "*"]]

    def all(self) -> list[Options]:
        """The options that channels may have."""
        return [*self._patterns.values(), *([] if "*" in self._patterns else [Options()])]


def _options(pattern: Any, values: Any) -> Options:
    try:
        check_subscription(pattern)
    except (InvalidChannel, AttributeError):
        raise ValueError(f"channels: {pattern!r} is no channel and no pattern") from None
    if not isinstance(values, Mapping):
        raise ValueError(f"channels: the options of {pattern!r} must be a dict, like {{'history_size': 100}}")
    for name, value in values.items():
        if name not in _NAMES:
            hint = did_you_mean(str(name), _NAMES, f"; there are {', '.join(_NAMES)}")
            raise ValueError(f"channels: {pattern!r} has an unknown option {name!r}{hint}")
        if name in _WORDS:
            if value not in _WORDS[name]:
                words = ", ".join(_WORDS[name])
                raise ValueError(f"channels: {name} of {pattern!r} must be one of {words}, not {value!r}")
        elif name == "dead_letter":
            _check_name(pattern, value)
        elif name in _FLAGS:
            if not isinstance(value, bool):
                raise ValueError(f"channels: {name} of {pattern!r} must be True or False, not {value!r}")
        elif isinstance(value, bool) or not isinstance(value, int if name in _WHOLE else (int, float)):
            raise ValueError(f"channels: {name} of {pattern!r} must be a number, not {value!r}")
        elif not 0 <= value < 1e10:  # also not NaN
            raise ValueError(f"channels: {name} of {pattern!r} must be from 0 to 10,000,000,000, not {value!r}")
    options = Options(**values)
    if options.discard == "new" and not options.keeps:
        raise ValueError(f"channels: discard of {pattern!r} is 'new', which needs a history: set its history_size")
    if options.dead_letter and not options.max_attempts:
        raise ValueError(f"channels: {pattern!r} has a dead_letter: say after how many attempts, by max_attempts")
    return options


def _check_name(pattern: str, value: Any) -> None:
    """Raise ValueError unless this is the name of a dead-letter channel, or "" for none."""
    try:
        if value != "":
            check_channel(value)
    except (InvalidChannel, AttributeError, TypeError):
        raise ValueError(f"channels: dead_letter of {pattern!r} must be a channel, not {value!r}") from None
