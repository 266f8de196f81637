"""The replies to the commands of a ``/-/websocket``.

A command that need not wait is answered at once. The others are answered from a greenlet; messages that follow from
one, like those of a subscription, come after its reply.

**Turns.** Pages of the history, replays and consumers' claims are read one after the other, each once the client has
taken the bytes that were sent before it (`Replies.turn`). So a client may ask for as much as it likes, and only the
part that it reads takes memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import gevent
from gevent.lock import Semaphore

from raiden.connections.connection import Connection
from raiden.model import encoding
from raiden.model.message import Cursor
from raiden.model.refusals import Refusal, TooFast, TooManyRequests, attempt
from raiden.protocols.http import retry_after
from raiden.runtime import faults

# Bytes of a frame that may wait for others.
SMALL: Final = 16384
# An object, or its JSON.
Result: TypeAlias = "dict[str, Any] | bytes"


class Replies:
    """The replies on one connection. ``most`` commands may wait at the same time."""

    __slots__ = ("_in_turn", "_most", "_turn", "_waiting", "connection")

    def __init__(self, connection: Connection, most: int) -> None:
        self.connection = connection
        self._most = most
        self._waiting = 0
        # Both are made when they are needed, which most connections never do: the commands that are done one after the
        # other, the first of them now; and the turn for large sends.
        self._in_turn: deque[Callable[[], None]] | None = None
        self._turn: Semaphore | None = None

    @property
    def turn(self) -> Semaphore:
        """The turn for large sends: its owner may send."""
        if self._turn is None:
            self._turn = Semaphore(1)
        return self._turn

    def reply(self, number: Any, result: Result | Refusal, *, soon: bool = False) -> None:
        """Send the result of the command with this id, or its refusal; None: of a command without an id. ``soon``:
        together with what else this turn of the event loop brings."""
        if isinstance(result, Refusal):
            error: dict[str, Any] = {"code": result.status, "message": result.detail, **result.more}
            if isinstance(result, TooFast):
                error["retry_after"] = retry_after(result)
            result = {"error": error}
        data = result if isinstance(result, bytes) else encoding.dumps(result)
        if number is not None:
            data = b'{"id":%b%b%b' % (encoding.dumps(number), b"," if len(data) > 2 else b"", data[1:])
        send = self.connection.send_soon if soon and len(data) <= SMALL else self.connection.send
        send(encoding.text_frame(data))

    def tell(self, what: dict[str, Any]) -> None:
        """Send fields that reply to no command."""
        self.connection.send(encoding.text_frame(encoding.dumps(what)))

    def published(self, number: Any, outcome: Cursor | Refusal | None) -> None:
        """Reply to a publish; None: its channel has no history."""
        self.reply(number, {"cursor": str(outcome)} if isinstance(outcome, Cursor) else outcome or {})

    def at_once(self, number: Any, work: Callable[[], Result], after: Callable[[], None]) -> None:
        """Reply with the result of ``work``, which does not wait; ``after`` is called behind the reply, where ``work``
        succeeds. Raises TooManyRequests, as the others do."""
        self._admit()
        self._answer(number, work, after)

    def later(
        self, number: Any, work: Callable[[], Result | None], after: Callable[[], None] | None = None
    ) -> None:  # fmt: skip
        """`at_once`, from a greenlet, for work that waits. It replies by itself where ``work`` returns None."""
        self._admit()
        # The greenlet ends by itself: its waits are bounded, and so is the number of those that wait.
        gevent.spawn(self._answer, number, work, after)

    def in_turn(self, number: Any, work: Callable[[], Result | None]) -> None:
        """`later`, behind all others that are to be done so."""
        self._admit()
        if self._in_turn is None:
            self._in_turn = deque()
        self._in_turn.append(lambda: self._answer(number, work, None))
        if len(self._in_turn) == 1:
            gevent.spawn(self._answer_in_turn, self._in_turn)

    def _admit(self) -> None:
        if self._waiting >= self._most:
            raise TooManyRequests("too many commands at once: wait for their replies")
        self._waiting += 1

    def _answer(self, number: Any, work: Callable[[], Result | None], after: Callable[[], None] | None) -> None:
        try:
            result = attempt("a command", work)
        finally:
            self._waiting -= 1
        if result is None or self.connection.closed:
            return
        self.reply(number, result)
        if after is None or isinstance(result, Refusal):
            return
        if not faults.call("what follows a command", after) and self.connection.session is not None:
            self.connection.session.fail()

    def _answer_in_turn(self, commands: deque[Callable[[], None]]) -> None:
        """Answer commands one after the other: a greenlet for each would take 10 KB, and they would all end at once."""
        while commands and not self.connection.closed:
            faults.call("a command", commands[0])
            commands.popleft()
        commands.clear()
