"""The fan-out: messages of one channel, put before the sinks of all that want them.

A run of messages is encoded once for each group, and the same bytes are put before each of its sinks.
"""

from __future__ import annotations

from raiden.delivery.connection_ids import ConnectionIds
from raiden.delivery.table import Group, Sink, Subscription, Table, Topic, clients_of, without
from raiden.delivery.thinner import LOST, Thinner
from raiden.model.encoding import Encoding
from raiden.model.message import Message
from raiden.model.page import Gap
from raiden.runtime import faults
from raiden.runtime.stats import Stats


class FanOut:
    """The fan-out to the subscriptions of a table. ``puts`` are the messages that were put before sinks, one for each
    sink; ``bytes`` their bytes, counted for each sink, and ``run_bytes`` counted once: no sink got more than that.
    Sinks with something to send are added to a ``dirty`` list."""

    def __init__(self, table: Table, thinner: Thinner, stats: Stats, ids: ConnectionIds) -> None:
        self._table = table
        self._thinner = thinner
        self._stats = stats
        self._ids = ids
        self.puts = self.bytes = self.run_bytes = 0

    def put(self, channel: bytes, run: list[Message], dirty: list[Sink]) -> None:
        """Put messages of a channel before all that want them."""
        pieces = self._ids.pieces(run)
        for found in self._table.matching(channel):
            found.messages += len(run)
            try:
                for piece, excluded in pieces:
                    self._put(found, piece, dirty, excluded)
            except Exception:  # any exception: subscribers that may have missed something are told so
                faults.report("a delivery")
                tell_gap(found.subscriptions(), channel, LOST, dirty)

    def tell_gap(self, channel: bytes, gap: Gap, dirty: list[Sink]) -> None:
        """Tell all subscribers of a channel that messages are lost; those that come next follow the gap."""
        for found in self._table.matching(channel):
            self._thinner.settle(found.thinned, dirty)
            tell_gap(found.subscriptions(), channel, gap, dirty)

    def settle(self, found: Topic, dirty: list[Sink]) -> None:
        """Put what still waits in the topic before its sinks: something comes that must be behind it."""
        self._thinner.settle(found.thinned, dirty)

    def _put(self, found: Topic, run: list[Message], dirty: list[Sink], excluded: bytes) -> None:
        """Put messages before the sinks of a topic, but for the one whose ``own_id`` is ``excluded``."""
        deltas = found.deltas
        for encoding, group in found.groups.items():
            kept = without(group, excluded) if excluded else group
            if deltas is None or encoding.change is None:
                self._put_before(encoding, kept, run, dirty)
                continue
            for part, data in deltas.parts(encoding, group, kept, run):
                self._put_before(encoding, part, run, dirty, data)
        if deltas is not None:
            deltas.delivered(run)
        filtered = found.filtered
        if filtered is not None:
            for key, passed in filtered.matching(run).items():
                group = filtered.groups[key]
                self._put_before(key[0], without(group, excluded) if excluded else group, passed, dirty)
        if found.thinned is not None:
            size, most = self._thinner.put(found.thinned, run, dirty)
            self.bytes += size
            self.run_bytes += most

    def _put_before(
        self, encoding: Encoding, group: Group, messages: list[Message], dirty: list[Sink], data: bytes | None = None
    ) -> None:
        """Put messages before the sinks of a group, as ``data``, or as its encoding has them."""
        if data is None:
            data = encoding(messages[0]) if len(messages) == 1 else encoding.run(messages)
        self.puts += len(messages) * len(group)
        self.bytes += len(data) * len(group)
        self.run_bytes += len(data)
        self._stats.delivered += len(messages) * clients_of(encoding, group)
        # The hot loop: one append a subscriber and run.
        for sink in group:
            pending = sink.pending
            if not pending:
                dirty.append(sink)
            pending.append(data)


def tell_gap(subscriptions: list[Subscription], channel: bytes, gap: Gap, dirty: list[Sink]) -> None:
    """Tell subscriptions of a gap in a channel."""
    for subscription in subscriptions:
        faults.call("telling of a gap", subscription.owner.missed, subscription, channel.decode(), gap)
        dirty.append(subscription.sink)
