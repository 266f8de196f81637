"""Publishing by a worker: a message is stored first where the channel keeps a history, then handed to the backbone.

Messages that the event loop brings in one turn are published together: those of one channel are one append to its
history, and one frame.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import gevent

from raiden.backbone.frames import runs
from raiden.backend import BackboneFull, Backend
from raiden.history.conditions import ANYWHERE
from raiden.history.store import Appended, StoreFailed
from raiden.history.streams import Terms
from raiden.model.message import EARLIEST, Cursor, Kind, Message
from raiden.model.refusals import Refusal
from raiden.runtime import faults
from raiden.runtime.stats import Stats

# The number of messages that are stored before the end of the turn: a commit for them costs less than they do.
WORTH_A_COMMIT: Final = 8

Published = Callable[[list[list[Cursor]] | Refusal], None]
Answered = Callable[[Any, "Cursor | Refusal | None"], None]


class Publisher:
    """A publisher by way of a backend, which counts the messages."""

    def __init__(self, backend: Backend, stats: Stats) -> None:
        self._backend = backend
        self._stats = stats
        self._loop = gevent.get_hub().loop
        # Messages to publish at the end of the turn, by channel, with the callbacks to tell; the number of those to be
        # stored. Those of a channel with history that are not to be stored stand behind its name and a NUL, which no
        # name has.
        self._batches: dict[str, tuple[list[Message], list[tuple[Answered, Any]], bool]] = {}
        self._to_store = 0

    def publish(
        self, *groups: Sequence[Message], key: str | None = None, at: Mapping[str, Cursor] = ANYWHERE, done: Published
    ) -> None:  # fmt: skip
        """Publish groups of messages, each of one channel, one kind and one label: a group, and all that are to be
        stored, as a whole or not at all. ``done`` is called later, with the cursors of each group, or the refusal;
        raises StoreFailed. Messages that were published under ``key`` in the last five minutes are not published again,
        and get the cursors that they got then. ``at`` has the cursors at which channels with history must stand."""
        self.publish_turn()
        keeps = [self.stores(group[0]) for group in groups]
        if not any(keeps):
            self._loop.run_callback(done, self._finish(groups, keeps, ()))
            return

        def stored(result: list[Appended] | Refusal) -> None:
            done(self._finish(groups, keeps, result) if isinstance(result, list) else result)

        self._backend.store([group for group, kept in zip(groups, keeps, strict=True) if kept], key, stored, at)

    def stores(self, message: Message) -> bool:
        """Whether a message is stored when it is published."""
        return not message.transient and self._backend.keeps(message.channel)

    def _finish(
        self, groups: Sequence[Sequence[Message]], keeps: Sequence[bool], result: Sequence[Appended]
    ) -> list[list[Cursor]] | BackboneFull:
        """Publish the groups that need not be stored, after the stored ones. Returns the cursors of all."""
        appended = iter(result)
        cursors: list[list[Cursor]] = []
        for group, kept in zip(groups, keeps, strict=True):
            if not kept:
                cursors.append([])
                try:
                    self.publish_now(group)
                except BackboneFull as error:
                    return error
                continue
            one = next(appended)
            cursors.append(one.cursors())
            if not one.repeated:
                self._count(group)
        return cursors

    def publish_stored(self, groups: Sequence[Sequence[Message]], result: Sequence[Appended]) -> None:
        """Publish groups of messages with the places in the history that ``result`` has."""
        self._backend.publish_stored(groups, result)

    def most_at_once(self, channel: str) -> int:
        """The number of messages that may be published to a channel together; 0: any number."""
        return self._backend.most_at_once(channel)

    def publish_now(self, messages: Sequence[Message]) -> None:
        """Publish messages of one channel, of one kind and label, which are not stored; raises BackboneFull."""
        self.publish_turn()
        self._publish(messages)

    def publish_one(
        self, message: Message, done: Answered, asker: Any, key: str | None = None, at: Cursor | None = None
    ) -> None:  # fmt: skip
        """Publish a message together with the others that the event loop brings in this turn, which costs each of them
        least: the messages of one channel are one append to its history, and one frame. Then ``done(asker, outcome)``
        is called, with the message's cursor, None where it is not stored, or the refusal. ``at`` is the cursor at which
        the channel must stand."""
        attributes = message.attributes  # `Message.ends` would be a call for each message
        if key is not None or at is not None or (attributes is not None and attributes.end):
            # What may be refused is appended by itself, and nothing stands behind an end.
            places = ANYWHERE if at is None else {message.channel: at}
            self.publish([message], key=key, at=places, done=lambda outcome: done(asker, _only(outcome)))
            return
        channel = message.channel
        if message.transient and self._backend.keeps(channel):
            channel += "\0"
        batch = self._batches.get(channel)
        if batch is None:
            if not self._batches:
                self._loop.run_callback(self.publish_turn)
            batch = self._batches[channel] = ([], [], not message.transient and self._backend.keeps(channel))
        messages, askers, keeps = batch
        messages.append(message)
        askers.append((done, asker))
        if keeps:
            self._to_store += 1
            if self._to_store >= WORTH_A_COMMIT:
                # The history works while the event loop goes on; it groups again the appends that come faster.
                self.publish_turn()
                self._backend.store_now()

    def publish_turn(self) -> None:
        """Publish the messages that wait for the end of the turn."""
        batches, self._batches = self._batches, {}
        self._to_store = 0
        answers: list[tuple[list[tuple[Answered, Any]], Sequence[Refusal | None]]] = []
        for messages, askers, keeps in batches.values():
            if not keeps:
                answers.append((askers, self._publish_runs(messages)))
                continue
            # Where one message may be refused for want of room, the others must not be refused with it.
            step = 1 if self._backend.most_at_once(messages[0].channel) else len(messages)
            for at in range(0, len(messages), step):
                some = askers[at : at + step]
                try:
                    self._store(messages[at : at + step], some)
                except StoreFailed as error:
                    answers.append((some, [error] * len(some)))
        # A publisher that is told may publish at once, which must not overtake the rest.
        for askers, outcomes in answers:
            _tell_all(askers, outcomes)

    def _publish_runs(self, messages: Sequence[Message]) -> list[Refusal | None]:
        """Publish messages of one channel, which are not stored. Returns the refusal of each, or None."""
        outcomes: list[Refusal | None] = []
        for run in runs(messages):
            outcome = None
            try:
                self._publish(run)
            except BackboneFull as error:
                outcome = error
            outcomes += [outcome] * len(run)
        return outcomes

    def _store(self, messages: Sequence[Message], askers: Sequence[tuple[Answered, Any]]) -> None:
        """Store messages of one channel; publish them, and tell the askers, when that is done. Raises StoreFailed."""

        def stored(result: list[Appended] | Refusal) -> None:
            if isinstance(result, list):
                self._count(messages)
            outcomes: Sequence[Cursor | Refusal]
            outcomes = result[0].cursors() if isinstance(result, list) else [result] * len(askers)
            _tell_all(askers, outcomes)

        self._backend.store([messages], None, stored)

    def _publish(self, messages: Sequence[Message]) -> None:
        self._backend.publish(messages)
        if self._backend.witness is not None:
            self._backend.witness.published(messages)
        self._count(messages)

    def _count(self, messages: Sequence[Message]) -> None:
        self._stats.published += len(messages)
        self._stats.bytes_in += sum([len(message.payload) for message in messages])
        passed = time.time_ns() // 1000 - messages[0].published
        self._stats.publish_latency.observe(max(0, passed) / 1e6, len(messages))

    def publish_to_stream(
        self, channel: str, messages: Sequence[Message], terms: Terms,
        done: Callable[[list[Appended] | Refusal], None],
    ) -> None:  # fmt: skip
        """Publish messages, or none, to a stream on these terms (`raiden.history.streams`), all or none. ``done`` is
        called later, with their place and the outcome, or the refusal; raises StoreFailed."""
        self.publish_turn()

        def stored(result: list[Appended] | Refusal) -> None:
            if isinstance(result, list) and result[0].offsets:
                self._count(messages)
            done(result)

        self._backend.store_in_stream(channel, messages, terms, stored)

    def clear(self, channel: str) -> None:
        """Delete a channel: clear its history and end its subscriptions. Waits; raises StoreFailed and BackboneFull."""
        history = self._backend.history if self._backend.keeps(channel) else None
        self.tell_deleted(channel, None if history is None else history.clear(channel))

    def tell_deleted(self, channel: str, epoch: str | None) -> None:
        """End the subscriptions to a channel that was deleted. ``epoch`` has ended with it ("": none has; None: the
        channel keeps no history). Waits; raises BackboneFull."""
        # Others may publish in the next epoch before they hear of the end of this one.
        cursor = None if epoch is None else EARLIEST._replace(epoch=epoch or EARLIEST.epoch)
        if not self._backend.alone:
            # Messages that other workers have acknowledged come before the end: their answers come behind these
            # messages.
            self._backend.ask(b"reached", everywhere=True)
        self.publish_now([Message(channel, Kind.DELETION, b"", cursor)])


def _tell_all(askers: Sequence[tuple[Answered, Any]], outcomes: Sequence[Cursor | Refusal | None]) -> None:
    """Tell each of the askers its outcome; a failure at one does not keep the others from hearing."""
    for (done, asker), outcome in zip(askers, outcomes, strict=True):
        try:
            done(asker, outcome)
        except Exception:  # whatever it is
            faults.report("an answer to a publisher")


def _only(outcome: list[list[Cursor]] | Refusal) -> Cursor | Refusal | None:
    """The cursor of the one message of the one group."""
    return outcome if isinstance(outcome, Refusal) else next(iter(outcome[0]), None)
