"""The door for clients of Durable Streams: what a request asks of a stream, and its answer.

A stream is a channel of Raiden that has no bound (`raiden.history.streams`). An append goes to the store with its
terms, which are judged there, and is answered by a callback. Other requests wait in greenlets. A live read subscribes
at the stream's tail; messages come to it as to each subscriber of the channel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from gevent.event import AsyncResult

from raiden.connections import client
from raiden.connections.connection import Connection
from raiden.connections.states import OPENING, SERVING, SUBSCRIBED
from raiden.dialects.dialect import Dialect
from raiden.dialects.streams import answers, delegated, events, intervals, places, reading
from raiden.dialects.streams.events import EventStream
from raiden.dialects.streams.lifetimes import Lifetimes
from raiden.dialects.streams.polls import Polls
from raiden.dialects.streams.reading import Look
from raiden.gateway import Gateway
from raiden.history.client import History
from raiden.history.store import Appended
from raiden.history.streams import ABSENT, DELETED, Make, Producer, Stream, StreamPage, StreamRefused, media_type
from raiden.http.door import Answer
from raiden.model.message import Cursor, Message
from raiden.model.page import Start
from raiden.model.refusals import Conflict, Invalid, Refusal, TooLarge
from raiden.protocols.http import HttpError, Request, stream_bytes
from raiden.runtime.audit import STATUSES
from raiden.sessions.publishing import sign
from raiden.sessions.recovery import Beginning

# Messages of a page, besides `raiden.model.page.PAGE_BYTES`.
PAGE: Final = 1000
_GONE: Final = "this place is not in the stream: it is that of another stream, or of one that was here before"
_NO_HISTORY: Final = "channels of this name keep no history here: set their history_size"


class StreamsDoor(Dialect):
    """The paths below `reading.PREFIX` on a gateway."""

    paths = (reading.PREFIX,)
    judges_origins = True

    def __init__(self, gateway: Gateway, settings: Any) -> None:
        super().__init__(gateway)
        self.prefix: str = settings.streams_prefix
        self.lasts_for: float = settings.streams_sse
        self._lifetimes = Lifetimes(gateway.router)
        self._polls = Polls(gateway, self._lifetimes, self._page, settings.streams_poll)
        self.add(self._lifetimes)
        self.add(self._polls)
        self._methods: dict[str, Callable[[Connection, Request, str], Answer | None]] = {
            "GET": self._get, "HEAD": self._head, "PUT": self._put, "POST": self._post, "DELETE": self._delete,
        }  # fmt: skip

    def reload(self, values: Mapping[str, Any]) -> None:
        self._polls.wait = values.get("streams_poll", self._polls.wait)
        self.lasts_for = values.get("streams_sse", self.lasts_for)

    def dispatch(self, connection: Connection, request: Request) -> Answer | None:
        if request.method == "OPTIONS":
            return answers.preflight()  # whether the page may do anything is told by the fields of the door
        return self._guarded(connection, request, self._serve)

    def _guarded(
        self, connection: Connection, request: Request, serve: Callable[[Connection, Request], Answer | None]
    ) -> Answer | None:  # fmt: skip
        """Serve a request; a refusal is told in this protocol's form."""
        try:
            return serve(connection, request)
        except Refusal as refusal:
            # Its frames would keep what the client has sent, as a cycle.
            refusal.__context__ = refusal.__cause__ = None
            return self._refused(connection, request, refusal.with_traceback(None))

    def _refused(
        self, connection: Connection, request: Request, refusal: Refusal, producer: Producer | None = None
    ) -> Answer:  # fmt: skip
        if refusal.status in STATUSES:
            client.refused(connection, refusal, *reading.asked(request, self.prefix))
        if connection.permit is not None:
            connection.permit.over()  # it has no subscription, whatever a delegate has allowed
        if isinstance(refusal, HttpError) and refusal.close:
            request.environ["raiden.keep_alive"] = False
        return answers.refused(refusal, producer)

    def _serve(self, connection: Connection, request: Request) -> Answer | None:
        self.gateway.door.origins.check(request.fields, connection.scheme)
        method = self._methods.get(request.method)
        if method is None:
            raise HttpError(405, f"streams know {answers.METHODS}", headers={"Allow": answers.METHODS})
        if request.is_streamed:
            raise HttpError(400, "_stream is for channels: send the body without it", close=True)
        gateway = self.gateway
        delegated.show(gateway, connection, request)
        name = reading.channel(request.environ["PATH_INFO"], self.prefix)
        if not gateway.router.keeps(name):
            raise Conflict(_NO_HISTORY) if request.method == "PUT" else StreamRefused(ABSENT, name, None)
        return method(connection, request, name)

    def _wait(
        self, connection: Connection, request: Request, serve: Callable[[], Answer | None],
        ask: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """Serve a request in a greenlet, once ``ask`` has let it."""

        def work(*_: object) -> Answer | None:
            if ask is not None:
                ask()
                if connection.closed:
                    return None
            return serve()

        self.gateway.door.serve_waiting(
            connection, request, lambda connection, request: self._guarded(connection, request, work)
        )

    @property
    def _history(self) -> History:
        history = self.gateway.router.history
        assert history is not None  # the settings were checked
        return history

    # Writing.

    def _put(self, connection: Connection, request: Request, name: str) -> None:
        is_open = delegated.check(connection, name, "publish")
        terms = reading.make(request, self.prefix)
        ask = None if terms.fork is None else delegated.reading(connection, terms.fork.source)
        self._wait(connection, request, lambda: self._make(connection, request, name, terms, is_open), ask)

    def _make(self, connection: Connection, request: Request, name: str, terms: Make, is_open: bool) -> Answer:
        content_type = terms.content_type
        if not content_type and request.raw_body and terms.fork is not None:
            source = self._history.stream(terms.fork.source).stream
            content_type = source.content_type if source is not None else reading.DEFAULT_TYPE
        messages = self._messages(connection, request, name, content_type, may_be_empty=True)
        if is_open:
            messages = delegated.messages(connection, name, messages)
        while True:
            done: AsyncResult[Any] = AsyncResult()
            self.gateway.router.publisher.publish_to_stream(name, messages, terms, done.set)
            appended = done.get()
            if isinstance(appended, Refusal):
                raise appended
            outcome = appended[0].outcome
            if outcome.more:
                continue  # a long fork is made in pieces
            fields = {"Content-Type": outcome.stream.content_type, **answers.state(outcome.stream)}
            if appended[0].repeated:
                return answers.answer(200, fields)
            return answers.answer(201, {"Location": answers.location(request, connection.scheme), **fields})

    def _post(self, connection: Connection, request: Request, name: str) -> None:
        is_open = delegated.check(connection, name, "publish")
        terms = reading.add(request)
        bad: Refusal | None = None
        messages: Sequence[Message] = ()
        try:
            messages = self._messages(connection, request, name, terms.content_type)
        except (Invalid, TooLarge) as error:
            # The stream comes first: the append is only judged. The frames would keep the body, as a cycle.
            error.__context__ = error.__cause__ = None
            bad = error.with_traceback(None)

        def answer(result: list[Appended] | Refusal) -> Answer:
            if isinstance(result, Refusal):
                return self._refused(connection, request, result, terms.producer)
            if bad is not None and not result[0].repeated:
                return self._refused(connection, request, bad)
            return _appended(result[0], terms.producer, is_close_only=not request.raw_body)

        def appended(result: list[Appended] | Refusal) -> None:
            self.gateway.door.serve(connection, request, lambda *_: answer(result))
            self.gateway.door.go_on(connection)

        def add() -> Answer:
            done: AsyncResult[Any] = AsyncResult()
            allowed = delegated.messages(connection, name, messages)
            self.gateway.router.publisher.publish_to_stream(name, allowed, terms, done.set)
            return answer(done.get())

        if is_open:
            self._wait(connection, request, add)
            return
        self.gateway.router.publisher.publish_to_stream(name, messages, terms, appended)
        connection.state = SERVING

    def _messages(
        self, connection: Connection, request: Request, name: str, content_type: str, *, may_be_empty: bool = False
    ) -> Sequence[Message]:  # fmt: skip
        """The messages in a request's body, as its client may publish them now."""
        most = self.gateway.limits.max_message
        messages = reading.messages(
            name, content_type, request.raw_body, closes=reading.closes(request), most=most, may_be_empty=may_be_empty
        )
        sign(messages, connection.permit, 2 * most)  # which has room for bytes as JSON
        rates = self.gateway.rates
        if rates.on and messages:
            rates.publish(client.account(connection), [(name, len(messages))])
        return messages

    def _delete(self, connection: Connection, request: Request, name: str) -> None:
        delegated.check(connection, name, "manage")
        self._wait(connection, request, lambda: self._remove(connection, name))

    def _remove(self, connection: Connection, name: str) -> Answer:
        _there(name, self._history.stream(name))
        epoch = self._history.delete(name)
        if not epoch:  # another request was faster
            raise StreamRefused(ABSENT, name, None)
        self.gateway.router.publisher.tell_deleted(name, epoch)
        client.done(connection, "delete", name)
        return answers.answer(204, {})

    # Reading.

    def _head(self, connection: Connection, request: Request, name: str) -> None:
        ask = delegated.reading(connection, name)

        def head() -> Answer:
            stream = _there(name, self._history.stream(name))
            tail = places.token(stream.tail)
            tag = answers.etag(stream, "-1", tail, closed=stream.closed)
            fields = {"Content-Type": stream.content_type, **answers.state(stream), **answers.life(stream)}
            return answers.answer(200, {**fields, "ETag": tag, "Cache-Control": "no-store"})

        self._wait(connection, request, head, ask)

    def _get(self, connection: Connection, request: Request, name: str) -> None:
        look = reading.look(request)
        ask = delegated.reading(connection, name, look.live)
        if look.live and self.gateway.rates.on:
            self.gateway.rates.subscribe(client.account(connection), 1)
        if look.live == "long-poll" and ask is None:
            self._polls.begin(connection, request, name, look)
            return
        way = {"": self._read, "long-poll": self._poll, "sse": self._follow}[look.live]
        self._wait(connection, request, lambda: way(connection, request, name, look), ask)

    def _page(self, name: str, look: Look) -> tuple[Stream, StreamPage]:
        """The stream, and the page behind the place that is asked for."""
        # The messages for an event stream are read once it is subscribed.
        limit = 0 if look.place is None or look.live == "sse" else PAGE
        page = self._history.stream(name, look.place, limit, touch=True)
        stream = _there(name, page)
        if page.place is None:
            raise HttpError(410, _GONE)
        return stream, page

    def _read(self, connection: Connection, request: Request, name: str, look: Look) -> Answer:
        """Answer with the page behind a place."""
        stream, page = self._page(name, look)
        match = request.fields.get("if-none-match", "")
        return answers.page(stream, page, look.text, answers.cache(connection.permit is None), match)

    def _poll(self, connection: Connection, request: Request, name: str, look: Look) -> None:
        """Let a client wait that a delegate has allowed to."""
        connection.permit.check_still()
        self._polls.begin(connection, request, name, look)

    def _follow(self, connection: Connection, request: Request, name: str, look: Look) -> Answer | None:
        """Send the messages behind a place, and those that come, as events."""
        gateway, floor = self.gateway, intervals.behind(look.cursor)
        stream, page = self._page(name, look)
        assert page.place is not None
        form = events.form_of(media_type(stream.content_type), is_json=stream.is_json)
        chunked = not request.http10
        session = EventStream(
            connection, gateway.router, gateway.door.wheel, gateway.limits.keepalive, self._lifetimes, name, page.place,
            form, floor, self.lasts_for, chunked,
        )  # fmt: skip
        beginning = self._begin(connection, session, page.place, events.encoding(form, floor, chunked))
        if beginning is None:
            return None
        gateway.door.note(connection, request, 200)
        connection.become("streams")
        connection.state = OPENING if connection.state == SERVING else SUBSCRIBED
        connection.session = session
        if gateway.door.watcher is not None:
            gateway.door.watcher.came(connection)
        head = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", **dict(answers.COMMON)}
        head["X-Accel-Buffering"] = "no"  # nginx passes on at once what comes
        if form == events.BASE64:
            head["Stream-SSE-Data-Encoding"] = "base64"
        head = {**gateway.door.origins.headers(request.fields), **head}
        session.start(stream_bytes(tuple(head.items()), http10=request.http10))
        self._lifetimes.hold(name, stream, session)
        session.begin(beginning)
        gone = not session.subscriptions  # the stream was deleted before it was told so
        if (gone or gateway.door.draining) and connection.session is session:
            session.drain()
        return None

    def _begin(self, connection: Connection, session: EventStream, place: Cursor, encoding: Any) -> Beginning | None:
        """Subscribe a session behind a place, and wait until that is in force. None: the client has gone meanwhile.
        Raises a refusal; then nothing is subscribed."""
        name = session.names[0]
        session.subscribe(name, encoding)
        try:
            # All that was stored before the request is of the past for it, whatever this worker has delivered.
            beginning = Beginning(self.gateway.router, (name,), {name: Start(place)}, whole=True)
            if connection.permit is not None:
                connection.permit.check_still()
        except BaseException:  # raised again
            session.close()
            raise
        if connection.closed:
            session.close()
            return None
        return beginning


def _there(name: str, page: StreamPage) -> Stream:
    """The stream of a page. Raises StreamRefused where there is none."""
    if page.stream is None:
        raise StreamRefused(ABSENT, name, None)
    if page.stream.deleted:
        raise StreamRefused(DELETED, name, None)
    return page.stream


def _appended(result: Appended, producer: Producer | None, *, is_close_only: bool) -> Answer:
    """The answer to an append that was done, now or before."""
    outcome = result.outcome
    assert outcome is not None and outcome.stream is not None
    fields = answers.state(outcome.stream)
    if producer is not None and outcome.producer is not None:
        epoch, number = outcome.producer
        fields |= {"Producer-Epoch": str(epoch), "Producer-Seq": str(number)}
    added = not result.repeated and not is_close_only
    return answers.answer(200 if producer is not None and added else 204, fields)
