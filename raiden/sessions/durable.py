"""Durable subscriptions: consumers that share a channel's messages under one name, and acknowledge them.

The store has the place of a durable, and its claims with their ends, for all nodes. A `Consumer` claims messages for
one connection, when the durable's bell calls it (`raiden.sessions.bell`). When it ends, it gives back the claims that
were not acknowledged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from gevent.event import Event

from raiden.backend import NotInForce
from raiden.history.client import History
from raiden.history.store import Append, GiveUp, StoreFailed
from raiden.model import encoding
from raiden.model.message import Cursor, Kind, Message
from raiden.model.options import Channels
from raiden.model.page import Gap
from raiden.sessions.asks import Consume
from raiden.sessions.bell import LOOK, Bell, Bells


class Claim(NamedTuple):
    """A message that is the consumer's for a while; ``attempt`` is the number of its claims."""

    message: Message
    attempt: int


# A claimed message's proof, the number of its claims, and the time until which it is claimed.
_Claimed: TypeAlias = "tuple[str, int, float]"
# Messages that are to be acknowledged or rejected.
Taken: TypeAlias = "dict[Cursor, _Claimed]"


class Consumer:
    """A consumer, which claims messages of ``channel`` for the durable subscription ``name``: at most ``window`` that
    are not acknowledged, each for ``ack_wait`` seconds. A new durable begins at ``since`` (None: now). Raises
    TooManyConsumers and TooManyChannels."""

    def __init__(
        self, bells: Bells, channel: str, name: str, *, window: int, ack_wait: float,
        since: Cursor | None = None,
    ) -> None:  # fmt: skip
        history = bells.router.history
        assert history is not None
        self._history: History = history
        self._router = bells.router
        self._channel = channel
        self._name = name
        self._window = window
        self.ack_wait = ack_wait
        self._dead_letter, self._give_up = _give_up(bells.router.channels, channel)
        self._since = since
        # The claimed messages, by epoch and offset.
        self._claimed: dict[tuple[str, int], _Claimed] = {}
        self._made = self._in_force = self._called = self._more = False
        # Whether the history is asked for messages now, and the gap that it told after the consumer had ended.
        self.claiming = False
        self._gap: Gap | None = None
        self.wake = Event()
        self._bells = bells
        self._bell: Bell | None = bells.enter(self, channel, name)

    @property
    def over(self) -> bool:
        """Whether it claims no more: it was ended, or the channel was deleted."""
        return self._bell is None

    def claim(self, limit: int | None = None) -> tuple[list[Claim], Gap | None]:
        """Claim the messages that are there now, and return them with the gap of lost ones; waits for the history,
        raises StoreFailed. With ``limit`` 0, the durable is made for sure, and nothing is claimed."""
        room = self._room()
        limit = room if limit is None else min(room, limit)
        if limit == 0 and self._made:
            self._pass_on()
            return [], None
        self._called = False
        self.claiming = True
        try:
            return self._claim(limit)
        finally:
            self.claiming = False
            if self._bell is None:
                self.wake.set()  # for `rest`

    def _claim(self, limit: int) -> tuple[list[Claim], Gap | None]:
        deadline = time.monotonic() + self.ack_wait
        claimed = self._history.claim(
            self._channel, self._name, limit, self.ack_wait, self._since, self._give_up, make=not self._made
        )
        if claimed.ended:
            # The durable was forgotten, or the store lost it: nobody knows which messages it had still to get.
            self.end(release=False)
            return [], None
        self._made, self._more = True, claimed.more
        if claimed.letters is not None:
            # The letters are stored; this brings them to subscribers of the channel.
            letters = [Message(self._dead_letter, Kind.JSON, payload) for payload in claimed.letters.payloads]
            self._router.publisher.publish_stored([letters], [claimed.letters.appended])
        claims = [Claim(message, attempt) for message, attempt in claimed.messages(self._channel)]
        for message, attempt in claims:
            assert message.cursor is not None
            self._claimed[message.cursor.place] = message.cursor.proof, attempt, deadline
        if self._bell is None:
            self._bells.give_back(self._give_back)
            self._gap = claimed.gap
            return [], None
        if claimed.more or (limit and len(claims) == limit):
            self._bell.ring()  # there may be more than this consumer may have
        return claims, claimed.gap

    def rest(self) -> Gap | None:
        """Wait until a claim that was under way when the consumer ended is over. Returns the gap that it brought: the
        durable stands behind it now, so no other consumer will be told of it."""
        while self.claiming:
            self.wake.wait()
            self.wake.clear()
        return self._gap

    def _room(self) -> int:
        self._forget_late()
        return max(0, self._window - len(self._claimed))

    def claim_within(self, seconds: float, enough: Callable[[], bool]) -> tuple[list[Claim], Gap | None]:
        """Claim the messages that come within ``seconds``, or until ``enough``; all that are there are looked at."""
        deadline = time.monotonic() + seconds
        claims, gap = self.claim()
        while self._window and not (claims or gap or self.over or enough()):
            left = deadline - time.monotonic()
            if left <= 0 and not self._more:
                break
            # A client that has gone meanwhile takes nothing: that would be an attempt.
            if (self._more or self.wait(min(left, LOOK))) and not enough():
                claims, gap = self.claim()
        return claims, gap

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until there may be something to claim, or the consumer is over, at most ``timeout`` seconds (None: for
        as long as that takes). Returns whether there may be something."""
        if not self._in_force:
            # From here on new messages wake it; earlier ones may be there now.
            try:
                self._router.in_force([self._channel])
            except (NotInForce, StoreFailed):
                pass  # the regular look finds them
            else:
                self._in_force = True
                return True
        if not self._room():
            # Only its own client, or time, makes room.
            self.wake.wait(LOOK if timeout is None else timeout)
            self.wake.clear()
            return True
        while self._bell is not None and not self._called:
            self.wake.clear()
            self._bell.wait(self, timeout)
            if timeout is not None:
                break
        return self._called

    def take(self, cursors: Sequence[Cursor]) -> Taken:
        """Take the messages among the cursors that are this consumer's, to acknowledge or reject them, even if the
        consumer ends meanwhile: it then gives back only the others."""
        return {cursor: self._claimed.pop(cursor.place) for cursor in dict.fromkeys(cursors) if self._has(cursor)}

    def take_back(self, taken: Taken) -> None:
        """Take messages back that could not be acknowledged or rejected: the client may say it again."""
        for cursor, claim in taken.items():
            self._claimed.setdefault(cursor.place, claim)

    def acknowledge(self, taken: Taken) -> list[Cursor]:
        """Acknowledge messages, and return those that this consumer could still acknowledge. Waits; raises
        StoreFailed."""
        return self._settle(taken, lambda claims: acknowledge(self._history, self._channel, self._name, claims))

    def reject(self, taken: Taken, delay: float) -> list[Cursor]:
        """Give messages back, which come again, to any consumer, after ``delay`` seconds; return those that this
        consumer could still give back. Waits; raises StoreFailed."""
        returned = self._settle(taken, lambda claims: release(self._history, self._channel, self._name, claims, delay))
        if returned and not delay:
            self.ring()
        return returned

    @staticmethod
    def late(cursors: Sequence[Cursor], taken: Taken, done: Sequence[Cursor]) -> list[Cursor]:
        """The cursors that name none of the messages that are ``done``, among those that were ``taken``. A message has
        two cursors: with and without its proof."""
        proofs = {cursor.place: taken[cursor][0] for cursor in done}
        return [
            cursor for cursor in cursors if cursor.place not in proofs or cursor.proof not in ("", proofs[cursor.place])
        ]

    def _settle(self, taken: Taken, call: Callable[[list[tuple[Cursor, int]]], list[Cursor]]) -> list[Cursor]:
        try:
            done = call([(cursor, attempt) for cursor, (_, attempt, _) in taken.items()])
        except StoreFailed:
            self.take_back(taken)
            raise
        self.wake.set()
        return done

    def ring(self) -> None:
        """Ring the bell: there may be something for any of the durable's consumers on this worker."""
        if self._bell is not None:
            self._bell.ring()

    def _has(self, cursor: Cursor) -> bool:
        claimed = self._claimed.get(cursor.place)
        return claimed is not None and (not cursor.proof or cursor.proof == claimed[0])

    def end(self, *, release: bool = True) -> None:
        """Claim no more, and give back claims that are not acknowledged, or (``release`` is False) leave them for
        others to acknowledge."""
        bell = self._bell
        if bell is not None:
            self._pass_on()
            self._bell = None
            bell.leave(self)
            self.wake.set()
            if self._claimed and release:
                self._bells.give_back(lambda: self._give_back(bell))

    def _pass_on(self) -> None:
        """Ring for another consumer, where this one was called and has no use for that."""
        if self._called and self._bell is not None:
            self._called = False
            self._bell.ring()

    def _give_back(self, bell: Bell | None = None) -> None:
        claims = [(Cursor(*place, proof), attempt) for place, (proof, attempt, _) in self._claimed.items()]
        self._claimed.clear()
        release(self._history, self._channel, self._name, claims, 0.0)
        if bell is not None:
            bell.ring()

    def _forget_late(self) -> None:
        now = time.monotonic()
        for place in [place for place, (_, _, deadline) in self._claimed.items() if deadline <= now]:
            del self._claimed[place]

    # The methods that a bell calls of a waiter.

    def called(self) -> None:
        self._called = True
        self.wake.set()

    def ended(self) -> None:
        self._bell = None
        self.wake.set()


def _give_up(channels: Channels | None, channel: str) -> tuple[str, GiveUp]:
    """The dead-letter channel of a channel ("": there is none), and the rule by which its durables give messages up."""
    assert channels is not None
    options = channels.of(channel)
    letters = None
    if options.dead_letter:
        letters = Append.by(channels.of(options.dead_letter), options.dead_letter, [])
    return options.dead_letter, GiveUp(options.max_attempts, letters)


def poll(bells: Bells, ask: Consume, *, gone: Callable[[], bool], enough: Callable[[], bool]) -> bytes | None:
    """Do what a long-poll asks for, and wait at most until ``enough`` or ``gone``: then claims that nobody will hear of
    are given back. Returns the answer as JSON, with the cursors that could not be acknowledged or given back any more,
    or None where there is nothing or nobody to tell it; raises StoreFailed, TooManyConsumers and TooManyChannels."""
    history = bells.router.history
    assert history is not None
    channel, name = ask.channel, ask.durable
    # The consumer first: where there is no room for one, nothing is done.
    consumer = Consumer(bells, channel, name, window=ask.limit, ack_wait=ask.ack_wait, since=ask.since)
    claims, gap = list[Claim](), None
    try:
        done = acknowledge(history, channel, name, [(cursor, 0) for cursor in ask.acks])
        done += release(history, channel, name, [(cursor, 0) for cursor in ask.nacks], ask.nack_delay)
        settled = {cursor.place: cursor.proof for cursor in done}
        late = [str(cursor) for cursor in dict.fromkeys([*ask.acks, *ask.nacks]) if _is_late(cursor, settled)]
        if ask.nacks and not ask.nack_delay:
            consumer.ring()
        if not gone():
            claims, gap = consumer.claim_within(ask.wait, lambda: gone() or enough())
    finally:
        in_vain = gone()
        consumer.end(release=in_vain)
    if in_vain or not (claims or gap or late):
        return None
    items = b",".join([encoding.claim(None, message, attempt) for message, attempt in claims])
    told = b'"late":%b,' % encoding.dumps(late) if late else b""
    told += b'"gap":%b,' % encoding.dumps(encoding.gap(None, gap)) if gap else b""
    return b'{%b"messages":[%b]}' % (told, items)


def _is_late(cursor: Cursor, settled: Mapping[tuple[str, int], str]) -> bool:
    """Whether a cursor names none of the messages that are settled, whose proofs are known ("": they are not)."""
    proof = settled.get(cursor.place)
    return proof is None or ("" not in (proof, cursor.proof) and proof != cursor.proof)


def acknowledge(history: History, channel: str, name: str, claims: Sequence[tuple[Cursor, int]]) -> list[Cursor]:
    """Acknowledge messages of a durable, each by its cursor and attempt (0: any). Returns those that were claimed so;
    raises StoreFailed."""
    return _by_epoch(claims, lambda epoch, offsets, proofs: history.acknowledge(channel, name, epoch, offsets, proofs))


def release(
    history: History, channel: str, name: str, claims: Sequence[tuple[Cursor, int]], delay: float
) -> list[Cursor]:
    """Give messages of a durable back, by cursor and attempt as in `acknowledge`: they come again after ``delay``
    seconds."""
    return _by_epoch(
        claims, lambda epoch, offsets, proofs: history.release(channel, name, epoch, offsets, delay, proofs)
    )


def _by_epoch(
    claims: Sequence[tuple[Cursor, int]], call: Callable[[str, list[tuple[int, int]], list[str]], list[int]]
) -> list[Cursor]:
    done: list[Cursor] = []
    for epoch in {cursor.epoch for cursor, _ in claims}:
        cursors = {cursor.offset: (cursor, attempt) for cursor, attempt in claims if cursor.epoch == epoch}
        offsets = [(offset, attempt) for offset, (_, attempt) in cursors.items()]
        proofs = [cursor.proof for cursor, _ in cursors.values()]
        done += [cursors[offset][0] for offset in call(epoch, offsets, proofs)]
    return done
