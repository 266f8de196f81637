"""``/-/websocket``: commands as JSON text, many channels on one socket.

A command that need not wait is answered at once. The others are answered from a greenlet; what follows from one, like
the messages of a subscription, comes after its reply.

**Sessions.** ``session`` makes the socket's subscriptions outlive it: they are kept in the store with the places up to
which the client has surely got everything. A pong tells that, because it comes behind all that was sent before its
ping. Whoever brings the session's id gets them back in one round trip, on any node; the client knows better what it got
last, and may say so.

**The past.** Pages of the history, replays and what consumers claim are read one after the other, each once the client
has taken what was sent before it (`MultiplexSocket.turn`). So a client may ask for as much as it likes, and only what
it reads takes memory.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import gevent
from gevent.lock import Semaphore

from raiden.backend import NotInForce
from raiden.connections.connection import Connection
from raiden.connections.wheel import Wheel
from raiden.delivery.table import Subscription, TooManyChannels
from raiden.history.client import History
from raiden.history.store import StoreFailed, TooLargeToKeep
from raiden.http.parameters import ACK_WAIT, MAX_ACK_WAIT, MAX_LAST, MAX_NACK_DELAY, MAX_WINDOW, MIN_ACK_WAIT, WINDOW
from raiden.model import encoding
from raiden.model.filters import Filters
from raiden.model.message import EARLIEST, Cursor, Kind, Message
from raiden.model.names import check_channel, check_subscription
from raiden.model.near import did_you_mean
from raiden.model.page import Gap, Start
from raiden.model.payload import WRAPPING, check_key, check_size
from raiden.model.refusals import Conflict, Forbidden, Invalid, NoHistory, NotFound, Refusal, TooManyRequests, attempt
from raiden.model.strict_json import json_payload
from raiden.protocols.websocket import WebSocket
from raiden.router import Router
from raiden.runtime import faults
from raiden.sessions import commands, in_band
from raiden.sessions.bell import Bells
from raiden.sessions.durable import Claim, Consumer
from raiden.sessions.kept import Held, Row
from raiden.sessions.recovery import Beginning, Recovery
from raiden.sessions.session import REPLAY_BYTES, REPLAY_PATIENCE
from raiden.sessions.socket import Socket

log = logging.getLogger(__name__)

_SESSION = re.compile("[A-Za-z0-9_-]{1,64}")

# Messages that `history` returns where no limit is asked for.
PAGE = 100
_NO_FILTERS = Filters([])

# An object, or its JSON.
Result: TypeAlias = "dict[str, Any] | bytes"


class MultiplexSocket(Socket):
    """A WebSocket that takes commands. ``session_window`` is for how many seconds its session can be resumed."""

    __slots__ = (
        "bells", "consumers", "in_turn", "max_subscriptions", "opening", "places", "sent", "session", "session_window",
        "turn", "waiting",
    )  # fmt: skip

    def __init__(
        self, connection: Connection, router: Router, wheel: Wheel, keepalive: float, socket: WebSocket, *,
        bells: Bells, max_subscriptions: int, session_window: float, max_message: int,
    ) -> None:  # fmt: skip
        super().__init__(
            connection, router, wheel, keepalive, in_band.websocket(True), [], socket, max_message=max_message
        )
        self.bells = bells
        self.max_subscriptions = max_subscriptions
        self.session_window = session_window
        self.waiting = 0
        self.consumers: dict[tuple[str, str], Consumer] = {}
        self.session = Held(router.backend.history)
        # Up to where the client has got everything for sure, and up to where it had been sent when it was pinged last.
        self.places: dict[str, Cursor] = {}
        self.sent: dict[str, Cursor] = {}
        # Where those stand that are not attached yet, as far as that is known; the others are where the router is.
        self.opening: dict[str, Cursor | None] = {}
        # Whose turn it is to send what may be much.
        self.turn = Semaphore(1)
        # Commands that are done one after the other, the first of them now.
        self.in_turn: deque[Callable[[], None]] = deque()

    def message(self, data: str | bytes) -> None:
        number: Any = None

        def perform() -> Result | None:
            nonlocal number
            command = commands.parse(data)
            number = command.get("id")
            known = _COMMANDS.get(command["cmd"])
            if known is None:
                name = command["cmd"]
                raise Invalid(f"unknown cmd {name[:100]!r}{did_you_mean(name, _COMMANDS)}")
            commands.check_members(command)
            return known(self, command)

        result = attempt("a command", perform)
        if result is not None:
            self.reply(number, result)

    def reply(self, number: Any, result: Result | Refusal) -> None:
        if isinstance(result, Refusal):
            result = {"error": {"code": result.status, "message": result.detail}}
        data = result if isinstance(result, bytes) else encoding.dumps(result)
        if number is not None:
            data = b'{"id":%b%b%b' % (encoding.dumps(number), b"," if len(data) > 2 else b"", data[1:])
        self.connection.send(encoding.text_frame(data))

    def _later(
        self, command: dict[str, Any], work: Callable[[], Result | None], after: Callable[[], None] | None = None, *,
        waits: bool = True, in_turn: bool = False,
    ) -> None:  # fmt: skip
        """Reply with what ``work`` returns, if anything; ``after`` is called behind the reply of one that succeeds. If
        ``work`` ``waits``, that is later; ``in_turn``: behind others that are so."""
        if self.waiting >= self.max_subscriptions:
            raise TooManyRequests("too many commands at once: wait for their replies")
        self.waiting += 1

        def answer() -> None:
            try:
                result = attempt("a command", work)
            finally:
                self.waiting -= 1
            if result is not None and not self.connection.closed:
                self.reply(command.get("id"), result)
                if after is None or isinstance(result, Refusal):
                    return
                if not faults.call("what follows a command", after):
                    self.fail()

        if in_turn:
            self.in_turn.append(answer)
            if len(self.in_turn) == 1:
                gevent.spawn(self._answer_in_turn)
        elif waits:
            # It ends by itself: what it waits for is bounded, and so is the number of those that wait.
            gevent.spawn(answer)
        else:
            answer()

    def _answer_in_turn(self) -> None:
        """Answer commands one after the other: a greenlet for each would take 10 KB, and they would all end at once."""
        while self.in_turn and not self.connection.closed:
            faults.call("a command", self.in_turn[0])
            self.in_turn.popleft()
        self.in_turn.clear()

    def tick(self) -> None:
        # Without an answer to the last ping it is not known what of that which went before it has come.
        if self.websocket.ponged:
            self._note_places()
        super().tick()

    def _note_places(self) -> None:
        """The client has got all that was sent before the last ping; now comes the next one."""
        if self.session.id is not None:
            self.places.update(self.sent)
            self._keep_later()
        places = {name: self.router.position(name) for name in self.subscriptions} | self.opening
        told, self.sent = self.places | self.sent, {name: place for name, place in places.items() if place}
        for name, place in self.sent.items():
            # Nothing else tells of what filters hide.
            if self.subscriptions[name].filters and name not in self.opening and told.get(name) != place:
                self.reply(None, {"channel": name, "cursor": str(place)})

    def close(self) -> None:
        if self.session.id is not None and self.subscriptions:
            self.session.keep_soon(self._rows(), self.session_window)
        for consumer in self.consumers.values():
            consumer.end()
        self.consumers.clear()
        super().close()

    def ended(self, subscription: Subscription) -> None:
        self.unsubscribe(subscription.name)
        self.reply(None, {"channel": subscription.name, "ended": True})

    # Subscriptions.

    def subscribe(self, name: str, encode: encoding.Encoding, filters: Filters | None = None, sink: Any = None) -> None:
        super().subscribe(name, encode, filters, sink)
        self.opening[name] = None

    def attach(self, name: str) -> None:
        super().attach(name)
        self.opening.pop(name, None)

    def replay(self, subscription: Subscription, recovery: Recovery) -> None:
        with self.turn:
            super().replay(subscription, recovery)

    def reached(self, name: str, place: Cursor | None) -> None:
        if place is not None:
            self.opening[name] = place

    def unsubscribe(self, name: str) -> None:
        super().unsubscribe(name)
        for table in (self.places, self.sent, self.opening):
            table.pop(name, None)

    def _subscribe(self, command: dict[str, Any]) -> None:
        if "durable" in command:
            self._consume(command)
            return
        name = check_subscription(commands.channel_of(command))
        if name in self.subscriptions:
            raise Conflict("already subscribed: unsubscribe first to change filters")
        if len(self.subscriptions) + len(self.consumers) >= self.max_subscriptions:
            raise Forbidden(f"at most {self.max_subscriptions} subscriptions on a connection")
        starts = commands.starts_of(command, name)
        filters = commands.filters_of(command.get("filters") or {})
        self._begin_later(command, {name: filters}, starts, lambda told: {"channel": name, **told[name]})

    def _begin_later(
        self, command: dict[str, Any], wanted: dict[str, Filters], starts: dict[str, Start],
        result_of: Callable[[dict[str, Any]], dict[str, Any]], session: str | None = None,
        undo: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Subscribe, reply when that is in force, send what was missed, and let the subscriptions go on. From the reply
        on, ``session`` is this socket's. ``undo`` is called where that fails, with nothing subscribed."""

        def fail() -> None:
            self._give_back(wanted)
            undo()

        encode = encoding.websocket(True, self.websocket.deflate)
        try:
            for name, filters in wanted.items():
                self.subscribe(name, encode, filters)
            self.session.check(self._rows())
        except (TooManyChannels, TooLargeToKeep):
            fail()
            raise
        mine = {name: self.subscriptions[name] for name in wanted}
        beginnings: list[Beginning] = []

        def work() -> Result:
            try:
                beginning = Beginning(self.router, list(wanted), starts, soon=False)
                self.places.update(beginning.known(wanted))
                if self.session.id is not None and not self.connection.closed:
                    # Who has had the reply may come back at once, and to another worker.
                    self.session.keep(self._rows(), self.session_window + self.keepalive)
            except (NotInForce, StoreFailed):
                fail()
                raise
            # From here on nothing yields: what is told is where the subscriptions are attached.
            beginnings.append(beginning)
            told: dict[str, Any] = {}
            for name in wanted:
                place, recovered = beginning.place(name), beginning.recovered(name)
                told[name] = {} if place is None else {"cursor": str(place)}
                if recovered is not None:
                    told[name]["recovered"] = recovered
            result = result_of(told)
            if beginning.unconfirmed:
                result["unconfirmed"] = beginning.unconfirmed
            return result

        def after() -> None:
            if session is not None:
                self.session.id = session
                self._keep_later()
            self.begin(beginnings[0], mine)

        known = Beginning.is_known(self.router, list(wanted), starts) and self.session.id is None and session is None
        try:
            self._later(command, work, after, waits=not known)
        except Refusal:
            fail()
            raise

    def _give_back(self, names: Any) -> None:
        for name in names:
            self.unsubscribe(name)

    def _unsubscribe(self, command: dict[str, Any]) -> Result | None:
        name = commands.channel_of(command)
        if "durable" in command:
            return self._unconsume(command, name)
        if name not in self.subscriptions:
            raise NotFound("not subscribed to that channel")
        result: Result = {"channel": name}
        if self.session.id is None:
            self.unsubscribe(name)
            return result

        def work() -> Result:
            if not self.connection.closed:  # else what it had is being kept
                self.session.try_to_keep(self._rows(), self.session_window + self.keepalive)
            return result

        self._later(command, work)
        self.unsubscribe(name)  # nothing has yielded
        return None

    # Messages.

    def _publish(self, command: dict[str, Any]) -> None:
        name = check_channel(commands.channel_of(command))
        if "data" not in command:
            raise Invalid("publish needs data: any JSON value")
        key = command.get("key")
        if key is not None:
            check_key(key, self.router.keeps(name))
        message = Message(name, Kind.JSON, json_payload(command["data"]))
        check_size(message.kind, message.payload, self.max_message)

        def published(number: Any, outcome: Cursor | Refusal | None) -> None:
            self.reply(number, {"cursor": str(outcome)} if isinstance(outcome, Cursor) else outcome or {})

        self.router.publisher.publish_one(message, published, command.get("id"), key=key)

    def _past(self, command: dict[str, Any]) -> None:
        """``history``: a page after ``since``, or before ``before`` (a cursor, or null for the newest)."""
        name = check_channel(commands.channel_of(command))
        if not self.router.keeps(name):
            raise NoHistory
        history = self._history()
        limit = commands.number_of(command, "limit", PAGE, 1, MAX_LAST)
        since = None if command.get("since") == "earliest" else commands.cursor_of(command, "since")
        cursor = commands.cursor_of(command, "before") if "before" in command else since
        backwards, most = "before" in command, self.max_message - WRAPPING
        read = history.before if backwards else history.after

        def work() -> Result | None:
            with self.turn:
                if not self.connection.wait_until_sent(REPLAY_PATIENCE):
                    self.connection.overflow()
                    return None
                return encoding.page(name, read(name, cursor, limit), most, backwards=backwards)

        self._later(command, work, in_turn=True)

    # Durable subscriptions.

    def _consume(self, command: dict[str, Any]) -> None:
        name, durable = check_channel(commands.channel_of(command)), commands.durable_of(command)
        if not self.router.keeps(name):
            raise Invalid("a durable subscription is to a channel that has a history")
        if "filters" in command:
            raise Invalid("a durable subscription has no filters: its messages are shared out as they are")
        if "last" in command:
            raise Invalid("a durable subscription begins since a cursor, not with the last messages")
        acknowledged = commands.flag_of(command, "ack")
        if (name, durable) in self.consumers:
            raise Conflict("already subscribed: unsubscribe first")
        if len(self.subscriptions) + len(self.consumers) >= self.max_subscriptions:
            raise Forbidden(f"at most {self.max_subscriptions} subscriptions on a connection")
        consumer = Consumer(
            self.bells, name, durable,
            window=commands.number_of(command, "window", WINDOW, 1, MAX_WINDOW),
            ack_wait=commands.number_of(command, "ack_wait", ACK_WAIT, MIN_ACK_WAIT, MAX_ACK_WAIT),
            since=EARLIEST if command.get("since") == "earliest" else commands.cursor_of(command, "since"),
        )  # fmt: skip
        self.consumers[name, durable] = consumer

        lost: list[Gap] = []

        def work() -> Result:
            try:
                # A new durable has its place before the reply: what is published after that is for its consumers.
                _, gap = consumer.claim(0)
            except StoreFailed:
                self._end_consumer(name, durable)
                raise
            lost.extend([gap] if gap else [])
            return {"channel": name, "durable": durable}

        def after() -> None:
            for gap in lost:
                self.reply(None, {"durable": durable, **encoding.gap(name, gap)})
            self._serve(consumer, name, durable, acknowledged=acknowledged)

        try:
            self._later(command, work, after)
        except Refusal:
            self._end_consumer(name, durable)
            raise

    def _serve(self, consumer: Consumer, name: str, durable: str, *, acknowledged: bool) -> None:
        """Send what the consumer claims, for as long as it lasts. Who does not acknowledge has got what was sent."""
        while not consumer.over:
            try:
                with self.turn:
                    claims, gap = consumer.claim()
                    if gap is not None:
                        self.reply(None, {"durable": durable, **encoding.gap(name, gap)})
                    sent = self._send_claims(consumer, durable, claims)
                if not sent:
                    break
                if claims and not acknowledged:
                    consumer.acknowledge(consumer.take([message.cursor for message, _ in claims if message.cursor]))
            except StoreFailed:
                claims = []  # ask again soon
            if not claims:
                consumer.wait()
        # Unsubscribed meanwhile, it may have a successor.
        mine = self.consumers.get((name, durable)) is consumer
        if mine and self._end_consumer(name, durable) and not self.connection.closed:
            self.reply(None, {"channel": name, "durable": durable, "ended": True})

    def _send_claims(self, consumer: Consumer, durable: str, claims: list[Claim]) -> bool:
        """Send claims as fast as the peer reads them; False where it does not, or unsubscribes meanwhile."""
        size = 0
        for number, (message, attempts) in enumerate(claims, 1):
            if consumer.over:
                return False
            data = encoding.text_frame(encoding.claim(durable, message, attempts))
            self.connection.send(data)
            size += len(data)
            if size > REPLAY_BYTES or number == len(claims):
                size = 0
                if not self.connection.wait_until_sent(consumer.ack_wait):
                    return False
        return True

    def _end_consumer(self, name: str, durable: str) -> bool:
        consumer = self.consumers.pop((name, durable), None)
        if consumer is not None:
            consumer.end()
        return consumer is not None

    def _ack(self, command: dict[str, Any]) -> None:
        """``ack``: messages of a durable subscription are done with; ``nack``: they are to come again."""
        name, durable = commands.channel_of(command), commands.durable_of(command)
        consumer = self.consumers.get((name, durable))
        if consumer is None:
            raise NotFound("not subscribed to that channel by that name")
        cursors, rejected = commands.cursors_of(command), command["cmd"] == "nack"
        delay = commands.number_of(command, "delay", 0.0, 0.0, MAX_NACK_DELAY)

        taken = consumer.take(cursors)

        def work() -> Result:
            done = consumer.reject(taken, delay) if rejected else consumer.acknowledge(taken)
            late = [str(cursor) for cursor in consumer.late(cursors, taken, done)]
            return {"returned" if rejected else "acknowledged": len(done), **({"late": late} if late else {})}

        try:
            self._later(command, work)
        except Refusal:
            consumer.take_back(taken)
            raise

    def _unconsume(self, command: dict[str, Any], name: str) -> Result | None:
        name, durable = check_channel(name), commands.durable_of(command)
        history = self._history()  # by its settings, the channel may keep none any more
        forget = commands.flag_of(command, "forget")
        if not self._end_consumer(name, durable) and not forget:
            raise NotFound("not subscribed to that channel by that name")
        result = {"channel": name, "durable": durable}
        if not forget:
            return result

        def work() -> Result:
            history.forget(name, durable)
            return result

        self._later(command, work)
        return None

    # Sessions.

    def _open_session(self, command: dict[str, Any]) -> None:
        """``session``: let the subscriptions outlive this socket."""
        self._history()

        def work() -> Result:
            rows, seconds = self._rows(), self.session_window + self.keepalive
            session = self.session.open(rows, seconds)
            if self._rows() != rows and not self.connection.closed:
                # Who has subscribed meanwhile was told so without waiting for this session.
                self.session.keep(self._rows(), seconds)
            return {"session": session, "window": self.session_window}

        self._later(command, work)

    def _resume(self, command: dict[str, Any]) -> None:
        """``resume``: get the subscriptions of a session back, each from where it was, or from where ``since`` says."""
        session, since = command.get("session"), command.get("since")
        since = {} if since is None else since
        if not isinstance(session, str) or not _SESSION.fullmatch(session) or not isinstance(since, dict):
            raise Invalid('resume is like {"cmd": "resume", "session": "...", "since": {"a": "k3x9:41"}}')
        if self.subscriptions:
            raise Conflict("resume before anything is subscribed")
        told = {name: commands.parse_cursor(text) for name, text in since.items()}
        self._history()

        def work() -> None:
            taken = self.session.take(session)
            if taken is None:
                raise NotFound("no such session, or it is over: subscribe anew")
            rows = taken.rows
            undo = partial(self.session.give_back, session, taken.before)
            if self.subscriptions:
                undo()
                raise Conflict("resume before anything is subscribed")
            starts = {name: Start(row.place) for name, row in rows.items() if row.place}
            starts.update({name: Start(place) for name, place in told.items() if name in rows})
            wanted = {name: row.filters for name, row in rows.items()}

            def result_of(told: dict[str, Any]) -> dict[str, Any]:
                for row in told.values():
                    row.setdefault("recovered", False)  # where there is no history, nothing is
                return {"session": session, "subscriptions": told}

            self._begin_later(command, wanted, starts, result_of, session, undo)

        self._later(command, work)

    def _rows(self) -> dict[str, Row]:
        return {
            name: Row(subscription.filters or _NO_FILTERS, self.places.get(name))
            for name, subscription in self.subscriptions.items()
        }

    def _keep_later(self) -> None:
        if self.session.id is not None and not self.connection.closed:
            self.session.keep_soon(self._rows(), self.session_window + self.keepalive)

    def _history(self) -> History:
        history = self.router.backend.history
        if history is None:
            raise Invalid("this node keeps no history (store = 'none')")
        return history


_COMMANDS: dict[str, Callable[..., Result | None]] = {
    "subscribe": MultiplexSocket._subscribe,
    "unsubscribe": MultiplexSocket._unsubscribe,
    "publish": MultiplexSocket._publish,
    "history": MultiplexSocket._past,
    "ack": MultiplexSocket._ack,
    "nack": MultiplexSocket._ack,
    "session": MultiplexSocket._open_session,
    "resume": MultiplexSocket._resume,
    "ping": lambda socket, command: {},
}
