"""Streams: channels whose history has no bound, with a state of their own. Values, and the promises of a store. Pure.

A *stream* is a kind of channel. It is made by an append with the terms `Make`, and lasts until it is deleted or its
time is over. Its history is never shortened: an append's size, ttl and retain count for nothing, and a stream is not
forgotten for want of appends. All else is as of other channels: offsets, proofs, epochs, pages, positions, durables.
The present time decides whether a stream is there: once its time is over it counts as absent, with its messages, even
before `Store.tidy` has removed it. (Only its durables may hand out messages until then.)

**Closed.** A stream is closed by an end, as any channel is (`Append.ends`), and then takes no more messages. A *hollow*
end (`Append.hollow`) is a message that says nothing besides. The *tail* of a stream is its last message that is not
hollow; its place is the offset of that message and its proof, or offset 0 with the proof "" where there is none.

**State.** A stream has its content type, its life (a ttl that each use starts anew, or a fixed time), the last
`Add.seq`, the producer by which it was closed, and for each producer an epoch and a number. All of it changes in the
same step as the append that changes it, and nothing of it where that append is refused. A producer that adds nothing
for `FORGET_PRODUCERS` seconds may be forgotten.

**Forks.** A fork begins with the messages of its source up to a place, as they were appended: with the same offsets,
kinds, times and proofs. So the places of the source up to there are places of the fork. (Where the last one of them was
an end, the fork has it without the attribute ``end``, and with the same proof.) Nothing that happens to the source
later is seen in the fork. The store counts the forks of each stream that are there. A stream that is deleted, or whose
time is over, while it has forks, is *deleted in name*: its messages and producers are gone, and its name
can't be used for a stream. It is gone for good with its last fork, at once or when the store is tidied.

Long work does not keep other calls waiting: a fork of many messages is made in pieces (`Outcome.more`), and the
messages of a large stream that is gone are removed by `Store.tidy`.

**Terms of an append.** `Append.terms` says that an append is for a stream. It is judged in the step that appends it,
behind the appends before it, by the list of `Make` or of `Add`: the first line that applies decides. A refusal is an
`Unmet`, whose ``what`` is one of the words in capitals below. Otherwise `Appended.outcome` has the stream as the append
has left it. An append with terms is the first one of its call, and has no key, no ``at`` and no ``discard_new``; where
its messages are not appended, nothing of the call is. Appends without terms to a stream are refused with `ENDED` where
it is closed, and with `KIND` where a message that is not hollow has a kind that is not one of `kinds`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from raiden.model.message import Cursor, Kind
from raiden.model.page import Record
from raiden.model.refusals import Refusal

# Seconds after which a producer that adds nothing may be forgotten.
FORGET_PRODUCERS: Final = 7 * 86400.0
# Seconds after which a fork that is not whole, and that nobody goes on making, gives way to another one of its name.
IDLE_FORK: Final = 2.0
# The most bytes of a content type, and of a producer's id or a sequence; callers keep to these.
MAX_TYPE: Final = 255
MAX_PRODUCER: Final = 255
# The highest epoch, and the highest number, of a producer.
MAX_NUMBER: Final = (1 << 53) - 1

JSON: Final = "application/json"

# What is the matter where an append is refused (`Unmet.what`), besides those of `raiden.history.conditions`.
ABSENT: Final = "absent"  # there is no stream of this name
DELETED: Final = "deleted"  # it is deleted in name
RESERVED: Final = "reserved"  # it is deleted in name, and can't be made
ORDINARY: Final = "ordinary"  # the name is that of a channel which is no stream
DIFFERENT: Final = "different"  # there is a stream, which is not the one that was to be made
NO_SOURCE: Final = "no source"  # there is no stream to fork
SOURCE_DELETED: Final = "source deleted"  # it is deleted in name
POINT: Final = "point"  # the fork's place is none of its source
TYPE: Final = "type"  # the content type is another one than that of the stream, or of the source
KIND: Final = "kind"  # the kind of a message is none of the stream's
CLOSED: Final = "closed"
STALE: Final = "stale"  # the producer has a later epoch; `Outcome.producer` is its epoch and last number
EARLY: Final = "early"  # the producer begins an epoch with another number than 0; likewise
MISSING: Final = "missing"  # numbers of the producer are missing; likewise, and (epoch, -1) for one that is unknown
SEQUENCE: Final = "sequence"  # the sequence is not behind the last one
CROWDED: Final = "crowded"  # the store has no room for another stream, or for another producer

# The status of each, and what to do.
_REFUSALS: Final[dict[str, tuple[int, str]]] = {
    ABSENT: (404, "there is no stream {name}: PUT it first"),
    DELETED: (410, "{name} was deleted"),
    RESERVED: (409, "{name} was deleted, and its name is kept for its forks: use another one, or delete these"),
    ORDINARY: (409, "{name} is a channel with a history, and no stream: DELETE it first, or use another name"),
    DIFFERENT: (409, "there is a stream {name} with another content type, life, state or source: use another name"),
    NO_SOURCE: (404, "there is no stream to fork"),
    SOURCE_DELETED: (409, "the stream to fork was deleted: it can't be forked any more"),
    POINT: (400, "the place to fork at is none of its source"),
    TYPE: (409, "{name} has another content type: {type}"),
    KIND: (409, "{name} is a stream of {type}: publish messages of that kind"),
    CLOSED: (409, "{name} is closed"),
    STALE: (403, "the producer has begun a later epoch, {epoch}"),
    EARLY: (400, "the producer must begin a new epoch with the number 0"),
    MISSING: (409, "messages of the producer are missing: its next number is {next}"),
    SEQUENCE: (409, "the sequence must be greater than the last one of {name}"),
    CROWDED: (503, "the store has no room for more streams or producers: raise max_data, or delete streams"),
}


class Fork(NamedTuple):
    """The beginning of a fork: the messages of the stream ``source`` up to the place ``at``, whose epoch counts for
    nothing (None: up to its tail). ``sub`` moves that place on: in a stream of JSON by so many messages; in others the
    fork also has a message of its own, of the first ``sub`` bytes of the next message."""

    source: str
    at: Cursor | None = None
    sub: int = 0


class Make(NamedTuple):
    """The terms of an append that makes a stream, and adds its first messages. A stream is made closed where the append
    ends it. ``content_type`` is as it was given ("": a fork has that of its source; none but a fork may leave it out).
    ``ttl`` is in seconds, ``expires`` is microseconds since 1970, and ``expires_text`` is how that was said; -1, 0 and
    "": not given, and a fork that gives neither has the ttl, or else the time, of its source.

    1. The name is that of a channel with a history which is no stream: `ORDINARY`.
    2. The stream is deleted in name: `RESERVED`.
    3. There is such a stream: nothing is appended. If it is the same: `Appended.repeated`; else `DIFFERENT`. The same
       has an equal content type (`media_type`), ttl and time, is closed or not as this one would be, and has the same
       source and ``sub``. For a fork, ``at``, the content type, and ttl and time count only where they are given.
    4. The source is absent, or no stream: `NO_SOURCE`; it is deleted in name: `SOURCE_DELETED`.
    5. The content type is given, and is another one than the source's: `TYPE`.
    6. ``at`` is no place of the source up to its tail (another proof is another place; offset 0 has any proof), or
       there are not ``sub`` messages, or bytes of a next message, behind it: `POINT`.
    7. Otherwise it is made, and the messages are appended. Where the fork's beginning is long, `Outcome.more`: the
       stream can't be seen yet, and the same append has to be made again, until it is whole. If the source goes
       meanwhile, line 4 applies. Another fork of this name, also one with another life, is `DIFFERENT` until then,
       behind line 5. One that nobody goes on making gives way to another one after `IDLE_FORK` seconds, and is given
       up after a minute."""

    content_type: str = ""
    ttl: int = -1
    expires: int = 0
    expires_text: str = ""
    fork: Fork | None = None


class Producer(NamedTuple):
    """A producer's part of an append: its messages are added once. Epoch and number are at most `MAX_NUMBER`."""

    id: str
    epoch: int
    number: int


class Add(NamedTuple):
    """The terms of an append to a stream that is there. Its messages may be none at all: then it is judged, but nothing
    is changed (neither a producer nor the sequence). ``content_type`` is the messages'. ``producer`` and ``seq``, which
    is compared by its bytes, may be None.

    1. There is no stream of this name: `ABSENT`. It is deleted in name: `DELETED`.
    2. The stream is closed. The producer, its epoch and its number are those that closed it: `Appended.repeated`. The
       epoch is lower than the producer's: `STALE`. A hollow end without a producer: `Appended.repeated`. Else `CLOSED`.
    3. The content type is not equal (`media_type`), and the append is not a hollow end: `TYPE`.
    4. The producer is unknown, and its number is not 0: `MISSING`. Its epoch is lower than the last one: `STALE`. Its
       epoch is higher, and the number not 0: `EARLY`. Its epoch is the last one, and the number not above the last one:
       `Appended.repeated`; more than one above it: `MISSING`.
    5. ``seq`` is not greater than the last one of the stream: `SEQUENCE`.
    6. Otherwise the messages are appended, and producer and sequence noted."""

    content_type: str = ""
    producer: Producer | None = None
    seq: str | None = None


Terms: TypeAlias = "Make | Add"


class Stream(NamedTuple):
    """A stream. ``tail`` is its last message that is not hollow, with the epoch of that (of the stream's first message
    to come, where there is none); the first `raiden.model.chain.ROOT_DIGITS` of any of its epochs are no other
    stream's. ``ttl`` (-1: none), ``expires`` (0: none) and ``expires_text`` are as in `Make`, for a fork as it has
    them. ``deleted``: it is so in name, and all else says nothing."""

    content_type: str
    tail: Cursor
    closed: bool = False
    ttl: int = -1
    expires: int = 0
    expires_text: str = ""
    deleted: bool = False

    @property
    def is_json(self) -> bool:
        return is_json(self.content_type)


class Outcome(NamedTuple):
    """The outcome of an append with terms, also of one that was refused. ``stream`` is as it is now (None: there is
    none). ``producer`` is the epoch and the last number of the append's producer, where it has one that is known.
    ``more``: the fork is not whole yet."""

    stream: Stream | None
    producer: tuple[int, int] | None = None
    more: bool = False


class StreamPage(NamedTuple):
    """Messages of a stream behind ``place``, which has its epoch (None: the stream does not have the place that was
    asked for). Hollow ends are left out. ``more``: they do not reach the tail of ``stream``. Without a stream there is
    nothing else."""

    stream: Stream | None = None
    place: Cursor | None = None
    records: Sequence[Record] = ()
    more: bool = False


class StreamRefused(Refusal):
    """An append that a stream does not take, because of ``what``, one of the words above."""

    def __init__(self, what: str, channel: str, outcome: Outcome | None) -> None:
        stream, (epoch, number) = outcome and outcome.stream, (outcome and outcome.producer) or (0, -1)
        self.status, text = _REFUSALS[what]
        super().__init__(
            text.format(name=channel, type=stream.content_type if stream else "", epoch=epoch, next=number + 1)
        )
        self.what = what
        self.outcome = outcome


def refuses(what: str) -> bool:
    """Whether this is one of the words above."""
    return what in _REFUSALS


class Streams(Protocol):
    """The part of a store that is for streams only. All methods raise `StoreFailed`."""

    def stream(self, channel: str, place: Cursor | None = None, limit: int = 0, *, touch: bool = False) -> StreamPage:
        """The stream, and at most ``limit`` messages behind a place, up to the one that goes over `PAGE_BYTES`. The
        place's epoch counts for nothing, its proof does, unless the offset is 0; None: the stream's tail, where 0
        messages are. ``touch``: this is a use of the stream, which starts its ttl anew. (The time that a store notes
        may be later than that, by a twentieth of the ttl and by 60 s at most, so that not each use must write.)"""

    def delete(self, channel: str) -> str:
        """Delete a stream. Returns the epoch that ends with it; "" where there was none. One with forks is deleted in
        name. One that is deleted in name already stays as it is: "". (`Store.clear` does the same with a stream, and
        clears the history of other channels, too.)"""


def media_type(content_type: str) -> str:
    """A content type in the form in which two are compared: without parameters, in small letters."""
    return content_type.partition(";")[0].strip().lower()


def is_json(content_type: str) -> bool:
    """Whether messages of this type are values of JSON."""
    return media_type(content_type) == JSON


def kinds(content_type: str) -> int:
    """The kinds of messages that a stream takes, as bits (``1 << kind``): JSON where that is its type, and otherwise
    bytes; in streams of text also texts."""
    if is_json(content_type):
        return 1 << Kind.JSON
    return 1 << Kind.BYTES | (1 << Kind.TEXT if media_type(content_type).startswith("text/") else 0)


# Values as they travel between a worker and the history process.


def plain_terms(terms: Terms | None) -> tuple[Any, ...] | None:
    """Terms as plain values."""
    if terms is None:
        return None
    if isinstance(terms, Make):
        fork = terms.fork
        return "make", *terms[:-1], fork and (fork.source, fork.at and tuple(fork.at), fork.sub)
    return "add", terms.content_type, terms.producer and tuple(terms.producer), terms.seq


def to_terms(values: tuple[Any, ...] | None) -> Terms | None:
    """The terms of plain values."""
    if values is None:
        return None
    if values[0] == "make":
        _, content_type, ttl, expires, text, fork = values
        return Make(content_type, ttl, expires, text, fork and Fork(fork[0], fork[1] and Cursor(*fork[1]), fork[2]))
    _, content_type, producer, seq = values
    return Add(content_type, producer and Producer(*producer), seq)


def plain_stream(stream: Stream | None) -> tuple[Any, ...] | None:
    return stream and (stream.content_type, tuple(stream.tail), *stream[2:])


def to_stream(values: tuple[Any, ...] | None) -> Stream | None:
    return None if values is None else Stream(values[0], Cursor(*values[1]), *values[2:])


def plain_outcome(outcome: Outcome | None) -> tuple[Any, ...] | None:
    return outcome and (plain_stream(outcome.stream), outcome.producer, outcome.more)


def to_outcome(values: tuple[Any, ...] | None) -> Outcome | None:
    return None if values is None else Outcome(to_stream(values[0]), *values[1:])


def plain_page(page: StreamPage) -> tuple[Any, ...]:
    records = [tuple(record) for record in page.records]
    return plain_stream(page.stream), page.place and tuple(page.place), records, page.more


def to_stream_page(stream: Any, place: Any, records: Any, more: bool) -> StreamPage:
    return StreamPage(to_stream(stream), place and Cursor(*place), [Record(*record) for record in records], more)
