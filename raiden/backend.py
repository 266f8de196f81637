"""The one way from a router to everything behind it. Today that is the backbone; history and the roster come here too.

A frame published by any worker goes up by PUSH and comes down by SUB to the workers that asked for it, the publisher's
own included: there is one path, local or not.

**In force.** A subscription travels to the forwarder by itself, so some time passes before it holds. A round tells
when: after the subscriptions, subscribe to a topic that nobody used before, and publish to it until it comes back.
Pipes are first in, first out, so then everything subscribed earlier holds too. One round serves all that wait.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator, Sequence

import gevent
import zmq
from gevent.event import AsyncResult

from raiden.forwarder import Addresses
from raiden.message import CONTROL_TOPIC, InvalidFrame, Message

TURN_FRAMES = 1024
TURN_BYTES = 256 * 1024

FULL = "the backbone is full: try again later"

_NONCE = CONTROL_TOPIC + b"n"
_ASK = CONTROL_TOPIC + b"?"
_ANSWER = CONTROL_TOPIC + b"!"


class BackboneFull(Exception):
    """The backbone takes no more now; the message was not published. Try again later."""


class NotInForce(Exception):
    """The backbone did not confirm the subscriptions in time."""


class Question:
    """What another worker of this node asks all of them; answer it with `Backend.answer`."""

    __slots__ = ("reply_to", "text")

    def __init__(self, reply_to: bytes, text: bytes) -> None:
        self.reply_to = reply_to
        self.text = text


class Backend:
    """A worker's connection to the backbone. One greenlet or callback at a time may call it; none of it blocks but
    `in_force` and `ask`, which wait in the calling greenlet."""

    def __init__(self, addresses: Addresses, *, workers: int = 1, high_water: int = 100_000) -> None:
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
        self._workers = workers
        self._id = os.urandom(8).hex().encode()
        self._numbers = itertools.count(1)
        self._round: AsyncResult | None = None
        self._next_round: AsyncResult | None = None
        self._nonces: dict[bytes, AsyncResult] = {}
        self._answers: dict[bytes, list[bytes]] = {}
        self._complete: dict[bytes, AsyncResult] = {}
        self.pushed = 0
        self.depth = 0
        self.round_trip = 0.0
        self.round_trip_at = 0.0
        self.subscribe(_ASK)
        self.subscribe(_ANSWER + self._id)

    @property
    def fileno(self) -> int:
        """Readable when there may be something to receive. Edge-triggered (ZMQ_FD): receive until nothing comes, and
        again after any other call."""
        return self._sub.fileno()

    def close(self) -> None:
        self.touched.close()
        self._context.destroy(linger=0)

    def publish(self, messages: Sequence[Message]) -> None:
        """Hand messages of one channel to the backbone, all or, raising BackboneFull, none."""
        if len(messages) == 1:
            self._send(messages[0].to_frame())
        else:
            # The parts of a ZeroMQ message arrive all or not at all; forwarders go by the first part's topic.
            try:
                self._push.send_multipart([message.to_frame() for message in messages], zmq.NOBLOCK)
            except zmq.Again:
                raise BackboneFull(FULL) from None
        self.pushed += len(messages)

    def _send(self, frame: bytes) -> None:
        try:
            self._push.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            raise BackboneFull(FULL) from None

    def subscribe(self, topic: bytes) -> None:
        self._sub.setsockopt(zmq.SUBSCRIBE, topic)
        self.touched.send()

    def unsubscribe(self, topic: bytes) -> None:
        self._sub.setsockopt(zmq.UNSUBSCRIBE, topic)
        self.touched.send()

    def receive(self) -> Iterator[tuple[bytes, bytes] | Question]:
        """Yield ``(channel, frame)`` and questions, at most a turn's worth (`TURN_FRAMES`, `TURN_BYTES`)."""
        recv = self._sub.recv
        size = 0
        try:
            for _ in range(TURN_FRAMES):
                frame = recv(zmq.NOBLOCK)
                if frame[:1] == CONTROL_TOPIC:
                    question = self._control(frame)
                    if question:
                        yield question
                    continue
                yield frame[: frame.find(b"\0")], frame
                size += len(frame)
                if size > TURN_BYTES:
                    return
        except zmq.Again:
            return

    @property
    def readable(self) -> bool:
        """Something waits to be received."""
        return bool(int(self._sub.get(zmq.EVENTS)) & zmq.POLLIN)

    def _control(self, frame: bytes) -> Question | None:
        topic, _, text = frame.partition(b"\0")
        if topic.startswith(_NONCE):
            waiting = self._nonces.get(topic)
            if waiting is not None:
                waiting.set(text)
        elif topic == _ANSWER + self._id:  # a pattern may bring others' answers too
            number, _, answer = text.partition(b"\0")
            answers = self._answers.get(number)
            if answers is not None:
                answers.append(answer)
                if len(answers) == self._workers:
                    self._complete[number].set()
        elif topic == _ASK:
            reply_to, _, question = text.partition(b"\0")
            return Question(reply_to, question)
        return None

    def in_force(self, timeout: float = 5.0) -> None:
        """Wait until every subscription made before this call holds; raise NotInForce after ``timeout`` seconds."""
        # A round under way began before this call, so it proves nothing for us: wait for the one after it.
        if self._next_round is None:
            self._next_round = AsyncResult()
            if self._round is None:
                gevent.spawn(self._run_rounds, timeout)
        try:
            self._next_round.get(timeout=2 * timeout)
        except gevent.Timeout:
            raise NotInForce("the backbone does not answer") from None

    def _run_rounds(self, timeout: float) -> None:
        while self._next_round is not None:
            self._round, self._next_round = self._next_round, None
            try:
                self._run_round(timeout)
            except (NotInForce, BackboneFull) as error:
                self._round.set_exception(NotInForce(str(error)))
            else:
                self._round.set()
            self._round = None

    def _run_round(self, timeout: float) -> None:
        topic = _NONCE + self._id + b"%d" % next(self._numbers)
        back = self._nonces[topic] = AsyncResult()
        started, wait, pushed = time.monotonic(), 0.001, self.pushed
        self.subscribe(topic)
        try:
            # The nonce may overtake its own subscription and be dropped at the forwarder: repeat it.
            while time.monotonic() - started < timeout:
                self._send(topic + b"\0")
                if back.wait(wait) is not None or back.ready():
                    self.round_trip_at = time.monotonic()
                    self.round_trip = self.round_trip_at - started
                    self.depth = self.pushed - pushed
                    return
                self.depth = self.pushed - pushed
                wait = min(2 * wait, 0.25)
            raise NotInForce("the backbone does not answer")
        finally:
            del self._nonces[topic]
            self.unsubscribe(topic)

    def ask(self, text: bytes, timeout: float = 1.0) -> list[bytes]:
        """The answers of all workers of the node, this one included, or of those that answer within ``timeout``."""
        number = b"%d" % next(self._numbers)
        answers = self._answers[number] = []
        complete = self._complete[number] = AsyncResult()
        try:
            self._send(_ASK + b"\0" + self._id + b" " + number + b"\0" + text)
            complete.wait(timeout)
            return answers
        except BackboneFull:
            return answers
        finally:
            del self._answers[number], self._complete[number]

    def answer(self, question: Question, text: bytes) -> None:
        asker, _, number = question.reply_to.partition(b" ")
        try:
            self._send(_ANSWER + asker + b"\0" + number + b"\0" + text)
        except BackboneFull:
            return  # the asker takes those that come in time

    @staticmethod
    def message(channel: bytes, frame: bytes) -> Message | None:
        """The message in the frame, or None for one that this version can't read."""
        try:
            return Message.from_frame(channel, frame)
        except InvalidFrame:
            return None
