"""Presence on a worker: who is at a channel, and who joins and leaves it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from raiden.backbone.frames import PRESENCE
from raiden.delivery.table import Subscription
from raiden.presence import told, who
from raiden.presence.here import NOBODY, Here, Names, Subject
from raiden.presence.members import Part
from raiden.presence.told import Told
from raiden.presence.watches import Share, Watched, Watches
from raiden.presence.who import Who
from raiden.protocols.limits import PresenceLimits
from raiden.router import Router
from raiden.runtime.service import Service


class View(NamedTuple):
    """Another way to tell who is who: the subjects of all subscriptions, for a protocol that knows clients otherwise.
    ``name`` tells it from others between workers."""

    name: bytes
    names: Names


class Presence(Service):
    """The part of a worker that answers others who is at channels here, and asks them. Nothing of it runs, and nothing
    is kept, unless somebody asks. With a ``view``, members are what that says, and clients of long-polls are not there
    between two of them."""

    def __init__(self, router: Router, limits: PresenceLimits, view: View | None = None) -> None:
        super().__init__()
        backend = router.backend
        kinds = [kind if view is None else kind + b"." + view.name for kind in (who.KIND, told.LISTS, told.SAME)]
        self.names: dict[Subscription, Subject] = {}
        """The subjects as which subscriptions count that `name` has named."""
        names = self.names if view is None else view.names
        self._here = here = Here(router, limits, names, counts_polls=view is None)
        topic = _topic if view is None else lambda channel: PRESENCE + view.name + b"." + channel.encode()
        self._who = Who(backend, limits, kind=kinds[0])
        self._told = Told(backend, here, limits, topic=topic, spawn=self.spawn)
        self._watches = Watches(backend, limits, topic=topic, spawn=self.spawn, lists=kinds[1], same=kinds[2])
        if view is None:
            router.polled.linger = lambda: limits.presence_linger
        others = router.answers.others
        others[kinds[0]] = self._part
        others[kinds[1]], others[kinds[2]] = self._told.list_of, self._told.versions_of
        router.answers.long |= set(kinds[:2])
        self._backend = backend

    def _part(self, channel: str) -> tuple[str, Part]:
        return self._backend.name, self._here.part(channel)

    def of(self, channel: str) -> bytes:
        """The members of a channel, as clients are told of them in JSON. Waits; raises TooManyQuestions."""
        return self._who.of(channel)

    def name(self, subscription: Subscription, subject: Subject) -> None:
        """Let a subscription count as this subject, and not as its client; `NOBODY`: as none at all. Its owner lets it
        `forget` when it ends."""
        self.names[subscription] = subject
        if subscription.topic is not None:
            subscription.topic.changes += 1  # watchers are told

    def leave(self, subscription: Subscription) -> None:
        """Let a subscription that was named count as none at all: its subject says that it leaves. Where that has no
        other connection, watchers are told at once; a subject that is lost may come back for `presence_linger`
        seconds."""
        subject = self.names.get(subscription)
        if subject is not None and subject.sub:
            self._told.leaves(subscription.name, subject.sub)
            self.name(subscription, NOBODY)

    def forget(self, subscription: Subscription) -> None:
        """Let a subscription count as its client again."""
        if self.names.pop(subscription, None) is not None and subscription.topic is not None:
            subscription.topic.changes += 1

    def watch(self, channels: Sequence[str], *, fresh: bool = False, share: Share | None = None) -> list[Watched]:
        """See `Watches.open`."""
        return self._watches.open(channels, fresh=fresh, share=share)

    def listen(self, watched: Watched, subscription: Subscription) -> None:
        """See `Watches.listen`."""
        self._watches.listen(watched, subscription)


def _topic(channel: str) -> bytes:
    """The topic on which changes of a channel's members are told."""
    return PRESENCE + channel.encode()
