"""The cost of an ask, as rates count it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raiden.access.rates import Rates
from raiden.sessions.asks import Ask, Call, Command, Consume, Follow, Join, Publish, PublishOne, Serve, Subscribe, Take


def count(rates: Rates, account: str, ask: Ask | Command) -> None:
    """Count an ask. Raises TooFast, or TooLarge, where it may not be done; then nothing was counted."""
    cost = _COSTS.get(type(ask))
    if cost is not None:
        cost(rates, account, ask)


def _publish(rates: Rates, account: str, ask: Publish) -> None:
    rates.publish(account, [(group[0].channel, len(group)) for group in ask.groups if group])


def _publish_one(rates: Rates, account: str, ask: PublishOne | Call) -> None:
    rates.publish_one(account, ask.message.channel)


def _subscribe(rates: Rates, account: str, ask: Subscribe) -> None:
    rates.subscribe(account, len(ask.names))


def _one(rates: Rates, account: str, ask: Consume | Follow | Join | Serve | Take) -> None:
    rates.subscribe(account, 1)


# A resumed session is counted when its subscriptions are known; all others cost nothing.
_COSTS: dict[type, Callable[[Rates, str, Any], None]] = {
    Publish: _publish, PublishOne: _publish_one, Subscribe: _subscribe, Consume: _one, Follow: _one, Join: _one,
    Call: _publish_one, Serve: _one, Take: _one,
}  # fmt: skip
