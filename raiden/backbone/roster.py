"""The roster: the nodes of the cluster, by what they say of themselves. Pure: beats in, decisions out.

A node says a beat every second and whenever something changes: its id, address and figures, and the nodes that it
knows. A node is known by the id of its own life, so a restart is another node.

     connecting --link in force both ways--> connected --announces that it stops--> leaving --gone--> (forgotten)
         any of them --silent for SUSPECT, or its link to us broke--> suspected --silent for DROP--> (forgotten)
                                                                        |--heard again--> back

Only nodes that are not suspected are waited for; suspected ones are named.
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import msgspec

from raiden.backbone.frames import VERSION
from raiden.model.encoding import dumps

# Seconds.
BEAT, SUSPECT, DROP = 1.0, 3.5, 10.0
# Wall clocks that are further apart than this are worth a warning; nothing here relies on them.
CLOCK_SKEW = 5.0
# Nodes that a beat tells of; the next beat tells of others, so that a beat's size is bounded.
TOLD = 16

UP, LEAVING, GONE = "up", "leaving", "gone"

T = TypeVar("T")


class InvalidBeat(ValueError):
    """The bytes are no beat; the text says why."""


class OtherVersion(InvalidBeat):
    """A node that speaks another version of the backbone."""

    def __init__(self, node: str, address: str, protocol: int) -> None:
        super().__init__(f"it speaks version {protocol} of the backbone, this node {VERSION}")
        self.node = node
        self.address = address


# Types of a beat's fields: texts of a line, whole numbers not below zero, seconds of clocks that are not far beyond
# their use. All else is refused, so that a beat's fields can be counted with, and told as JSON.
Text = Annotated[str, msgspec.Meta(max_length=300)]
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
MAX_LINKED, MAX_TOLD = 10_000, 1000


@dataclass(slots=True)
class Beat:
    """A beat: what a node says of itself. ``store`` is the kind of its history's store: redis, sqlite, none; ``since``
    and ``clock`` are wall-clock seconds; ``stamp`` is the sender's alone, to be sent back to it; ``linked`` are the ids
    of the nodes where its subscriptions are in force; ``peers`` are ``[address, key]`` of nodes that it knows."""

    id: Text
    address: Text
    protocol: int = VERSION
    key: Annotated[str, msgspec.Meta(pattern="^[!-~]{0,40}$")] = ""
    version: Text = ""
    store: Text = ""
    phase: Text = UP
    since: Seconds = 0.0
    clock: Seconds = 0.0
    stamp: Seconds = 0.0
    workers: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    connections: Count = 0
    channels: Count = 0
    messages_in: Count = 0
    messages_out: Count = 0
    linked: Annotated[list[Text], msgspec.Meta(max_length=MAX_LINKED)] = field(default_factory=list)
    peers: Annotated[
        list[Annotated[list[Text], msgspec.Meta(min_length=2, max_length=2)]], msgspec.Meta(max_length=MAX_TOLD)
    ] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        return dumps(dataclasses.asdict(self))

    def introduction(self, number: int) -> bytes:
        """The short form for asking an unknown node; ``number`` makes it unlike any other."""
        short = {"id": self.id, "address": self.address, "protocol": self.protocol, "key": self.key, "n": number}
        return dumps(short)

    @classmethod
    def from_bytes(cls, data: bytes) -> Beat:
        """Read a beat; raises InvalidBeat, and for a node of another version OtherVersion. Fields that this version
        doesn't know are skipped, missing ones have their defaults."""
        introduction = _read(data, _Introduction)
        node, address = introduction.id, introduction.address
        if not (_is_text(node, 64) and _is_text(address, 300)):
            raise InvalidBeat("no id and address")
        if introduction.protocol != VERSION:
            raise OtherVersion(node, address, introduction.protocol)
        beat = _read(data, cls)
        for text in (beat.version, beat.store, beat.phase, *(key for _, key in beat.peers)):
            if text and not _is_text(text, 64):
                raise InvalidBeat(f"{text[:40]!r} is no word")
        if not all([_is_text(node, 64) for node in beat.linked]):
            raise InvalidBeat("linked holds something else than ids")
        if not all([_is_text(address, 300) and key.isascii() for address, key in beat.peers]):
            raise InvalidBeat("peers holds something else than addresses with keys")
        return beat


class _Introduction(msgspec.Struct):
    """The fields that each version of a beat has."""

    id: str
    address: str
    protocol: int


class Echo(msgspec.Struct):
    """The echo of a beat that the node ``sender`` has heard; ``stamp`` is that of the beat. ``breaks`` counts how often
    the link of the beat's node broke, as the sender has noticed."""

    sender: str = msgspec.field(name="from")
    stamp: Seconds
    breaks: Count = 0

    @classmethod
    def from_bytes(cls, data: bytes) -> Echo:
        """Raises InvalidBeat."""
        return _read(data, cls)

    def to_bytes(self) -> bytes:
        return msgspec.json.encode(self)


class Report(msgspec.Struct):
    """The figures of a worker, and the state of the roster (`serial`) that it goes by."""

    worker: Count
    serial: Count
    connections: Count = 0
    channels: Count = 0
    messages_in: Count = 0
    messages_out: Count = 0

    @classmethod
    def from_bytes(cls, data: bytes) -> Report:
        """Raises InvalidBeat."""
        return _read(data, cls)


class State(msgspec.Struct):
    """The state that the roster tells the node's workers: the nodes, as `Roster.rows`, this one first. ``alone``: this
    node has never heard of another."""

    serial: Count
    nodes: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]
    alone: bool = False

    @classmethod
    def from_bytes(cls, data: bytes) -> State:
        """Raises InvalidBeat."""
        state = _read(data, cls)
        try:
            msgspec.convert(state.nodes, list[_Row])
        except msgspec.ValidationError as error:
            raise InvalidBeat(str(error)) from None
        return state


class _Row(msgspec.Struct):
    """The fields of a node's row that the workers use."""

    id: Text
    address: Text
    state: Text
    workers: Count


def _read(data: bytes, kind: type[T]) -> T:
    """JSON of this kind, strictly: no NaN, nothing that a double can't hold. Raises InvalidBeat."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidBeat(f"{error}"[:200]) from None


def _is_text(value: str, longest: int) -> bool:
    return 0 < len(value) <= longest and value.isprintable()


def share_history(one: Beat, other: Beat) -> bool:
    """Whether two nodes may keep the same history: the file of a node is its own. A node that doesn't say its store is
    not judged."""
    return not one.store or not other.store or (one.store == other.store and one.store != "sqlite")


class Node:
    """Another node. ``endpoint`` is where the downlink is connected to it, ``heard`` the time of its last beat
    (monotonic seconds). A link may break so that only one of its ends knows: ``breaks`` counts how often the node's
    link to this one broke, ``told_breaks`` is what the node says of this node's link. ``holds``: the node's
    subscriptions are in force here."""

    __slots__ = ("beat", "breaks", "endpoint", "heard", "holds", "lag", "linked", "suspected", "told_breaks")

    def __init__(self, beat: Beat, endpoint: str, now: float) -> None:
        self.beat = beat
        self.endpoint = endpoint
        self.heard = now
        self.lag: float | None = None
        self.linked = False  # this node's subscriptions are in force there
        self.suspected = False
        self.breaks = self.told_breaks = 0
        self.holds = True


class Roster:
    """The nodes that this node knows. Methods that may change a node's state return whether they did."""

    def __init__(self, own: Beat) -> None:
        self.own = own
        self.nodes: dict[str, Node] = {}

    def state(self, node: Node) -> str:
        if node.suspected:
            return "suspected"
        if node.beat.phase == LEAVING:
            return "leaving"
        is_linked = node.linked and node.holds and self.own.id in node.beat.linked
        return "connected" if is_linked else "connecting"

    def add(self, beat: Beat, endpoint: str, now: float) -> Node:
        node = self.nodes[beat.id] = Node(beat, endpoint, now)
        return node

    def hear(self, beat: Beat, now: float) -> bool:
        """Take a beat of a known node."""
        node = self.nodes[beat.id]
        before = self.state(node)
        node.beat = beat
        node.heard = now
        node.suspected = False
        return self.state(node) != before

    def suspect(self, node: Node) -> bool:
        changed = not node.suspected
        node.suspected = True
        return changed

    def silent(self, now: float) -> tuple[list[Node], list[Node]]:
        """The nodes to suspect now, and the nodes to drop."""
        nodes = self.nodes.values()
        dropped = [node for node in nodes if now - node.heard > DROP]
        suspected = [node for node in nodes if SUSPECT < now - node.heard <= DROP and not node.suspected]
        return suspected, dropped

    def excuse(self, seconds: float) -> None:
        """Excuse the silence of all nodes for ``seconds``, because this node itself stood still."""
        for node in self.nodes.values():
            node.heard += seconds

    def beat(self, now: float, clock: float) -> Beat:
        """This node's next beat."""
        live = [node for node in self.nodes.values() if not node.suspected and node.beat.phase == UP]
        told = live if len(live) <= TOLD else random.sample(live, TOLD)
        self.own.stamp, self.own.clock = now, clock
        self.own.linked = [node.beat.id for node in self.nodes.values() if node.linked]
        self.own.peers = [[node.beat.address, node.beat.key] for node in told]
        return self.own

    def rows(self, clock: float) -> list[dict[str, Any]]:
        """All nodes for people and workers to read, this one first."""
        rows = [_row(self.own, LEAVING if self.own.phase == LEAVING else "self", clock, None)]
        for node in sorted(self.nodes.values(), key=lambda node: node.beat.address):
            rows.append(_row(node.beat, self.state(node), clock, node.lag))
        return rows


def _row(beat: Beat, state: str, clock: float, lag: float | None) -> dict[str, Any]:
    return {
        "id": beat.id,
        "address": beat.address,
        "state": state,
        "version": beat.version,
        "store": beat.store,
        "since": round(beat.since, 3),
        "uptime": round(max(0.0, (beat.clock or clock) - beat.since), 3),
        "workers": beat.workers,
        "connections": beat.connections,
        "channels": beat.channels,
        "messages_in": beat.messages_in,
        "messages_out": beat.messages_out,
        "lag": lag,
    }
