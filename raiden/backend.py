"""The one way from a router to everything behind it: the backbone, the roster and the history.

A frame published by any worker goes up by PUSH and comes down by SUB to the workers that asked for it, of this node and
of all others, the publisher's own included: there is one path, local or not. Only a worker that is alone
(`raiden.backbone.alone`) needs no backbone.

A message of a channel with history is appended first and goes to the backbone with its cursor; then it is acknowledged.
If it is lost on the way there, the routers miss it and fetch it (`raiden.delivery.orders`).

Each job behind this face has its class in `raiden.backbone`: `Line` has the sockets, `Nodes` the roster's state,
`Rounds` finds out when subscriptions are in force, `Alone` has the worker's state while it is alone, `Asking` the
questions to workers, `Mail` the letters to single ones, `Gauge` the measurements.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

import zmq

from raiden.backbone import frames
from raiden.backbone.addresses import Addresses
from raiden.backbone.alone import Alone
from raiden.backbone.asking import Asking, Question
from raiden.backbone.frames import OWN_TOPICS, InvalidFrame
from raiden.backbone.gauge import Gauge
from raiden.backbone.line import NOBLOCK, Line
from raiden.backbone.mail import Mail
from raiden.backbone.nodes import Nodes
from raiden.backbone.refusals import BackboneFull, NotInForce
from raiden.backbone.rounds import NODE_PATIENCE, Rounds
from raiden.history.client import History
from raiden.history.conditions import ANYWHERE
from raiden.history.store import Append, Appended
from raiden.history.streams import Terms
from raiden.model.message import Cursor, Message
from raiden.model.options import Channels
from raiden.model.refusals import Refusal
from raiden.runtime import faults

__all__ = ["TURN_BYTES", "TURN_FRAMES", "BackboneFull", "Backend", "NotInForce", "Question", "Received", "Stored"]

# The most that a turn receives: frames or messages, and bytes.
TURN_FRAMES: Final = 1024
TURN_BYTES: Final = 256 * 1024

# A channel and messages of it (none where its frame can't be read), or the question of another worker.
Received: TypeAlias = "tuple[bytes, Sequence[Message]] | Question"
Stored = Callable[[list[Appended] | Refusal], None]


class Witness(Protocol):
    """A listener to all that is published here."""

    def appends(self, groups: Sequence[Sequence[Message]], key: str | None) -> list[Append]:
        """Appends to make together with the groups of messages that are stored under ``key``, all or none."""

    def published(self, messages: Sequence[Message]) -> None:
        """Hear of messages that are published and not stored."""


class Backend:
    """The backend of worker ``worker`` of its node's ``workers``. ``sole``: no other worker can want its messages.
    ``high_water`` bounds the messages that wait in a socket, or here. ``history`` is the line to the node's history
    process, and ``channels`` the options of channels; None where no channel keeps history.

    One greenlet or callback at a time may call it. Only `in_force`, `ask` and `check` wait, in the calling greenlet."""

    def __init__(
        self, addresses: Addresses, *, worker: int = 0, workers: int = 1, high_water: int = 100_000,
        history: History | None = None, channels: Channels | None = None, sole: bool = False,
    ) -> None:  # fmt: skip
        self.high_water = high_water
        self.history = history
        self.channels = channels
        self.witness: Witness | None = None
        name = os.urandom(8).hex().encode()
        self._line = Line(addresses, high_water=high_water)
        self._nodes = Nodes(self._line, own=addresses.node, worker=worker)
        self._rounds = Rounds(self._line, self._nodes, worker=name)
        self._alone = Alone(self._line, self._nodes, self._rounds, sole=sole, high_water=high_water)
        self._asking = Asking(self._line, self._nodes, worker=name, workers=workers)
        self._gauge = Gauge(self._line, self._asking)
        self.life = name.decode()
        """The name of this worker's life: one that takes its place has another."""
        self.mail = Mail(self._line, worker=name)
        self.more = False  # the last turn was full: there is probably more
        self.enough = False  # the received messages take long: no more in this turn
        # Those who hear the texts on topics of Raiden's own.
        self._followed: dict[bytes, Callable[[bytes], None]] = {}
        for topic in (*self._asking.topics, self._nodes.topic, self.mail.topic):
            self._line.subscribe(topic + b"\0")

    @property
    def fileno(self) -> int:
        """See `Line.fileno`."""
        return self._line.fileno

    def listen(self, look: Callable[[], None], look_here: Callable[[], None]) -> None:
        """Call ``look`` soon after a call that may have swallowed the edge of `fileno`; and ``look_here`` when there is
        something to `receive` that did not go by the backbone."""
        self._line.touched.start(look)
        self._alone.heard = look_here

    def listen_no_more(self) -> None:
        self._line.touched.stop()

    def look_again(self) -> None:
        """Call the ``look`` of `listen` soon."""
        self._line.touched.send()

    def close(self) -> None:
        self._line.close()

    # Publishing.

    def publish(self, messages: Sequence[Message]) -> None:
        """Hand messages of one channel and one kind to the backbone, all or, raising BackboneFull, none."""
        if self._alone.on:
            self._alone.publish(messages)
        else:
            self._line.publish(messages)

    def keeps(self, channel: str) -> bool:
        """Whether the channel has a history."""
        return self.channels is not None and self.channels.of(channel).keeps

    def most_at_once(self, channel: str) -> int:
        """The number of messages that may be published to a channel together; 0: any number."""
        return 0 if self.channels is None else self.channels.of(channel).most_at_once

    def store(
        self, groups: Sequence[Sequence[Message]], key: str | None, done: Stored, at: Mapping[str, Cursor] = ANYWHERE
    ) -> None:  # fmt: skip
        """Append groups of messages, each of one channel with history, all or none; publish them; and call ``done``
        with their places, or with the refusal. Messages that were appended under ``key`` before are not published
        again; all others only where the channels in ``at`` stand at these cursors. Raises StoreFailed where too much
        waits already."""
        assert self.history is not None

        def stored(result: list[Appended] | Refusal) -> None:
            if isinstance(result, list):
                del result[len(groups) :]
                self.publish_stored(groups, result)
            done(result)

        appends = [self._append(group, key, at) for group in groups]
        if self.witness is not None:
            appends += self.witness.appends(groups, key)
        self.history.append(appends, stored)

    def store_in_stream(self, channel: str, messages: Sequence[Message], terms: Terms, done: Stored) -> None:
        """Append messages, or none, to a stream on these terms (`raiden.history.streams`); publish them; and call
        ``done`` with their place and the outcome, or with the refusal. Raises StoreFailed where too much waits
        already."""
        assert self.history is not None and self.channels is not None

        def stored(result: list[Appended] | Refusal) -> None:
            if isinstance(result, list):
                del result[1:]
                if result[0].offsets:
                    self.publish_stored([messages], result)
            done(result)

        ends = bool(messages) and messages[-1].ends
        appends = [
            Append.by(
                self.channels.of(channel), channel, [each.entry for each in messages],
                ends=ends, hollow=ends and not messages[-1].payload, terms=terms,
            )
        ]  # fmt: skip
        if self.witness is not None and messages:
            appends += self.witness.appends([messages], None)
        self.history.append(appends, stored)

    def store_now(self) -> None:
        """Store now the messages that wait for the end of the turn."""
        assert self.history is not None
        self.history.send()

    def _append(self, messages: Sequence[Message], key: str | None, at: Mapping[str, Cursor]) -> Append:
        assert self.channels is not None
        channel, ends = messages[0].channel, messages[-1].ends
        return Append.by(
            self.channels.of(channel), channel, [each.entry for each in messages], key,
            at=at.get(channel), ends=ends, hollow=ends and not messages[-1].payload,
        )  # fmt: skip

    def publish_stored(self, groups: Sequence[Sequence[Message]], result: Sequence[Appended]) -> None:
        """Hand groups of messages to the backbone, with the places in the history that ``result`` has."""
        for messages, appended in zip(groups, result, strict=True):
            if appended.repeated:
                continue
            before = appended.before
            for each, cursor in zip(messages, appended.cursors(), strict=True):
                each.cursor, each.before = cursor, before
                before = cursor.proof
            for run in frames.runs(messages):
                try:
                    self.publish(run)
                except BackboneFull:
                    break  # the routers find the messages that they miss in the history

    # Subscribing.

    def subscribe(self, topic: bytes) -> None:
        """Receive the frames that begin with ``topic``: soon, and surely after `in_force`."""
        if self._alone.apart:
            self._alone.note(topic)
        else:
            self._line.subscribe(topic)

    def unsubscribe(self, topic: bytes) -> None:
        if not self._alone.forget(topic):
            self._line.unsubscribe(topic)

    @property
    def rounds(self) -> int:
        """The number of rounds that were begun, for `holds`."""
        return self._rounds.begun

    def holds(self, begun: int) -> bool:
        """Whether subscriptions from when ``begun`` rounds were begun hold everywhere, as far as is known without
        another round."""
        return self._alone.apart or self._rounds.hold(begun)

    def in_force(self, timeout: float = NODE_PATIENCE, *, own_topics: bool = False) -> tuple[str, ...]:
        """Wait until every subscription made before this call holds at all nodes. Returns the addresses of the nodes
        where that could not be found out; raises NotInForce after ``timeout`` seconds without an answer of this
        node. ``own_topics``: also those of `follow`, for which a worker that is alone has to wait, too."""
        return () if self._alone.apart and not own_topics else self._rounds.in_force(timeout)

    # Receiving.

    def receive(self, *, local: bool = False) -> Iterator[Received]:
        """Yield the messages and questions that have come, at most those of a turn: `TURN_FRAMES`, and `TURN_BYTES` and
        the message that goes over; fewer once `enough` is set. ``local``: only messages that did not go by the
        backbone."""
        count = size = 0
        self.more = True
        self.enough = False
        alone = self._alone
        while alone.runs:
            messages = alone.runs.popleft()
            alone.count -= len(messages)
            yield messages[0].channel.encode(), messages
            count += len(messages)
            size += sum([len(each.payload) for each in messages])
            if count > TURN_FRAMES or size > TURN_BYTES or self.enough:
                return
        if local:
            self.more = False
            return
        recv = self._line.recv
        size = 0
        try:
            for _ in range(TURN_FRAMES):
                frame = recv(NOBLOCK)
                if frame[:1] in OWN_TOPICS:
                    question = self._hear(frame)
                    if question:
                        yield question
                    continue
                channel = frame[: frame.find(b"\0")]
                yield channel, _messages(channel, frame)
                size += len(frame)
                if size > TURN_BYTES or self.enough:
                    return
        except zmq.Again:
            self.more = False

    @property
    def readable(self) -> bool:
        """Whether something waits to be received."""
        return bool(self._alone.runs) or self._line.readable

    def _hear(self, frame: bytes) -> Question | None:
        """Take one of Raiden's own messages. A client's pattern may bring messages that are meant for others, too."""
        topic, _, text = frame.partition(b"\0")
        if topic == self._nodes.topic:
            self.hear_roster(text)
        elif topic in self._followed:
            faults.call("a text of another worker", self._followed[topic], text)
        elif not self.mail.hear(topic, text) and not self._rounds.hear(topic, text):
            return self._asking.hear(topic, text)
        return None

    # Texts on topics of Raiden's own (`raiden.backbone.frames`), between workers.

    def follow(self, topic: bytes, heard: Callable[[bytes], None]) -> None:
        """Call ``heard`` with the texts that any worker tells on a topic: soon, and surely after `in_force`."""
        self._followed[topic] = heard
        self._line.subscribe(topic + b"\0")

    def unfollow(self, topic: bytes) -> None:
        del self._followed[topic]
        self._line.unsubscribe(topic + b"\0")

    def tell(self, topic: bytes, text: bytes) -> None:
        """Tell the workers that follow a topic, this one included. Raises BackboneFull."""
        self._line.send(topic + b"\0" + text)

    # The nodes, and their workers.

    @property
    def name(self) -> str:
        """The name of this worker in the cluster."""
        return self._nodes.name

    def all_workers(self) -> dict[str, bool]:
        """The names of all nodes' workers, and whether each is of a node that is not suspected."""
        return self._nodes.all_workers()

    def hear_roster(self, text: bytes) -> None:
        """Take a state of the node's roster, as `raiden.backbone.roster.State` has it."""
        state = self._nodes.hear(text)
        if state is not None:
            self._alone.go_by(alone=state.alone)
            self._rounds.nodes_changed()

    def nodes(self) -> list[dict[str, Any]]:
        """The rows of the cluster's nodes, this one first; empty before the roster was heard."""
        return self._nodes.rows

    @property
    def alone(self) -> bool:
        """Whether only this worker's own router gets its messages."""
        return self._alone.on

    def report(self, figures: dict[str, int]) -> None:
        """Tell the roster this worker's figures."""
        self._nodes.report(figures)

    def ask(self, text: bytes, timeout: float = 1.0, *, everywhere: bool = False) -> list[bytes]:
        """Ask all workers of this node, this one included (``everywhere``: of all nodes), and return the answers that
        come within ``timeout`` seconds."""
        return self._asking.ask(text, timeout, everywhere=everywhere)

    @property
    def workers_here(self) -> int:
        """The number of workers of this node."""
        return self._asking.workers_here

    @property
    def workers(self) -> int:
        """The number of workers that should answer a question to all nodes."""
        return self._asking.workers

    def answer(self, question: Question, text: bytes) -> None:
        """Answer the question of another worker."""
        self._asking.answer(question, text)

    # Measurements.

    def check(self, timeout: float = 2.0) -> None:
        """Send a message to this worker itself through the node's uplink and measure its way; raises NotInForce if it
        does not come back within ``timeout`` seconds."""
        self._gauge.check(timeout)

    @property
    def depth(self) -> int:
        """The number of messages that were published while the last `check` was under way."""
        return self._gauge.depth

    @property
    def round_trip(self) -> float:
        """The seconds that the last `check` took."""
        return self._gauge.round_trip

    @property
    def pushed(self) -> int:
        """The number of messages that went by the backbone."""
        return self._line.pushed


def _messages(channel: bytes, frame: bytes) -> list[Message]:
    try:
        return frames.from_frame(channel, frame)
    except InvalidFrame:
        return []
