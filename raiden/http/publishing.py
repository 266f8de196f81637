"""Publishing by HTTP: what a request publishes, and its answer.

A publish costs no greenlet: it is answered on the spot, or when the history has taken it.
"""

from __future__ import annotations

import functools
import time

from raiden.access.rates import Rates
from raiden.connections import client
from raiden.connections.connection import Connection
from raiden.connections.states import IDLE, SERVING
from raiden.delivery.publisher import Publisher
from raiden.http import counted
from raiden.http.door import Answer, HttpDoor
from raiden.model import payload
from raiden.model.labels import Label
from raiden.model.message import Cursor, Kind, Message
from raiden.model.refusals import Refusal, TooFast, TooLarge
from raiden.model.strict_json import InvalidPayload, json_payload
from raiden.protocols.heads import Repeated
from raiden.protocols.http import Json, Request, date, json_bytes, problem, serialize
from raiden.protocols.limits import HttpLimits
from raiden.runtime.stats import Stats
from raiden.sessions.asks import Publish
from raiden.sessions.publishing import sign

# The answer where no history is kept: the message was taken, and is on its way.
ACCEPTED = Json(202, b"{}")


class Publishing:
    """The publishing of the clients of a door."""

    def __init__(self, door: HttpDoor, publisher: Publisher, stats: Stats, limits: HttpLimits, rates: Rates) -> None:
        self._door = door
        self._publisher = publisher
        self._stats = stats
        self._limits = limits
        self._rates = rates

    def again(self, connection: Connection, repeated: Repeated, channel: str, label: Label | None) -> bool:
        """The hot path: publish a JSON value that came with a remembered head, with its label if it has one."""
        room = self._limits.max_message - payload.WRAPPING
        if len(repeated.body) > (room if label is None else room - label.size):
            return False
        try:
            message = Message(channel, Kind.JSON, json_payload(repeated.body), None, time.time_ns() // 1000)
            if label is not None:
                label.put_on(message)
            permit = connection.permit
            if permit is not None and permit.permits.policy.shows_senders:
                sign((message,), permit, self._limits.max_message)
            if self._rates.on:
                self._rates.publish_one(client.account(connection), channel)
        except (InvalidPayload, TooLarge):
            return False
        except TooFast as refusal:
            return counted.refuse(self._door, connection, repeated, refusal, "publish", channel)
        connection.state = SERVING
        self._publisher.publish_one(message, self._published_again, connection)
        return True

    def _published_again(self, connection: Connection, outcome: Cursor | Refusal | None) -> None:
        if connection.state != SERVING:
            return  # it has ended
        connection.state = IDLE
        answer: Answer = ACCEPTED
        if isinstance(outcome, Refusal):
            answer = problem(outcome)
        elif outcome is not None:
            answer = Json(200, b'{"cursor":"%b"}' % str(outcome).encode())
        if self._door.draining:
            self._door.answer(connection, None, answer)
            return
        if isinstance(answer, Json):
            self._stats.responses[answer.status] += 1
            told = counted.line(self._rates, connection) if self._rates.on else b""
            connection.send(_accepted(date()) if answer is ACCEPTED and not told else json_bytes(answer, told))
        else:
            self._stats.responses[answer.status_int] += 1
            connection.send(serialize(answer, keep_alive=True, http10=False))
        self._door.was_answered(connection)

    def publish(self, connection: Connection, request: Request, ask: Publish) -> None:
        def published(outcome: list[list[Cursor]] | Refusal) -> None:
            def answer(*_: object) -> Answer:
                if isinstance(outcome, Refusal):
                    raise outcome
                told = Json(200, ask.answer(ask.groups, outcome)) if any(outcome) else ACCEPTED
                return told._replace(fields=counted.fields(self._rates, connection)) if self._rates.on else told

            self._door.serve(connection, request, answer)
            self._door.go_on(connection)

        for group in ask.groups:
            sign(group, connection.permit, self._limits.max_message)
        self._publisher.publish(*ask.groups, key=ask.key, at=ask.at, done=published)
        connection.state = SERVING


@functools.lru_cache(1)
def _accepted(now: str) -> bytes:
    """The bytes of `ACCEPTED` in this second."""
    return json_bytes(ACCEPTED)
