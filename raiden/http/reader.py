"""Reading requests of HTTP and WebSocket clients into asks. Nothing is done here, so nothing needs to be undone where a
request is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import webob

from raiden.history.conditions import ANYWHERE
from raiden.http import accept, calls, front_page, headers, lines, managing, parameters
from raiden.http.channel_builders import path
from raiden.http.origins import Origins
from raiden.http.reserved import Reserved
from raiden.model import encoding, labels, payload, strict_json
from raiden.model.encoding import Encoding, dumps
from raiden.model.message import Cursor, Kind, Message
from raiden.model.names import check_channel, check_subscription
from raiden.model.near import did_you_mean
from raiden.model.options import Channels
from raiden.model.refusals import Invalid
from raiden.model.strict_json import json_payload
from raiden.protocols import websocket
from raiden.protocols.http import METHODS, Fields, HttpError, Request, stream_response
from raiden.protocols.limits import HttpLimits
from raiden.sessions.asks import Ask, Clear, Cursors, Publish, Reply, Show, Subscribe, is_merged

# The field of an answer that must arrive as it is sent: a proxy that compresses it would keep it until there is more
# (RFC 9110 section 7.7).
AT_ONCE = ("Cache-Control", "no-store, no-transform")
# The fields of HEAD for a long-poll, whose answer has no length yet (RFC 9110 section 8.6).
_POLL_HEAD = (("Content-Type", "application/json"), AT_ONCE)
# The forms of a stream, with the media types that ask for each; "page" is the page that a browser shows to people
# instead.
FORMS = {
    "line": ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/json"),
    "event": ("text/event-stream",), "raw": ("application/octet-stream",), "page": ("text/html",),
}  # fmt: skip
# The functions that read what managers ask for, by path.
_MANAGING: Final[dict[str, Callable[[bytes], Ask]]] = {"revoke": managing.revoke, "disconnect": managing.disconnect}
# The members of a publish to many channels.
_ORDER: Final = frozenset({"channels", "data", "end", "if", *labels.MEMBERS})


class Reader:
    """A reader of requests by the settings of a gateway; settings that a reload changes are attributes. ``channels``
    are the options of channels (None: none keeps a history)."""

    def __init__(
        self, limits: HttpLimits, channels: Channels | None, origins: Origins, *,
        channel_builder: Callable[[Request], str], reserved: Reserved, deflate: bool,
    ) -> None:  # fmt: skip
        self.limits = limits
        self.channels = channels
        self.origins = origins
        self.channel_builder = channel_builder
        self.reserved = reserved
        self.deflate = deflate

    def read(self, request: Request) -> Ask:
        """Return what a request asks for; raises Refusal, and any exception of an application's `channel_builder`."""
        method, target = request.method, request.environ["raiden.path"]
        if method == "OPTIONS":
            return Reply(webob.Response(status=204, content_type=None, headerlist=[("Allow", METHODS)]))
        if method not in ("GET", "HEAD", "POST", "DELETE"):
            raise HttpError(405, f"{method} is not served: use {METHODS}", headers={"Allow": METHODS})
        if method == "POST":
            _check_coding(request)
        if target.startswith("/-/"):
            return self._own(request, target[3:])
        name = path(request)
        if self.reserved.has(name):
            return Reply(self.reserved.answer(method, name))
        if method in ("POST", "DELETE"):
            pairs = parameters.query_pairs(request)
            if method == "POST" and calls.is_call(pairs):
                channel = check_channel(self.channel_builder(request))
                return calls.call(request, channel, pairs, self.limits.max_message)
            if method == "POST" and lines.is_streamed(pairs):
                return lines.read(request, check_channel(self.channel_builder(request)), self.channels)
            parameters.check(pairs, parameters.NONE)
        elif target == "/" and _wants_page(request, always=self.channel_builder is path):
            return Reply(front_page.response())
        if method == "POST":
            return self._publish(request, check_channel(self.channel_builder(request)), name)
        if method == "DELETE":
            if "if-match" in request.fields:
                raise Invalid("If-Match is for a publish: a channel is deleted wherever it stands")
            return Clear(check_channel(self.channel_builder(request)))
        return self._subscribe(request, (check_subscription(self.channel_builder(request)),))

    def _own(self, request: Request, own: str) -> Ask:
        """Read a request for a path below ``/-/``."""
        if own == "publish":
            _require(request, "POST")
            parameters.check(parameters.query_pairs(request), parameters.NONE)
            return self._publish_to_many(request)
        if own == "answer" or own.startswith("answer/"):
            _require(request, "POST")
            return calls.answer(request, own[len("answer/") :], self.limits.max_message)
        if own in _MANAGING:
            _require(request, "POST")
            parameters.check(parameters.query_pairs(request), parameters.NONE)
            return _MANAGING[own](request.raw_body)
        _require(request, "GET", "HEAD")
        if own == "subscribe":
            names = [value for key, value in parameters.query_pairs(request) if key == "channel"]
            if not names:
                raise Invalid("name what to subscribe to: /-/subscribe?channel=a&channel=b")
            return self._subscribe(request, tuple([check_subscription(name) for name in dict.fromkeys(names)]))
        return self._subscribe(request, ()) if own == "websocket" else Show(own)

    def _keeps(self, channel: str) -> bool:
        return self.channels is not None and self.channels.of(channel).keeps

    # Publish.

    def _publish(self, request: Request, channel: str, name: str) -> Publish:
        """Read the body's messages. ``name`` is the channel's name in the target."""
        content_type, limits = request.fields.get("content-type", ""), self.limits
        if headers.is_repeated(request, "content-type"):
            raise Invalid("more than one Content-Type: send one")
        label = headers.label(request)
        room = limits.max_message if label is None else limits.max_message - label.size
        is_batch = payload.is_batch(content_type)
        ends, at = headers.flag(request, "raiden-end"), headers.condition(request)
        if ends and not request.raw_body:
            is_batch, messages = False, [Message(channel, Kind.JSON, b"")]  # which becomes the end
        elif is_batch:
            batch = payload.batch(request.raw_body, limits.max_batch, room)
            messages = [Message(channel, Kind.JSON, line) for line in batch]
            if self.channels is not None:
                payload.check_batch(len(messages), self.channels.of(channel).most_at_once)
        else:
            messages = [Message(channel, *payload.of_type(content_type, request.raw_body, room))]
        if label is not None:
            for message in messages:
                label.put_on(message)
        if ends:
            payload.with_end(messages[-1])
        key = request.fields.get("idempotency-key")
        payload.check_terms(messages[-1], key, at, keeps=self._keeps(channel))
        is_simple = key is None and at is None and not ends and payload.is_json(content_type)
        prefix = channel.removesuffix(name) if is_simple else None
        places = ANYWHERE if at is None else {channel: at}
        return Publish([messages], key, _cursors_of_a_batch if is_batch else _cursor, prefix, places, label)

    def _publish_to_many(self, request: Request) -> Publish:
        order = strict_json.members(request.raw_body)
        if order is not None and not order.keys() <= _ORDER:
            unknown = min(order.keys() - _ORDER)
            raise Invalid(f"the body has an unknown member {unknown[:100]!r}{did_you_mean(unknown, _ORDER)}")
        ends = order is not None and _flag(order, "end")
        if order is None or "channels" not in order or ("data" not in order and not ends):
            raise Invalid('the body must be like {"channels": ["a", "b"], "data": ...}')
        if headers.flag(request, "raiden-end") or headers.condition(request) is not None:
            raise Invalid(
                "Raiden-End and If-Match are for the POST of one channel: use the members 'end' and 'if' here"
            )
        names = strict_json.value(order["channels"], most=strict_json.MAX_SLOW)
        known = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not known or not 0 < len(names) <= self.limits.max_subscriptions:
            raise Invalid(f"channels must be a list of 1 to {self.limits.max_subscriptions} names")
        if field := min(labels.FIELDS.keys() & request.fields.keys(), default=None):
            raise Invalid(f"{field} is for the POST of one channel: use the member {labels.FIELDS[field]!r} here")
        label = labels.of_members({
            name: strict_json.value(order[name], most=strict_json.MAX_SLOW) for name in order.keys() & labels.MEMBERS
        })  # fmt: skip
        data = b""
        if "data" in order:
            data = json_payload(order["data"])
            payload.check_size(Kind.JSON, data, self.limits.max_message - label.size)
        channels = [check_channel(name) for name in dict.fromkeys(names)]
        messages = [Message(channel, Kind.JSON, data) for channel in channels]
        key, places = request.fields.get("idempotency-key"), _places(order, channels)
        for message in messages:
            label.put_on(message)
            if ends:
                payload.with_end(message)
            payload.check_terms(message, key, places.get(message.channel), keeps=self._keeps(message.channel))
        return Publish([[message] for message in messages], key, _cursors_by_channel, at=places)

    # Subscribe.

    def _subscribe(self, request: Request, names: tuple[str, ...]) -> Ask:
        """Read a subscription by one of the four transports; ``names`` is empty for the WebSocket that takes
        commands."""
        pairs = parameters.query_pairs(request)
        if calls.is_taking(pairs):
            return calls.take(request, names, pairs, self.limits.max_wait)
        parameters.check(pairs, parameters.SUBSCRIBE)
        query = dict(pairs)
        if len(names) > self.limits.max_subscriptions:
            raise Invalid(f"at most {self.limits.max_subscriptions} channels on a connection")
        wrap, verbatim = parameters.flag(query, "_wrap"), parameters.flag(query, "_raw")
        wrapped = not names or is_merged(names) or wrap
        thinning = parameters.thinning(query)
        filters = parameters.filters(request).thinned(thinning)
        starts = MappingProxyType(parameters.starts(request, query, names))
        _check_durable(query, what="a long-poll, or a command of /-/websocket" if request.upgrade else "")
        if "_durable" in query and filters:
            raise Invalid("a durable subscription is without filters")
        if thinning is not None and not names:
            raise Invalid("say rate, key and slow with each command that subscribes")
        presence = parameters.presence(query, names)
        if request.upgrade:
            _check_presence(presence, tells=wrapped)
            agreement = websocket.accept(request, deflate=self.deflate)
            encode = encoding.websocket(wrapped, agreement.deflate is not None, verbatim and bool(names))
            return Subscribe(
                names, filters, starts, wrapped, "websocket", encode, agreement=agreement, verbatim=verbatim,
                presence=presence,
            )  # fmt: skip
        if not names:
            raise HttpError(426, "/-/websocket is a WebSocket", headers={"Upgrade": "websocket"})
        wait = parameters.wait(request, query)
        if thinning is not None and wait is not None:
            raise Invalid("_rate, _key and _slow are not for a long-poll: its client asks as often as it likes")
        if "_durable" in query:
            return self._consume(request, names, query, min(wait or 0.0, self.limits.max_wait))
        if wait is not None:
            if request.method == "HEAD":
                return Reply(stream_response(_POLL_HEAD))
            encode, wait = encoding.poll(wrapped), min(wait, self.limits.max_wait)
            return Subscribe(
                names, filters, starts, wrapped, "poll", encode, head=(AT_ONCE,), wait=wait, presence=presence
            )
        form = _form(request, wrapped=wrapped, for_people=request.environ["raiden.path"] != "/-/subscribe")
        if form == "page":
            return Reply(front_page.lead_to(request, path(request)))
        _check_presence(presence, tells=wrapped or form == "event")
        content_type, encode = _stream(request, names, wrapped, form)
        head: Fields = (("Content-Type", content_type), AT_ONCE, ("X-Accel-Buffering", "no"))
        head += tuple(self.origins.headers(request.fields).items())
        if request.method == "HEAD":
            return Reply(stream_response(head))
        transport = "event" if form == "event" else "stream"
        return Subscribe(
            names, filters, starts, wrapped, transport, encode, head=head, http10=request.http10, presence=presence
        )

    def _consume(self, request: Request, names: tuple[str, ...], query: dict[str, str], wait: float) -> Ask:
        if len(names) != 1 or not self._keeps(check_channel(names[0])):
            raise Invalid("a durable subscription is to one channel, which has a history")
        headers.check_takes(request)
        ask = parameters.consume(names[0], query, wait)
        return Reply(stream_response(_POLL_HEAD)) if request.method == "HEAD" else ask


def _check_coding(request: Request) -> None:
    """Raise HttpError 415 for a body with a content coding (RFC 9110 sections 8.4 and 15.5.16)."""
    coding = request.environ.get("HTTP_CONTENT_ENCODING")
    if coding is not None and any(name.strip().lower() not in ("", "identity") for name in coding.split(",")):
        raise HttpError(
            415, "send the body as it is, without Content-Encoding", headers={"Accept-Encoding": "identity"}
        )


def _check_durable(query: Mapping[str, str], what: str) -> None:
    """Raise Invalid for parameters that don't go together. ``what`` names what to use instead, where a durable
    subscription is not possible."""
    if "_durable" not in query:
        if alone := min(query.keys() & parameters.DURABLY, default=None):
            raise Invalid(f"{alone} is of a durable subscription: name it, as _durable=NAME")
    elif what:
        raise Invalid(f"a durable subscription is {what}")
    elif other := min(query.keys() & parameters.NOT_DURABLY, default=None):
        raise Invalid(f"{other} is not for a durable subscription")


def _check_presence(presence: Mapping[str, str] | None, *, tells: bool) -> None:
    """Raise Invalid where a connection is to tell of presence, but has no place for it beside messages (``tells``), or
    the client shows a list that only a long-poll has told."""
    if presence is not None and not tells:
        raise Invalid("_presence=1 is told between the messages, so these have to be wrapped: add _wrap=1")
    if any((presence or {}).values()):
        raise Invalid("_presence is 1 or 0, except for a long-poll")


def _wants_page(request: Request, *, always: bool) -> bool:
    """Whether a request for ``/`` gets the page: if a browser shows it to people, or ``always``, since there is nothing
    else to get, unless the client does not accept it."""
    forms = {"page": FORMS["page"]} if always else FORMS
    return not request.upgrade and accept.choose(request.environ.get("HTTP_ACCEPT"), forms) == "page"


def _form(request: Request, *, wrapped: bool, for_people: bool) -> str:
    """The form of a stream that the client accepts: "line", "event", "raw", or, if it may be ``for_people``, "page".
    Raises HttpError 406 where it accepts none of these."""
    forms = {
        name: media_types for name, media_types in FORMS.items()
        if (name != "raw" or not wrapped) and (name != "page" or for_people)
    }  # fmt: skip
    found = accept.choose(request.environ.get("HTTP_ACCEPT"), forms)
    if found is None:
        raise HttpError(
            406, "a subscription is text/event-stream or application/x-ndjson, or of one channel also "
            "application/octet-stream: accept one of them, or */*",
        )  # fmt: skip
    return found


def _stream(request: Request, names: tuple[str, ...], wrapped: bool, form: str) -> tuple[str, Encoding]:
    """The content type of a stream, and the encoding of its messages."""
    chunked = not request.http10
    if form == "event":
        return "text/event-stream", encoding.sse(wrapped, chunked, is_merged(names))
    if form == "raw":
        return "application/octet-stream", encoding.raw(chunked)
    return "application/x-ndjson", encoding.line(wrapped, chunked)


def _cursor(groups: object, cursors: Cursors) -> bytes:
    return b'{"cursor":"%b"}' % str(cursors[0][0]).encode()


def _cursors_of_a_batch(groups: object, cursors: Cursors) -> bytes:
    return dumps({"cursors": [str(cursor) for cursor in cursors[0]]})


def _cursors_by_channel(groups: Sequence[Sequence[Message]], cursors: Cursors) -> bytes:
    places = zip(groups, cursors, strict=True)
    return dumps({"cursors": {group[0].channel: str(found[0]) if found else None for group, found in places}})


def _flag(order: Mapping[str, bytes], name: str) -> bool:
    """A member of an order that is true or false."""
    text = order.get(name, b"false")
    if text not in (b"true", b"false"):
        raise Invalid(f"{name} is true or false")
    return text == b"true"


def _places(order: Mapping[str, bytes], channels: Sequence[str]) -> Mapping[str, Cursor]:
    """The cursors at which channels must stand, by an order's member ``if``."""
    if "if" not in order:
        return ANYWHERE
    told = strict_json.value(order["if"], most=strict_json.MAX_SLOW)
    if not isinstance(told, dict) or not told.keys() <= set(channels) or not all(map(_is_text, told.values())):
        raise Invalid('if has the cursor of some of the channels, like {"a": "k3x9:41:8c1f02d9e7ab"}')
    return {name: Cursor.parse(text) for name, text in told.items()}


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _require(request: Request, *methods: str) -> None:
    if request.method not in methods:
        allow = ", ".join(methods)
        raise HttpError(405, f"use {allow} here", headers={"Allow": allow})
