"""The one way from a router to everything behind it: the backbone, the roster and the history.

A frame published by any worker goes up by PUSH and comes down by SUB to the workers that asked for it, of this node and
of all others, the publisher's own included: there is one path, local or not.

**History.** A message of a channel with history is appended first and goes to the backbone with its cursor; then it is
acknowledged. If it is lost on the way there, the routers miss it and fetch it (`raiden.delivery.orders`).

**In force.** A subscription travels to the forwarders of all nodes by itself, so some time passes before it holds. A
round tells when: after the subscriptions, subscribe to a topic that nobody used before, a nonce. This worker publishes
it until it comes back, and so does each other node when it hears of the subscription, with its id. Pipes are first in,
first out, so when it has come from a node, everything subscribed earlier holds there too. One round serves all that
wait. Nodes that are suspected, or don't answer in time, are not waited for but named.

**Alone.** As long as this worker is its node's only one, and the roster has heard of no other node, nobody else can
want a message: then it does not go by the backbone, which takes more than all else about a small message, but straight
to the router; nor do subscriptions. When another node comes the worker leaves that state: it makes the subscriptions
that it has, and then a round of its own; only then it tells the roster that it goes by the new state, and only then
that node hears that its subscriptions are in force here. So nothing is lost or overtaken on the way. There is no way
back.

**The roster** comes from the node's backbone process (`raiden.backbone.cluster`). Each state of it has a serial number;
reports tell the roster which one this worker goes by."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import gevent
import zmq
from gevent.event import AsyncResult, Event

from raiden.backbone import frames
from raiden.backbone.addresses import Addresses
from raiden.backbone.frames import OWN_TOPICS, InvalidFrame
from raiden.backbone.roster import InvalidBeat, State
from raiden.history.client import History
from raiden.history.store import Append, Appended, StoreFailed
from raiden.model.encoding import dumps
from raiden.model.message import Message
from raiden.model.options import Channels
from raiden.model.refusals import Unavailable
from raiden.runtime import faults

log = logging.getLogger(__name__)

TURN_FRAMES: Final = 1024
# Subscriptions that are made before others have their turn.
AT_ONCE = 1000
TURN_BYTES: Final = 256 * 1024
# Seconds that a round waits for the other nodes, for those that did not answer the last one, and for this node.
WAIT_FOR_NODES, WAIT_FOR_LATE_NODES, NODE_PATIENCE = 3.0, 0.3, 5.0

FULL = "the backbone is full: try again later"

# As a plain number: an operation on pyzmq's enumerations takes longer than to send.
_NOBLOCK: Final = int(zmq.NOBLOCK)


Stored = Callable[[list[Appended] | StoreFailed], None]


class BackboneFull(Unavailable):
    """The backbone takes no more now; the message was not published. Try again later."""


class NotInForce(Unavailable):
    """The backbone did not confirm the subscriptions in time."""


class Question:
    """What a worker asks others, of this node or of all; answer it with `Backend.answer`."""

    __slots__ = ("reply_to", "text")

    def __init__(self, reply_to: bytes, text: bytes) -> None:
        self.reply_to = reply_to
        self.text = text


class _Waiting:
    """Something was asked: the answers so far, and `more` when there is another one."""

    __slots__ = ("answers", "more")

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.more = Event()


class Backend:
    """Worker ``worker``'s connection to the backbone, and to the node's history process where there is one
    (``channels`` tells which channels keep history). ``sole``: the node has no other worker. One greenlet or callback
    at a time may call it; none of it blocks but `in_force`, `ask` and `check`, which wait in the calling greenlet."""

    def __init__(
        self, addresses: Addresses, *, worker: int = 0, workers: int = 1, high_water: int = 100_000,
        channels: Channels | None = None, sole: bool = False,
    ) -> None:  # fmt: skip
        self._context = zmq.Context()
        self._push = self._context.socket(zmq.PUSH)
        self._sub = self._context.socket(zmq.SUB)
        for socket in (self._push, self._sub):
            socket.linger = 0
            socket.sndhwm = socket.rcvhwm = high_water
        self._sub.sndhwm = 0  # subscriptions are messages too, and none may be dropped (libzmq issue 2258)
        self._push.connect(addresses.publish)
        self._sub.connect(addresses.uplink)
        self._sub.connect(addresses.downlink)
        # A call on a ZeroMQ socket may swallow the edge of its descriptor: this watcher asks for another look.
        self.touched = gevent.get_hub().loop.async_(ref=False)
        # Is called soon when there is something to receive that did not go by the backbone.
        self.heard: Callable[[], None] = self.touched.send
        self.alone = False
        self.high_water = high_water
        self.channels = channels
        self.history = History(addresses.history) if channels else None
        self._own = addresses.node.encode()
        self._worker = worker
        self._workers = workers
        self._id = os.urandom(8).hex().encode()
        self._numbers = itertools.count(1)
        # Rounds that were begun; the last one that all nodes answered.
        self.rounds = self.confirmed = 0
        self._round: AsyncResult | None = None
        self._next_round: AsyncResult | None = None
        self._waiting: dict[bytes, _Waiting] = {}
        self._serial = 0
        self._rows: list[dict[str, Any]] = []
        self._settled = False
        self._loop = gevent.get_hub().loop
        # Runs of messages that did not go by the backbone, and how many messages they are.
        self._local: deque[Sequence[Message]] = deque()
        self._local_count = 0
        # What is subscribed to, but for the backbone.
        self._deferred: set[bytes] = set()
        self._sole = sole
        self._goes_by = 0
        self._joining = False
        self._late: set[bytes] = set()
        self._unconfirmed: tuple[str, ...] = ()
        self.more = False  # the last turn was full: there is probably more
        self.enough = False  # what was received takes long: no more in this turn
        self.pushed = 0
        self.depth = 0
        self.round_trip = 0.0
        self.round_trip_at = 0.0
        self._answer_topic = frames.ANSWER + self._id
        self._roster_topic = frames.ROSTER + self._own
        self._ask_topics = (frames.ASK, frames.ASK + b" " + self._own)
        for topic in (*self._ask_topics, self._answer_topic, self._roster_topic):
            self.subscribe(topic + b"\0")

    @property
    def fileno(self) -> int:
        """Readable when there may be something to receive. Edge-triggered (ZMQ_FD): receive until nothing comes, and
        again after any other call."""
        return self._sub.fileno()

    def close(self) -> None:
        self.touched.close()
        if self.history is not None:
            self.history.close()
        self._context.destroy(linger=0)

    def publish(self, messages: Sequence[Message]) -> None:
        """Hand messages of one channel and one kind to the backbone, all or, raising BackboneFull, none."""
        if self.alone:
            self._publish_alone(messages)
        else:
            self._send(frames.to_frame(messages))
            self.pushed += len(messages)

    def _publish_alone(self, messages: Sequence[Message]) -> None:
        if self._local_count >= self.high_water:
            raise BackboneFull(FULL)
        if not self._local:
            self._loop.run_callback(self.heard)
        self._local.append(messages)
        self._local_count += len(messages)

    def keeps(self, channel: str) -> bool:
        """The channel has a history."""
        return self.channels is not None and self.channels.of(channel).keeps

    def most_at_once(self, channel: str) -> int:
        """How many messages may be published to a channel together; 0: any number."""
        return 0 if self.channels is None else self.channels.of(channel).most_at_once

    def store(self, groups: Sequence[Sequence[Message]], key: str | None, done: Stored) -> None:
        """Append groups of messages, each of one channel with history, all or none; publish them; and call ``done``
        with where they stand, or with why they were not appended. What was appended under ``key`` before is not
        published again. Raises StoreFailed where too much waits already."""
        assert self.history is not None

        def stored(result: list[Appended] | StoreFailed) -> None:
            if isinstance(result, list):
                self.publish_stored(groups, result)
            done(result)

        self.history.append([self._append(group, key) for group in groups], stored)

    def store_now(self) -> None:
        """Don't wait for the end of the turn with what is to be stored."""
        assert self.history is not None
        self.history.send()

    def _append(self, messages: Sequence[Message], key: str | None) -> Append:
        return self.append_of(messages[0].channel, [(int(each.kind), each.payload) for each in messages], key)

    def append_of(self, channel: str, messages: Sequence[tuple[int, bytes]], key: str | None = None) -> Append:
        """How messages are appended to a channel, by its options."""
        assert self.channels is not None
        options = self.channels.of(channel)
        return Append(
            channel, messages,
            size=options.history_size, ttl=options.history_ttl, key=key, durability=options.durability,
            retain=options.retain, discard_new=options.discard == "new",
        )  # fmt: skip

    def publish_stored(self, groups: Sequence[Sequence[Message]], result: Sequence[Appended]) -> None:
        """Hand groups of messages to the backbone that stand in the history where ``result`` says."""
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
                    break  # the routers find in the history what they miss

    def _send(self, frame: bytes) -> None:
        try:
            self._push.send(frame, _NOBLOCK)
        except zmq.Again:
            raise BackboneFull(FULL) from None

    def subscribe(self, topic: bytes) -> None:
        if self.alone and not self._joining:
            self._deferred.add(topic)
        else:
            self._set(zmq.SUBSCRIBE, topic)

    def unsubscribe(self, topic: bytes) -> None:
        if topic in self._deferred:
            self._deferred.discard(topic)
        else:
            self._set(zmq.UNSUBSCRIBE, topic)

    def _set(self, option: int, topic: bytes) -> None:
        self._sub.setsockopt(option, topic)
        self.touched.send()

    def receive(self, *, local: bool = False) -> Iterator[tuple[bytes, Sequence[Message]] | Question]:
        """Yield messages of a channel (none where a frame can't be read) and questions, at most a turn's worth:
        `TURN_FRAMES`, and `TURN_BYTES` and the message that goes over; less once `enough` is set. ``local``: only what
        did not go by the backbone."""
        count = size = 0
        self.more = True
        self.enough = False
        while self._local:
            messages = self._local.popleft()
            self._local_count -= len(messages)
            yield messages[0].channel.encode(), messages
            count += len(messages)
            size += sum([len(each.payload) for each in messages])
            if count > TURN_FRAMES or size > TURN_BYTES or self.enough:
                return
        if local:
            self.more = False
            return
        recv = self._sub.recv
        size = 0
        try:
            for _ in range(TURN_FRAMES):
                frame = recv(_NOBLOCK)
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
        """Something waits to be received."""
        return bool(self._local) or bool(int(self._sub.get(zmq.EVENTS)) & zmq.POLLIN)

    def _hear(self, frame: bytes) -> Question | None:
        """One of Raiden's own messages. A client's pattern may bring those that are meant for others, too."""
        topic, _, text = frame.partition(b"\0")
        if topic in self._waiting:
            self._heard(topic, text)
        elif topic == self._answer_topic:
            number, _, answer = text.partition(b"\0")
            self._heard(number, answer)
        elif topic in self._ask_topics:
            reply_to, _, question = text.partition(b"\0")
            return Question(reply_to, question)
        elif topic == self._roster_topic:
            self._hear_roster(text)
        return None

    def _heard(self, what: bytes, answer: bytes) -> None:
        waiting = self._waiting.get(what)
        if waiting is not None:
            waiting.answers.append(answer)
            waiting.more.set()

    # The nodes.

    def _hear_roster(self, text: bytes) -> None:
        try:
            state = State.from_bytes(text)
        except InvalidBeat:
            return  # not from this node's roster
        self._rows = state.nodes
        self._settled = all(row["state"] in ("connected", "leaving") for row in state.nodes[1:])
        if state.serial != self._serial:
            self._serial = state.serial
            self._go_by(state.serial, state.alone)
            for waiting in self._waiting.values():
                waiting.more.set()  # who is waited for may have changed

    def _go_by(self, serial: int, alone: bool) -> None:
        """The roster's state is this one: the node is alone, or not."""
        if self.alone and not alone:
            if not self._joining:
                self._joining = True
                faults.spawn("to go by the backbone", self._join)
            return
        # What went by the backbone already must not be overtaken.
        self.alone = alone and self._sole and not self.pushed
        self._goes_by = serial
        self.report({})

    def _join(self) -> None:
        """Go by the backbone, as soon as it brings what this worker has subscribed to."""
        while self._deferred:
            for _ in range(min(len(self._deferred), AT_ONCE)):
                self._set(zmq.SUBSCRIBE, self._deferred.pop())
            gevent.sleep(0)
        while self.alone:
            try:
                self._run_round(NODE_PATIENCE, others=False)
                self.alone = False
            except (NotInForce, BackboneFull):
                log.error("the backbone does not answer, and other nodes wait for it")
        self._goes_by = self._serial
        self.report({})

    def report(self, figures: dict[str, int]) -> None:
        """Tell the roster how this worker does, and which state of the roster it goes by."""
        try:
            line = {"worker": self._worker, "serial": self._goes_by, **figures}
            self._send(frames.REPORTS + self._own + b"\0" + dumps(line))
        except BackboneFull:
            return  # the next one comes soon

    def nodes(self) -> list[dict[str, Any]]:
        """What is known of the nodes of the cluster, this one first; empty before the roster was heard."""
        return self._rows

    def _nodes_in(self, *states: str) -> dict[bytes, str]:
        return {row["id"].encode(): row["address"] for row in self._rows[1:] if row["state"] in states}

    # In force.

    def holds(self, begun: int) -> bool:
        """Whether what was subscribed to when so many rounds were begun holds everywhere, as far as is known without
        another one."""
        if self.alone and not self._joining:
            return True
        # A node that comes later is connected only when all that there was holds there.
        return begun < self.confirmed and self._settled

    def in_force(self, timeout: float = NODE_PATIENCE) -> tuple[str, ...]:
        """Wait until every subscription made before this call holds at all nodes. Returns the addresses of the nodes
        where that could not be found out; raises NotInForce after ``timeout`` seconds without an answer of this
        node."""
        if self.alone and not self._joining:
            return ()
        # A round under way began before this call, so it proves nothing for us: wait for the one after it.
        if self._next_round is None:
            self._next_round = AsyncResult()
            if self._round is None:
                gevent.spawn(self._run_rounds, timeout)
        try:
            unconfirmed: tuple[str, ...] = self._next_round.get(timeout=2 * timeout)
        except gevent.Timeout:
            raise NotInForce("the backbone does not answer") from None
        return unconfirmed

    def _run_rounds(self, timeout: float) -> None:
        while self._next_round is not None:
            self._round, self._next_round = self._next_round, None
            self.rounds += 1
            number = self.rounds
            try:
                unconfirmed = self._run_round(timeout)
            except (NotInForce, BackboneFull) as error:
                self._round.set_exception(NotInForce(str(error)))
            except Exception as fault:  # whatever it is: those that wait must hear, and the next round must come
                faults.report("a round")
                self._round.set_exception(NotInForce(f"the node failed; its log says why: {fault}"))
            else:
                self._round.set(unconfirmed)
                if not unconfirmed:
                    self.confirmed = number
                if unconfirmed != self._unconfirmed and unconfirmed:
                    log.warning("subscriptions are not confirmed by all nodes", extra={"nodes": ", ".join(unconfirmed)})
                self._unconfirmed = unconfirmed
            self._round = None

    def _run_round(self, timeout: float, *, others: bool = True) -> tuple[str, ...]:
        """Until the nonce has come from this node, and from the ``others``."""
        topic = frames.NONCE + b"%b %d" % (self._id, next(self._numbers))
        waiting = self._waiting[topic] = _Waiting()
        started, wait = time.monotonic(), 0.001
        self.subscribe(topic + b"\0")
        try:
            while True:
                waiting.more.clear()
                # Who is waited for is looked up anew each time: nodes come and go meanwhile.
                missing = self._nodes_in("connecting", "connected", "leaving") if others else {}
                for node in waiting.answers:
                    missing.pop(node, None)
                passed = time.monotonic() - started
                patience = WAIT_FOR_LATE_NODES if missing.keys() <= self._late else WAIT_FOR_NODES
                if self._own in waiting.answers and self._serial and (not missing or passed > patience):
                    self._late = set(missing)
                    return (*missing.values(), *self._nodes_in("suspected").values())
                if passed > timeout:
                    raise NotInForce("the backbone does not answer")
                if self._own not in waiting.answers:
                    # The nonce may overtake its own subscription and be dropped at the forwarder: repeat it.
                    self._send(topic + b"\0" + self._own)
                if not self._serial:
                    self.report({})  # the roster tells those who don't know it
                waiting.more.wait(wait)
                wait = min(2 * wait, 0.25)
        finally:
            del self._waiting[topic]
            self.unsubscribe(topic + b"\0")

    def check(self, timeout: float = 2.0) -> None:
        """Send a message to this worker itself through the node's uplink and measure its way; raises NotInForce if it
        does not come back within ``timeout`` seconds."""
        number = b"check %d" % next(self._numbers)
        waiting = self._waiting[number] = _Waiting()
        started, pushed = time.monotonic(), self.pushed
        try:
            self._send(self._answer_topic + b"\0" + number + b"\0")
            back = waiting.more.wait(timeout)
        except BackboneFull as error:
            raise NotInForce(str(error)) from None
        finally:
            del self._waiting[number]
            self.depth = self.pushed - pushed
        if not back:
            raise NotInForce("the backbone does not pass messages")
        self.round_trip_at = time.monotonic()
        self.round_trip = self.round_trip_at - started

    # Questions.

    def ask(self, text: bytes, timeout: float = 1.0, *, everywhere: bool = False) -> list[bytes]:
        """The answers of all workers of this node, this one included, or of those that answer within ``timeout``;
        ``everywhere``: of all nodes."""
        number = b"%d" % next(self._numbers)
        waiting = self._waiting[number] = _Waiting()
        topic, expected = self._ask_topics[1], self._workers
        if everywhere:
            topic = self._ask_topics[0]
            expected += sum(row["workers"] for row in self._rows[1:] if row["state"] != "suspected")
        deadline = time.monotonic() + timeout
        try:
            self._send(topic + b"\0" + self._id + b" " + number + b"\0" + text)
            while len(waiting.answers) < expected and time.monotonic() < deadline:
                waiting.more.wait(deadline - time.monotonic())
                waiting.more.clear()
        except BackboneFull:
            pass  # nobody was asked
        finally:
            del self._waiting[number]
        return waiting.answers

    def answer(self, question: Question, text: bytes) -> None:
        asker, _, number = question.reply_to.partition(b" ")
        try:
            self._send(frames.ANSWER + asker + b"\0" + number + b"\0" + text)
        except BackboneFull:
            return  # the asker takes those that come in time


def _messages(channel: bytes, frame: bytes) -> list[Message]:
    try:
        return frames.from_frame(channel, frame)
    except InvalidFrame:
        return []
