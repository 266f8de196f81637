"""Requests and answers on a ``/-/websocket``."""

from __future__ import annotations

from typing import Any

from raiden.access.permit import Permit
from raiden.model import encoding
from raiden.model.message import Message
from raiden.model.refusals import Refusal
from raiden.requests.asked import Outcome
from raiden.requests.exchange import Exchange
from raiden.requests.servers import Given
from raiden.sessions.asks import Call, Respond, Serve, Unserve
from raiden.sessions.party import Party
from raiden.sessions.replies import SMALL, Replies, Result


class Requests(Party):
    """The requests of one socket, and those that its client serves. ``max_message`` bounds the bytes of each."""

    __slots__ = ("_max_message", "_replies")

    def __init__(self, exchange: Exchange, replies: Replies, max_message: int) -> None:
        super().__init__(exchange, replies.connection)
        self._replies = replies
        self._max_message = max_message

    def request(self, number: Any, ask: Call) -> None:
        def done(outcome: Outcome) -> None:
            result = outcome if isinstance(outcome, Refusal) else b'{"data":%b}' % encoding.json_value(outcome)
            self._replies.reply(number, result, soon=True)

        self.ask(ask, self._max_message, done)

    def begin(self, number: Any, ask: Serve) -> None:
        """Serve a channel: requests that are made anywhere after the reply find this server."""
        server = self.serve(ask)

        def work() -> Result:
            self.announce(server)
            return {"channel": ask.channel, "window": ask.window}

        try:
            self._replies.later(number, work)
        except Refusal:
            self.remove(ask.channel)
            raise

    def end(self, number: Any, ask: Unserve) -> Result:
        self.unserve(ask.channel)
        return {"channel": ask.channel}

    def settle(self, number: Any, ask: Respond) -> None:
        self.answer(ask, self._max_message)
        self._replies.reply(number, {}, soon=True)

    def withdraw(self, channel: str) -> None:
        """Let the client serve a channel no longer, and tell it."""
        if self.remove(channel):
            self._replies.tell({"channel": channel, "serves": False})

    def retain(self, permit: Permit) -> None:
        """Let the client serve only what the permit allows."""
        for channel in self.forbidden(permit):
            self.withdraw(channel)

    def give(self, given: Given, message: Message, left: float) -> None:
        data = b'{"channel":%b,"request":"%b","data":%b,"left":%.3f}' % (
            encoding.dumps(message.channel), given.id.encode(), encoding.json_value(message), left,
        )  # fmt: skip
        # A large one is sent now: `is_ready` looks at what waits.
        send = self.connection.send_soon if len(data) <= SMALL else self.connection.send
        send(encoding.text_frame(data))

    def withdrawn(self, given: Given) -> None:
        self._replies.tell({"channel": given.server.channel, "cancel": given.id})
        self._leave()
