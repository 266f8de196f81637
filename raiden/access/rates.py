"""Rates: how much a client may do in a time, by the setting `rates`. Pure.

Each limit is a number of tokens a second and a number at once (`raiden.access.buckets`). ``publish`` takes a token for
each message, and ``subscribe`` for each channel or pattern; they count by account, which is the subject of a token, the
name of a key, or else the client's address. ``connect`` takes one for each connection from an address, and ``channel``
for each message to a channel, whoever publishes it.
"""

from __future__ import annotations

import functools
import ipaddress
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from raiden.access.buckets import ROW, Buckets, whole
from raiden.access.permit import Permit
from raiden.model.near import did_you_mean
from raiden.model.refusals import TooFast, TooLarge
from raiden.runtime.stats import Stats

# The limits there may be, each with what it counts and what its client does.
NAMES: Final = {
    "publish": ("messages", "you publish"), "subscribe": ("subscriptions", "you subscribe"),
    "connect": ("connections", "you connect"), "channel": ("messages", "others and you publish to this channel"),
}  # fmt: skip
# Buckets of a node that are not full, and the bytes of their table.
MOST: Final = 65_536
TABLE: Final = MOST * ROW
# The largest number of tokens at once, or a second; and of seconds in which an empty bucket becomes full.
_LARGEST: Final = 1_000_000_000
# A publisher that is slowed down waits for the messages of so many seconds, so that it is not woken for each.
_WORTH: Final = 0.02
# The bits of an IPv6 address that tell clients apart: a client has all addresses of a /64 (RFC 4291 section 2.5.4).
_NETWORK: Final = 64


class Limit(NamedTuple):
    """A limit by its ``name``. ``salt`` is a hash of it: buckets of different limits are different ones."""

    name: str
    per_second: float
    at_once: float
    salt: int

    @classmethod
    def of(cls, name: str, per_second: float, at_once: float) -> Limit:
        return cls(name, per_second, at_once, hash((name, per_second, at_once)))

    def key(self, of: str) -> int:
        """The key of a bucket. Python hashes texts with a secret of the process, which its children inherit: nobody can
        choose names whose buckets push out each other."""
        return hash((self.salt, of))

    @property
    def window(self) -> int:
        """Seconds in which an empty bucket becomes full."""
        return max(1, math.ceil(self.at_once / self.per_second))

    def __str__(self) -> str:
        return f"{self.per_second:g} {NAMES[self.name][0]} a second, {self.at_once:g} at once"


def limits(setting: Mapping[str, Any]) -> dict[str, Limit]:
    """The limits in a setting like ``{"publish": (100, 200)}``. Raises ValueError, which says what is wrong."""
    found = {}
    for name, value in setting.items():
        if name not in NAMES:
            raise ValueError(f"there is no {name!r}{did_you_mean(str(name), NAMES)}")
        try:
            per_second, at_once = value
            good = 1 <= at_once <= _LARGEST and at_once == int(at_once)
            good &= 0 < per_second <= _LARGEST and at_once / per_second <= _LARGEST
        except (TypeError, ValueError, OverflowError):
            good = False
        if not good:
            raise ValueError(f"{name} must be like (100, 200), for 100 a second and 200 at once, not {value!r}")
        found[name] = Limit.of(name, float(per_second), float(at_once))
    return found


def account(permit: Permit | None, address: str) -> str:
    """The account of a client: of its subject, or its key's name, or else its address."""
    client = permit.client if permit is not None else None
    if client is not None and client.subject is not None:
        return f"sub:{client.subject}"
    if client is not None and client.credential == "key":
        return f"key:{client.name}"
    return network(address)


@functools.lru_cache(4096)
def network(address: str) -> str:
    """An IPv4 address as it is, also one that is written as IPv6; of another IPv6 address its network."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, _NETWORK), strict=False))


class Rates:
    """The limits of a process, and the buckets that it shares with the others of its node. ``on``: there are any."""

    def __init__(
        self, limits: Mapping[str, Limit] | None = None, buckets: Buckets | None = None, *, stats: Stats | None = None
    ) -> None:  # fmt: skip
        self._buckets = buckets or Buckets(bytearray(TABLE if limits else ROW * 8), time.monotonic)
        self._stats = stats or Stats()
        self.become(limits or {})

    def become(self, limits: Mapping[str, Limit]) -> None:
        """Take other limits. A bucket of a limit that stays has what it had: a limit is a part of the keys of its
        buckets."""
        self._publish, self._channel = limits.get("publish"), limits.get("channel")
        self._subscribe, self._connect = limits.get("subscribe"), limits.get("connect")
        self.on = bool(limits)
        """Whether there is any limit."""

    # All of these raise TooFast, and TooLarge for more than may ever be at once; then nothing is counted.

    def connect(self, address: str) -> None:
        """Count a connection from an address."""
        if self._connect is not None:
            self._charge(self._connect, network(address), 1)

    def subscribe(self, account: str, count: int) -> None:
        """Count subscriptions, each of one channel or pattern."""
        if self._subscribe is not None and count:
            self._charge(self._subscribe, account, count)

    def publish(self, account: str, counts: Iterable[tuple[str, int]]) -> None:
        """Count messages: channels, each with the number of messages to it."""
        counts, asked = list(counts), []
        if self._publish is not None and counts:
            asked.append((self._publish, account, sum([count for _, count in counts])))
        if self._channel is not None:
            asked += [(self._channel, channel, count) for channel, count in counts]
        for limit, _, count in asked:
            _check_size(limit, count)
        for number, (limit, key, count) in enumerate(asked):
            try:
                self._charge(limit, key, count)
            except TooFast:
                for other, its, taken in asked[:number]:
                    self._buckets.give_back(other.key(its), other.per_second, taken)
                raise

    def publish_one(self, account: str, channel: str) -> None:
        """`publish` for one message: the hot path where there are limits."""
        if self._channel is None:
            if self._publish is not None:
                self._charge(self._publish, account, 1)
        else:
            self.publish(account, ((channel, 1),))

    # Clients that can't be told of a refusal are slowed down.

    def some(self, account: str, channel: str, most: int) -> tuple[int, float]:
        """Count as many messages to a channel as may be published now, at most so many. Returns their number, and where
        that is 0, the seconds until there are some."""
        asked = [
            (limit, key) for limit, key in ((self._publish, account), (self._channel, channel)) if limit is not None
        ]  # fmt: skip
        count, wait = most, 0.0
        for limit, key in asked:
            left = self._left(limit, key)
            count = min(count, whole(left))
            wanted = max(1.0, min(most, limit.at_once, limit.per_second * _WORTH))
            wait = max(wait, (wanted - left) / limit.per_second)
        if not count:
            return 0, wait
        for number, (limit, key) in enumerate(asked):
            if self._take(limit, key, count):  # another process was faster
                for other, its in asked[:number]:
                    self._buckets.give_back(other.key(its), other.per_second, count)
                return 0, _WORTH
        return count, 0.0

    def owe(self, account: str, count: int) -> float:
        """Count subscriptions that can't be refused. Returns 0, or where they must wait and were not counted, the
        seconds until then. Those above the number at once are owed, and others wait for them."""
        limit = self._subscribe
        if limit is None or not count:
            return 0.0
        return self._buckets.owe(limit.key(account), limit.per_second, limit.at_once, count)

    def left(self, account: str) -> tuple[int, int] | None:
        """The number of messages that the client may publish now, and the seconds until there may be one more; None:
        any number."""
        limit = self._publish
        if limit is None:
            return None
        return whole(self._left(limit, account)), max(1, math.ceil(1 / limit.per_second))

    def _charge(self, limit: Limit, key: str, count: int) -> None:
        _check_size(limit, count)
        wait = self._take(limit, key, count)
        if wait:
            self._stats.rate_limited += 1
            raise TooFast(
                f"{NAMES[limit.name][1]} more than rates allow ({limit}): try again in {wait:.3g} s", policy=limit.name,
                quota=int(limit.at_once), window=limit.window, left=whole(self._left(limit, key)), wait=wait,
            )  # fmt: skip

    def _take(self, limit: Limit, key: str, count: int) -> float:
        return self._buckets.take(limit.key(key), limit.per_second, limit.at_once, count)

    def _left(self, limit: Limit, key: str) -> float:
        return self._buckets.left(limit.key(key), limit.per_second, limit.at_once)


def _check_size(limit: Limit, count: int) -> None:
    if count > limit.at_once:
        raise TooLarge(f"{count} {NAMES[limit.name][0]} in one go are more than rates allow ({limit}): send fewer")
