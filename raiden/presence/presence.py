"""Presence on a worker: who is at a channel, and who joins and leaves it."""

from __future__ import annotations

from collections.abc import Sequence

from raiden.backbone.frames import PRESENCE
from raiden.delivery.table import Subscription
from raiden.presence import told, who
from raiden.presence.here import Here, Subject
from raiden.presence.members import Part
from raiden.presence.told import Told
from raiden.presence.watches import Watched, Watches
from raiden.presence.who import Who
from raiden.protocols.limits import PresenceLimits
from raiden.router import Router
from raiden.runtime.service import Service


class Presence(Service):
    """The part of a worker that answers others who is at channels here, and asks them. Nothing of it runs, and nothing
    is kept, unless somebody asks."""

    def __init__(self, router: Router, limits: PresenceLimits) -> None:
        super().__init__()
        backend = router.backend
        self.names: dict[Subscription, Subject] = {}
        """The subjects as which subscriptions count that `name` has named."""
        self._here = here = Here(router, limits, self.names)
        self._who = Who(backend, limits)
        self._told = Told(backend, here, limits, topic=_topic, spawn=self.spawn)
        self._watches = Watches(backend, limits, topic=_topic, spawn=self.spawn)
        router.polled.linger = lambda: limits.presence_linger
        others = router.answers.others
        others[who.KIND] = self._part
        others[told.LISTS], others[told.SAME] = self._told.list_of, self._told.versions_of
        router.answers.long |= {who.KIND, told.LISTS}
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

    def forget(self, subscription: Subscription) -> None:
        """Let a subscription count as its client again."""
        if self.names.pop(subscription, None) is not None and subscription.topic is not None:
            subscription.topic.changes += 1

    def watch(self, channels: Sequence[str]) -> list[Watched]:
        """See `Watches.open`."""
        return self._watches.open(channels)

    def listen(self, watched: Watched, subscription: Subscription) -> None:
        """See `Watches.listen`."""
        self._watches.listen(watched, subscription)


def _topic(channel: str) -> bytes:
    """The topic on which changes of a channel's members are told."""
    return PRESENCE + channel.encode()
