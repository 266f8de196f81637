"""The clients at channels on this worker, as the router's table has them: nothing is kept about who came and went.

A client is known by its token or key. A protocol whose clients say at each channel who they are there names their
subscriptions (`Names`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

import gevent

from raiden.access.clients import Client
from raiden.connections import tcp
from raiden.connections.connection import Connection
from raiden.delivery.table import Subscription
from raiden.model.encoding import dumps
from raiden.presence.members import Part, Row
from raiden.protocols.limits import PresenceLimits
from raiden.router import Router
from raiden.runtime.turns import Turn

# Bytes of ``info`` of all members of a channel, beyond which they are only counted.
MAX_INFO: Final = 1 << 20
# Seconds for which a proof of life is good: to ask the kernel for another one takes longer than all else.
FRESH: Final = 1.0


class Subject(NamedTuple):
    """A client by its subject ("": it has shown none), and its ``info``."""

    sub: str
    info: Any


NOBODY: Final = Subject("", None)


def subject_of(client: Client | None) -> Subject:
    """A client by the subject of its token, or the name of its key."""
    if client is None:
        return NOBODY
    if client.subject:
        return Subject(client.subject, client.info)
    return Subject(client.name, None) if client.credential == "key" else NOBODY


# The subjects as which subscriptions count, where that is not their client's; `NOBODY`: as none at all.
Names: TypeAlias = Mapping[Subscription, Subject]
NO_NAMES: Final[Names] = MappingProxyType({})


class Member:
    """A subject at a channel. ``since`` is the Unix time at which its first connection came, and ``newest`` that of its
    last one, of which it has the ``info``. ``is_attached``: it has a subscription. ``polled`` is the time at which its
    last poll was answered, if it is between two."""

    __slots__ = ("connections", "info", "is_attached", "newest", "polled", "since")

    def __init__(self, info: Any, since: float) -> None:
        self.info = info
        self.since = self.newest = since
        self.connections: list[Connection] = []
        self.is_attached = False
        self.polled = 0.0

    def come(self, info: Any, since: float) -> None:
        """Note a connection, or a poll."""
        self.since = min(self.since, since)
        if since > self.newest:
            self.newest, self.info = since, info


class Here:
    """The clients at channels on this worker. Those that may take long are asked for in a greenlet."""

    def __init__(
        self, router: Router, limits: PresenceLimits, names: Names = NO_NAMES, *, counts_polls: bool = True
    ) -> None:  # fmt: skip
        self._router = router
        self._limits = limits
        self._names = names
        # Whether clients of long-polls are there between two of them.
        self._counts_polls = counts_polls
        # The proofs of life that were asked for within `FRESH` seconds.
        self._proofs: dict[Connection, float] = {}

    def part(self, channel: str) -> Part:
        """The members of a channel on this worker. Waits where this takes long."""
        turn = Turn()
        members, anonymous = self._members(channel, turn)
        if not self._can_be_listed(members, turn):
            return Part(len(members), anonymous, None)
        return Part(len(members), anonymous, tuple([self._row(sub, each, turn) for sub, each in members.items()]))

    def members(self, channel: str) -> tuple[int, dict[str, Member] | None]:
        """The number of a channel's members on this worker; and these, or None where there are too many to list. Waits
        where this takes long."""
        turn = Turn()
        members, _ = self._members(channel, turn)
        return len(members), members if self._can_be_listed(members, turn) else None

    def version(self, channel: str) -> list[tuple[int, int]]:
        """A value that changes whenever a subscription to a channel comes or goes. A client that joins others in their
        long-poll does not change it."""
        return [(topic.made, topic.changes) for topic in self._router.table.matching(channel.encode())]

    def _members(self, channel: str, turn: Turn) -> tuple[dict[str, Member], int]:
        """The members of a channel, and the number of anonymous connections."""
        members: dict[str, Member] = {}
        anonymous = 0
        known: set[Connection] = set()
        for connection, since, name in self._connections(channel, turn):
            turn.step()
            known.add(connection)
            sub, info = subject_of(_client(connection)) if name is None else name
            if sub:
                member = members.get(sub)
                if member is None:
                    member = members[sub] = Member(info, since)
                    member.is_attached = True
                else:
                    member.come(info, since)
                member.connections.append(connection)
            else:
                anonymous += 1
        for answered in self._router.polled.all() if self._counts_polls else ():
            turn.step()
            if answered.brought(channel):
                for connection, client in answered.polls:
                    turn.step()
                    anonymous += _between_polls(members, connection, client, answered.time, known)
        return members, anonymous

    def _connections(self, channel: str, turn: Turn) -> Iterator[tuple[Connection, float, Subject | None]]:
        """The connections with a subscription, also by a pattern, that brings the channel: each once, with the time at
        which it came, and the name of the subscription, where it has one."""
        topics, names = self._router.table.matching(channel.encode()), self._names
        if len(topics) == 1:
            for subscription in topics[0].subscriptions():
                name = names.get(subscription) if names else None
                for connection in subscription.owner.connections():
                    yield connection, subscription.since, name
            return
        found: dict[Connection, tuple[float, Subject | None]] = {}
        for topic in topics:
            for subscription in topic.subscriptions():
                turn.step()
                name = names.get(subscription) if names else None
                for connection in subscription.owner.connections():
                    since, known = found.get(connection, (subscription.since, name))
                    found[connection] = min(since, subscription.since), name if known is None else known
        for connection, (since, name) in found.items():
            yield connection, since, name

    def _can_be_listed(self, members: dict[str, Member], turn: Turn) -> bool:
        if len(members) > self._limits.max_presence:
            return False
        size = 0
        for member in members.values():
            if member.info is not None:
                turn.step()
                size += len(dumps(member.info))
                if size > MAX_INFO:
                    return False
        return True

    def _row(self, sub: str, member: Member, turn: Turn) -> Row:
        proved = member.polled
        for connection in member.connections:
            turn.step()
            proved = max(proved, self._proof(connection))
        is_here = proved > time.time() - 2 * self._limits.keepalive
        return Row(sub, member.info, len(member.connections), member.since, member.newest, proved, is_here)

    def _proof(self, connection: Connection) -> float:
        """The Unix time of the last proof that a client is there: its TCP has acknowledged bytes or a probe, or bytes
        have come from it, such as a pong."""
        proof = self._proofs.get(connection)
        if proof is None:
            silence = tcp.silence(connection.socket)
            proof = 0.0 if silence is None else time.time() - silence
            if not self._proofs:
                gevent.spawn_later(FRESH, self._proofs.clear)
            self._proofs[connection] = proof
        return proof


def _between_polls(
    members: dict[str, Member], connection: Connection, client: Client | None, answered: float, known: set[Connection]
) -> bool:  # fmt: skip
    """Add a client whose poll was answered; return whether it is anonymous. Then it counts only as long as it keeps its
    connection, and does nothing else there: after that nobody could tell it from another one."""
    sub, info = subject_of(client)
    is_idle = not connection.closed and connection.session is None and connection not in known
    if is_idle and subject_of(_client(connection)).sub != sub:
        is_idle = False  # somebody else's request has come by it since
    if is_idle:
        known.add(connection)
    if not sub:
        return is_idle
    member = members.get(sub)
    if member is None:
        member = members[sub] = Member(info, answered)
    elif not member.is_attached:
        member.come(info, answered)
    member.polled = max(member.polled, answered)
    if is_idle:
        member.connections.append(connection)
    return False


def _client(connection: Connection) -> Client | None:
    permit = connection.permit
    return None if permit is None else permit.client
