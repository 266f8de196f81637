"""The end of what subscribers get of a channel: it was deleted, or it has come to its end.

A channel comes to its end with a message that its publisher marks so; nothing follows until the channel is deleted. Its
subscribers are told after that message, and those that come later when they have come so far.
"""

from __future__ import annotations

from collections.abc import Callable

from raiden.delivery.fan_out import FanOut
from raiden.delivery.orders import Orders
from raiden.delivery.sends import flush
from raiden.delivery.table import End, Sink, Subscription, Table
from raiden.model.message import Cursor, Message
from raiden.runtime import faults


class Ends:
    """The ends of the channels of a table; ``unsubscribe`` ends a subscription."""

    def __init__(
        self, table: Table, orders: Orders, fan_out: FanOut, unsubscribe: Callable[[Subscription], None]
    ) -> None:  # fmt: skip
        self._table = table
        self._orders = orders
        self._fan_out = fan_out
        self._unsubscribe = unsubscribe

    def deleted(self, channel: bytes, ended: Cursor | None) -> None:
        """End the subscriptions to a channel that was deleted, and with it the epoch of ``ended``."""
        if not self._orders.ended(channel, ended.epoch if ended else ""):
            return
        found = self._table.channels.get(channel + b"\0")
        if found is None:
            return
        found.deletions += 1  # ends those that are still being sent what they missed
        self._fan_out.settle(found, [])  # each sink is flushed below
        for subscription in found.subscriptions():
            if subscription.owner.lasts:
                continue
            flush([subscription.sink])  # messages that came before the end, while the channel's position is known
            self._unsubscribe(subscription)
            faults.call("the end of a subscription", subscription.owner.ended, subscription)

    def delivered(self, message: Message, dirty: list[Sink]) -> None:
        """Tell all subscribers of a channel that this message, which was put before them, was its last one."""
        assert message.cursor is not None
        self._tell(End(message.channel, message.cursor, message), dirty)

    def missed(self, channel: bytes, dirty: list[Sink]) -> None:
        """Tell all subscribers of a channel, who were told of a gap, if its last message is lost in that."""
        name = channel.decode()
        cursor = self._orders.at_end(name)
        if cursor is not None:
            self._tell(End(name, cursor), dirty)

    def _tell(self, end: End, dirty: list[Sink]) -> None:
        for found in self._table.matching(end.channel.encode()):
            self._fan_out.settle(found, dirty)
            for subscription in found.subscriptions():
                faults.call("the end of a channel", subscription.owner.at_end, subscription, end)
                dirty.append(subscription.sink)

    def attach(self, subscription: Subscription) -> None:
        """Tell a subscriber that has got all of a channel, if that has come to its end."""
        cursor = self._orders.at_end(subscription.name)
        if cursor is not None:
            subscription.owner.at_end(subscription, End(subscription.name, cursor))
