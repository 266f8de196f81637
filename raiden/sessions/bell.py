"""Bells, which wake the consumers of durable subscriptions: one of them for new messages, not all.

Consumers of one durable share its messages, so to wake each of a thousand for one message would be 999 questions to the
history in vain. A `Bell` wakes one. That consumer claims as many messages as it may have, and rings again if there may
be more. Once a second the bell rings by itself, for messages that others did not acknowledge in time.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

import gevent
from gevent.event import Event

from raiden.delivery.table import End, Subscription
from raiden.history.store import StoreFailed
from raiden.model.encoding import Encoding
from raiden.model.page import Gap
from raiden.model.refusals import Unavailable
from raiden.protocols.limits import HttpLimits
from raiden.router import Router
from raiden.runtime import faults

log = logging.getLogger(__name__)

# Seconds between looks for messages that others did not acknowledge.
LOOK = 1.0

# The encoding of messages that ring a bell: they have no content.
_KNOCK = Encoding("knock", lambda message: b"")


class TooManyConsumers(Unavailable):
    """This worker has the most consumers of durable subscriptions that it may have (`max_consumers`)."""


class Waiter(Protocol):
    """A waiter for a bell: `wake` is set when the bell rings for it, or when it is over."""

    wake: Event

    def called(self) -> None:
        """Hear the bell: claim messages, or ring for another waiter."""

    def ended(self) -> None:
        """Hear that the channel was deleted."""


class Bell:
    """The subscription that all consumers of one durable on this worker share. Raises TooManyChannels."""

    lasts = False
    own_id = b""

    def __init__(self, bells: Bells, channel: str, durable: str) -> None:
        self.pending: list[bytes] = []
        self._bells = bells
        self._key = channel, durable
        self._members: dict[Waiter, None] = {}
        # The waiters, in the order in which they are called.
        self._waiting: dict[Waiter, None] = {}
        self._rung = False
        subscription = bells.router.subscribe(channel, self, self, _KNOCK)
        self._subscription: Subscription | None = subscription
        bells.router.attach(subscription)
        self._timer = gevent.get_hub().loop.timer(LOOK, LOOK)
        self._timer.start(self.ring)

    @property
    def clients(self) -> int:
        return len(self._members)

    def ring(self) -> None:
        """Call the waiter that has waited longest, or the next one to come: there may be something to claim."""
        waiter = next(iter(self._waiting), None)
        if waiter is None:
            self._rung = True
            return
        del self._waiting[waiter]
        waiter.called()

    def wait(self, waiter: Waiter, timeout: float | None) -> None:
        """Wait to be called, or until the waiter's `wake` is set, at most ``timeout`` seconds."""
        if self._rung:
            self._rung = False
            waiter.called()
            return
        self._waiting[waiter] = None
        waiter.wake.wait(timeout)
        self._waiting.pop(waiter, None)

    def enter(self, waiter: Waiter) -> None:
        self._members[waiter] = None

    def leave(self, waiter: Waiter) -> None:
        del self._members[waiter]
        self._waiting.pop(waiter, None)
        self._bells.count -= 1
        if not self._members and self._subscription is not None:
            self._bells.router.unsubscribe(self._subscription)
            self._close()

    def _close(self) -> None:
        self._subscription = None
        self._timer.stop()
        self._timer.close()
        self._bells.forget(self._key, self)

    # The methods that a router calls of a sink and of the holder of a subscription.

    def flush(self) -> None:
        self.pending.clear()
        self.ring()

    def ended(self, subscription: Subscription) -> None:
        members, self._members = self._members, {}
        self._bells.count -= len(members)
        self._close()
        for member in members:
            member.ended()

    def missed(self, subscription: Subscription, channel: str, gap: Gap) -> None:
        self.ring()

    def at_end(self, subscription: Subscription, end: End) -> None:
        self.ring()  # there may be messages to claim yet

    def connections(self) -> tuple[()]:
        """None: consumers share out work, and are not present."""
        return ()


class Bells:
    """The bells of a worker, by channel and durable; ``limits.max_consumers`` bounds their consumers in all."""

    def __init__(self, router: Router, limits: HttpLimits) -> None:
        self.router = router
        self.count = 0
        self._limits = limits
        self._bells: dict[tuple[str, str], Bell] = {}
        self._returns: deque[Callable[[], None]] = deque()

    def enter(self, waiter: Waiter, channel: str, durable: str) -> Bell:
        """Add a consumer to a durable, and return its bell; raises TooManyConsumers and TooManyChannels."""
        if self.count >= self._limits.max_consumers:
            raise TooManyConsumers(
                f"this worker has {self._limits.max_consumers} consumers of durable subscriptions already "
                "(max_consumers): try again later"
            )
        bell = self._bells.get((channel, durable))
        if bell is None:
            bell = self._bells[channel, durable] = Bell(self, channel, durable)
        bell.enter(waiter)
        self.count += 1
        return bell

    def give_back(self, work: Callable[[], None]) -> None:
        """Give back claims by ``work``, which waits for the store; one after the other, however many consumers leave at
        once. Where it raises StoreFailed, the claims are left to end by time."""
        self._returns.append(work)
        if len(self._returns) == 1:
            gevent.spawn(self._give_back_all)

    def _give_back_all(self) -> None:
        while self._returns:
            try:
                self._returns[0]()
            except StoreFailed as error:
                log.warning("claims were not given back", extra={"of": len(self._returns), "reason": str(error)})
                self._returns.clear()
                return
            except Exception:  # a fault of ours at one must not keep the others' from coming back
                faults.report("giving back claims")
            self._returns.popleft()

    def forget(self, key: tuple[str, str], bell: Bell) -> None:
        """Forget a bell that has no consumers any more."""
        if self._bells.get(key) is bell:
            del self._bells[key]
