"""Plans of the gateway: what requests with a remembered head ask for."""

from __future__ import annotations

import functools
from typing import Final, NamedTuple, Protocol, TypeAlias

from raiden.access.permit import Permit, Permits
from raiden.connections.connection import Connection
from raiden.http.reserved import Reserved
from raiden.model.labels import Label
from raiden.model.names import MAX_CHANNEL_BYTES, InvalidChannel, check_channel, unquote
from raiden.protocols.heads import Repeated
from raiden.sessions.asks import Subscribe
from raiden.sessions.needs import needs
from raiden.sessions.poll import Poll

# Bytes of the longest target that names a channel, all of it percent-encoded: longer ones are not remembered.
LONGEST: Final = 1 + 3 * MAX_CHANNEL_BYTES


class PublishPlan(NamedTuple):
    """The plan for the head of a JSON publish, whatever its target is: the beginning of its channel's name, the
    credential that the head shows, where requests do not show their own, and the label of its message, if there is
    one."""

    prefix: str
    credential: str | None = None
    label: Label | None = None


class SubscriptionPlan:
    """The plan for a head that subscribes. ``poll`` is the long-poll that the last such request has begun: others with
    this head wait for the same, and get the same answer. ``credential`` is as in a `PublishPlan`."""

    __slots__ = ("ask", "credential", "poll")

    def __init__(self, ask: Subscribe, credential: str | None = None) -> None:
        self.ask = ask
        self.credential = credential
        self.poll: Poll | None = None


class DialectPlan(Protocol):
    """The plan of a dialect."""

    def serve(self, connection: Connection, repeated: Repeated) -> bool:
        """As `raiden.http.door.Application.serve_again`."""


Plan: TypeAlias = "PublishPlan | SubscriptionPlan | DialectPlan"


def shown(connection: Connection) -> str | None:
    """The credential by which the connection has its permit."""
    return None if connection.permit is None else connection.permit.shown


def allowed(
    permits: Permits, plan: PublishPlan | SubscriptionPlan, credential: str, channel: str = ""
) -> Permit | None:
    """The permit of a request that has a plan, shows this credential ("": that of the plan) and publishes to
    ``channel`` or subscribes; None: anyone may do all. Raises a refusal where it does not allow that."""
    if permits.is_open:
        return None
    permit = permits.of(credential or plan.credential)
    if isinstance(plan, PublishPlan):
        if not permit.publishes(channel):
            permit.check("publish", channel)
    elif not permit.allows_again(plan.ask):
        for need in needs(plan.ask):
            permit.check(*need)
        permit.was_allowed(plan.ask)
    return permit


def channel_of(reserved: Reserved, prefix: str, target: bytes) -> str | None:
    """The channel to which a POST to this target publishes, where channels begin with ``prefix``; None: there is
    none."""
    return _channel(reserved, prefix, target) if len(target) <= LONGEST else None


@functools.lru_cache(1000)
def _channel(reserved: Reserved, prefix: str, target: bytes) -> str | None:
    if not target or target.startswith(b"/-/") or b"?" in target:
        return None
    try:
        name = unquote(target[1:].decode())
        return None if reserved.has(name) else check_channel(prefix + name)
    except InvalidChannel:
        return None
