"""The clients at channels on this worker, as the router's table has them: nothing is kept about who came and went."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import gevent

from raiden.connections import tcp
from raiden.connections.connection import Connection
from raiden.model.encoding import dumps
from raiden.presence.members import Part, Row
from raiden.protocols.limits import PresenceLimits
from raiden.router import Router

# Seconds of work before others have their turn; connections that are looked at before the clock is.
SLICE: Final = 0.005
LOOKS: Final = 64
# Bytes of ``info`` of all members of a channel, beyond which they are only counted.
MAX_INFO: Final = 1 << 20
# Seconds for which a proof of life is good: to ask the kernel for another one takes longer than all else.
FRESH: Final = 1.0


class Subject(NamedTuple):
    """A client by its subject ("": it has shown none), and its ``info``."""

    sub: str
    info: Any


NOBODY: Final = Subject("", None)


def subject_of(connection: Connection) -> Subject:
    """The client of a connection: the subject of its token, or the name of its key."""
    permit = connection.permit
    if permit is None:
        return NOBODY
    client = permit.client
    if client.subject:
        return Subject(client.subject, client.info)
    return Subject(client.name, None) if client.credential == "key" else NOBODY


class _Member:
    """A subject while its connections are put together. ``since`` is when its first one came, and ``newest`` when its
    last one did, of which it has the ``info``."""

    __slots__ = ("answered", "connections", "info", "newest", "since")

    def __init__(self, info: Any, since: float) -> None:
        self.info = info
        self.since = self.newest = since
        self.connections: list[Connection] = []
        self.answered = 0.0  # the time of its last poll that was answered, if it is present by that


class Here:
    """The clients at channels on this worker. Those that may take long are asked for in a greenlet."""

    def __init__(self, router: Router, limits: PresenceLimits) -> None:
        self._router = router
        self._limits = limits
        # The proofs of life that were asked for within `FRESH` seconds.
        self._proofs: dict[Connection, float] = {}

    def part(self, channel: str) -> Part:
        """The members of a channel on this worker. Waits where this takes long."""
        members: dict[str, _Member] = {}
        anonymous = 0
        turn = _Turn()
        known: set[Connection] = set()
        for connection, since in self._connections(channel):
            turn.step()
            known.add(connection)
            anonymous += not _add(members, connection, since)
        for connection, answered in list(self._router.polled.at(channel)):
            if connection not in known:
                known.add(connection)
                anonymous += self._between_polls(members, connection, answered)
        if len(members) > self._limits.max_presence:
            return Part(len(members), anonymous, None)
        rows, size = [], 0
        for sub, member in members.items():
            size += 0 if member.info is None else len(dumps(member.info))
            if size > MAX_INFO:
                return Part(len(members), anonymous, None)
            rows.append(self._row(sub, member, turn))
        return Part(len(rows), anonymous, tuple(rows))

    def subjects(self, channel: str) -> tuple[int, dict[str, tuple[Any, float]] | None]:
        """The number of subjects that have connections at a channel now; and these, with their ``info`` and the time at
        which the first of their connections came, or None where there are too many to list. Waits where this takes
        long."""
        members: dict[str, _Member] = {}
        turn = _Turn()
        for connection, since in self._connections(channel):
            turn.step()
            _add(members, connection, since)
        size = sum([len(dumps(member.info)) for member in members.values() if member.info is not None])
        if len(members) > self._limits.max_presence or size > MAX_INFO:
            return len(members), None
        return len(members), {sub: (member.info, member.since) for sub, member in members.items()}

    def version(self, channel: str) -> list[tuple[int, int]]:
        """A value that changes whenever a subscription to a channel comes or goes. A client that joins others in their
        long-poll does not change it."""
        return [(topic.made, topic.changes) for topic in self._router.table.matching(channel.encode())]

    def _connections(self, channel: str) -> Iterator[tuple[Connection, float]]:
        """The connections with a subscription, also by a pattern, that brings the channel: each once, with the time at
        which it came."""
        topics = self._router.table.matching(channel.encode())
        if len(topics) == 1:
            for subscription in topics[0].subscriptions():
                for connection in subscription.owner.connections():
                    yield connection, subscription.since
            return
        found: dict[Connection, float] = {}
        for topic in topics:
            for subscription in topic.subscriptions():
                for connection in subscription.owner.connections():
                    found[connection] = min(found.get(connection, subscription.since), subscription.since)
        yield from found.items()

    def _between_polls(self, members: dict[str, _Member], connection: Connection, answered: float) -> bool:
        """Add a client whose poll was answered, unless it does something else now; return whether it is anonymous.
        Without a subject, a client counts only as long as it keeps its connection: after that nobody could tell it from
        another one."""
        if connection.closed:
            sub, info = subject_of(connection)
            if sub and sub not in members:
                members[sub] = _Member(info, answered)
            if sub:
                members[sub].answered = max(members[sub].answered, answered)
            return False
        return connection.session is None and not _add(members, connection, answered)

    def _row(self, sub: str, member: _Member, turn: _Turn) -> Row:
        proved = member.answered
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


class _Turn:
    """A turn of work that lets others have theirs."""

    __slots__ = ("_began", "_steps")

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._steps = 0

    def step(self) -> None:
        """Note a step of the work. This may wait."""
        self._steps += 1
        if self._steps % LOOKS == 0 and time.monotonic() - self._began > SLICE:
            gevent.sleep(0)
            self._began = time.monotonic()


def _add(members: dict[str, _Member], connection: Connection, since: float) -> bool:
    """Add a connection to its member; False where it is anonymous."""
    sub, info = subject_of(connection)
    if not sub:
        return False
    member = members.get(sub)
    if member is None:
        member = members[sub] = _Member(info, since)
    elif since < member.since:
        member.since = since
    elif since > member.newest:
        member.newest, member.info = since, info
    member.connections.append(connection)
    return True
