"""Streams of a store, with each engine: `raiden.history.streams` promises what is tried here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from raiden.history import streams
from raiden.history.conditions import ENDED
from raiden.history.sqlite import Sqlite
from raiden.history.store import Append, Appended, Store
from raiden.history.streams import Add, Fork, Make, Producer, Stream
from raiden.model import attributes
from raiden.model.attributes import ENVELOPE, Attributes
from raiden.model.chain import ROOT_DIGITS
from raiden.model.message import Cursor, Kind
from tests.stores import Clock, append, payloads

TEXT = "text/plain"
HOLLOW = (Kind.JSON | ENVELOPE, attributes.put_in(Attributes(end=True), b""))


def put(
    store: Store, channel: str, *payloads: bytes, content_type: str = TEXT, ttl: int = -1, expires: int = 0,
    closes: bool = False, fork: Fork | None = None,
) -> Appended:  # fmt: skip
    """Make a stream, as often as that takes."""
    terms = Make(content_type, ttl, expires, f"at {expires}" if expires else "", fork)
    made = _append(store, channel, payloads, terms, closes=closes)
    while made.outcome is not None and made.outcome.more:
        made = _append(store, channel, payloads, terms, closes=closes)
    return made


def add(
    store: Store, channel: str, *payloads: bytes, content_type: str = TEXT, seq: str | None = None,
    producer: tuple[str, int, int] | None = None, closes: bool = False,
) -> Appended:  # fmt: skip
    terms = Add(content_type, producer and Producer(*producer), seq)
    return _append(store, channel, payloads, terms, closes=closes)


def _append(store: Store, channel: str, payloads: Sequence[bytes], terms: streams.Terms, *, closes: bool) -> Appended:
    kind = Kind.JSON if streams.media_type(terms.content_type) == streams.JSON else Kind.BYTES
    messages: list[tuple[int, bytes]] = [(kind, payload) for payload in payloads]
    if closes and messages:
        messages[-1] = (kind | ENVELOPE, attributes.put_in(Attributes(end=True), payloads[-1]))
    hollow = closes and not messages
    if hollow:
        messages.append(HOLLOW)
    (appended,) = store.append([Append(channel, messages, ends=closes, hollow=hollow, terms=terms)])
    return appended


def what(appended: Appended) -> str:
    """The verdict on an append."""
    if appended.unmet is not None:
        return appended.unmet.what
    return "repeated" if appended.repeated else ""


def stream_of(appended: Appended) -> Stream:
    outcome = appended.outcome if appended.unmet is None else appended.unmet.outcome
    assert outcome is not None and outcome.stream is not None
    return outcome.stream


def producer_of(appended: Appended) -> tuple[int, int] | None:
    outcome = appended.outcome if appended.unmet is None else appended.unmet.outcome
    assert outcome is not None
    return outcome.producer


def texts(store: Store, channel: str, place: Cursor | None = None, limit: int = 100) -> list[bytes]:
    return [record.payload for record in store.stream(channel, place or Cursor("", 0), limit).records]


# Making, and reading.


def test_a_stream_is_made_with_its_first_messages(store: Store) -> None:
    made = put(store, "s", b"a", b"b")
    stream = stream_of(made)
    assert what(made) == "" and list(made.offsets) == [1, 2]
    assert stream == Stream(TEXT, made.cursors()[-1])
    page = store.stream("s", Cursor("", 0), 100)
    assert page.stream == stream and not page.more
    assert [(record.offset, record.payload) for record in page.records] == [(1, b"a"), (2, b"b")]


def test_an_empty_stream_has_a_place(store: Store) -> None:
    made = put(store, "s")
    assert what(made) == "" and list(made.offsets) == []
    tail = stream_of(made).tail
    assert tail.offset == 0 and tail.proof == ""
    page = store.stream("s", Cursor("", 0), 100)
    assert page.place is not None and page.place.offset == 0 and not page.records and not page.more
    assert store.positions(["s"])["s"].position == tail
    first = add(store, "s", b"a")
    assert first.cursors()[0].epoch[:ROOT_DIGITS] == tail.epoch[:ROOT_DIGITS]


def test_a_place_is_known_by_its_proof(store: Store) -> None:
    one = put(store, "s", b"a", b"b", b"c").cursors()
    assert texts(store, "s", one[0]._replace(epoch="")) == [b"b", b"c"]
    page = store.stream("s", one[0]._replace(epoch=""), 1)
    assert page.more and page.place == one[0]
    assert store.stream("s", one[0]._replace(proof=one[1].proof), 1).place is None, "another message stands there"
    assert store.stream("s", one[2]._replace(offset=4), 1).place is None, "nothing stands there"
    at_end = store.stream("s", one[2], 10)
    assert at_end.place == one[2] and not at_end.records and not at_end.more
    tail = store.stream("s")
    assert tail.place == one[2] and not tail.records and not tail.more


def test_no_such_stream(store: Store) -> None:
    append(store, "channel", b"1")
    for name in "nothing", "channel":
        assert store.stream(name).stream is None
        assert store.delete(name) == ""
        assert what(add(store, name, b"a")) == streams.ABSENT
    assert what(put(store, "channel")) == streams.ORDINARY
    assert payloads(store.after("channel", None, 10)) == [b"1"]


def test_the_same_stream_is_made_once(store: Store) -> None:
    made = put(store, "s", b"a")
    again = put(store, "s", b"other", content_type="TEXT/plain; charset=utf-8")
    assert what(again) == "repeated" and stream_of(again) == stream_of(made) and list(again.offsets) == []
    assert texts(store, "s") == [b"a"]
    assert what(put(store, "s", content_type="text/html")) == streams.DIFFERENT
    assert what(put(store, "s", ttl=60)) == streams.DIFFERENT
    assert what(put(store, "s", expires=1 << 60)) == streams.DIFFERENT
    assert what(put(store, "s", closes=True)) == streams.DIFFERENT
    assert stream_of(put(store, "closed", b"last", closes=True)).closed
    assert what(put(store, "closed", closes=True)) == "repeated"
    assert what(put(store, "closed")) == streams.DIFFERENT


def test_the_history_of_a_stream_has_no_bound(store: Store, clock: Clock) -> None:
    put(store, "s")
    for number in range(3):
        store.append([Append("s", [(Kind.BYTES, b"%d" % number)] * 100, size=10, ttl=0.001)])
    clock.pass_by(40 * 86400)
    store.tidy(1000)
    assert len(store.after("s", None, 1000).records) == 300
    assert len(texts(store, "s", limit=1000)) == 300


# Appends.


def test_the_content_type_is_the_stream_s(store: Store) -> None:
    put(store, "s")
    assert what(add(store, "s", b"a", content_type="TEXT/Plain; charset=latin-1")) == ""
    refused = add(store, "s", b"1", content_type="application/json")
    assert what(refused) == streams.TYPE and stream_of(refused).content_type == TEXT
    assert refused.unmet is not None and "text/plain" in refused.unmet.refusal().detail
    assert what(add(store, "s", closes=True, content_type="application/json")) == "", "it says nothing"


def test_sequences_go_up_by_their_bytes(store: Store) -> None:
    put(store, "s")
    assert [what(add(store, "s", b"a", seq=seq)) for seq in ("09", "10", "2", "2", "10", "\u00e9", "z")] == [
        "", "", "", streams.SEQUENCE, streams.SEQUENCE, "", streams.SEQUENCE
    ]  # fmt: skip
    assert what(add(store, "s", b"a")) == ""
    assert len(texts(store, "s")) == 5


def test_a_producer_adds_each_message_once(store: Store) -> None:
    put(store, "s")
    for epoch, number, verdict, state in [
        (3, 1, streams.MISSING, None),
        (3, 0, "", (3, 0)),
        (3, 0, "repeated", (3, 0)),
        (3, 1, "", (3, 1)),
        (3, 0, "repeated", (3, 1)),
        (3, 3, streams.MISSING, (3, 1)),
        (2, 2, streams.STALE, (3, 1)),
        (4, 1, streams.EARLY, (3, 1)),
        (4, 0, "", (4, 0)),
        (3, 2, streams.STALE, (4, 0)),
    ]:
        appended = add(store, "s", b"%d %d" % (epoch, number), producer=("p", epoch, number))
        assert (what(appended), producer_of(appended)) == (verdict, state), (epoch, number)
    assert texts(store, "s") == [b"3 0", b"3 1", b"4 0"]
    assert what(add(store, "s", b"q", producer=("q", 0, 0))) == "", "another producer has its own numbers"
    assert stream_of(add(store, "s", b"x", producer=("q", 0, 0))).tail.offset == 4


def test_a_producer_s_retry_is_judged_before_the_sequence(store: Store) -> None:
    put(store, "s")
    assert what(add(store, "s", b"a", producer=("p", 0, 0), seq="1")) == ""
    assert what(add(store, "s", b"a", producer=("p", 0, 0), seq="1")) == "repeated"
    assert what(add(store, "s", b"b", producer=("p", 0, 1), seq="1")) == streams.SEQUENCE
    assert what(add(store, "s", b"b", producer=("p", 0, 1), seq="2")) == "", "the refused one has changed nothing"


def test_an_append_without_messages_is_only_judged(store: Store) -> None:
    put(store, "s")
    assert what(add(store, "s", producer=("p", 0, 0), seq="5")) == ""
    assert what(add(store, "s", producer=("p", 0, 1))) == streams.MISSING
    assert what(add(store, "s", b"a", producer=("p", 0, 0), seq="1")) == ""
    assert texts(store, "s") == [b"a"]


def test_appends_of_one_group_see_each_other(store: Store) -> None:
    add_one = [Append("s", [(Kind.BYTES, b"%d" % n)], terms=Add(TEXT, Producer("p", 0, n))) for n in (0, 1, 1, 2)]
    group = [Append("s", [], terms=Make(TEXT)), *add_one]
    assert [what(each) for each in store.append(group)] == ["", "", "", "repeated", ""]
    assert texts(store, "s") == [b"0", b"1", b"2"]


def test_a_call_is_done_as_a_whole(store: Store) -> None:
    put(store, "s", b"a")
    terms = Add(TEXT, Producer("p", 0, 0))
    for _ in range(2):
        call = [Append("s", [(Kind.BYTES, b"b")], terms=terms), Append("log", [(Kind.JSON, b"1")])]
        store.append(call, [2])
    refused = [Append("s", [(0, b"b")], terms=Add("text/html")), Append("log", [(Kind.JSON, b"2")])]
    assert [what(each) for each in store.append(refused, [2])] == [streams.TYPE, streams.TYPE]
    assert texts(store, "s") == [b"a", b"b"]
    assert payloads(store.after("log", None, 10)) == [b"1"]


# Closing.


def test_a_stream_is_closed_by_an_append(store: Store) -> None:
    put(store, "s", b"a")
    closed = add(store, "s", b"b", closes=True)
    stream = stream_of(closed)
    assert stream.closed and stream.tail == closed.cursors()[-1]
    refused = add(store, "s", b"c")
    assert what(refused) == streams.CLOSED and stream_of(refused) == stream
    assert what(add(store, "s", b"c", closes=True)) == streams.CLOSED
    assert what(add(store, "s", closes=True)) == "repeated"
    assert store.stream("s").stream == stream
    assert store.positions(["s"])["s"].ended
    assert payloads(store.after("s", None, 10))[0] == b"a"


def test_a_hollow_end_is_not_the_tail(store: Store) -> None:
    tail = put(store, "s", b"a", b"b").cursors()[-1]
    closed = add(store, "s", closes=True)
    assert stream_of(closed) == Stream(TEXT, tail, closed=True)
    page = store.stream("s", Cursor("", 0), 10)
    assert [record.offset for record in page.records] == [1, 2] and not page.more
    assert stream_of(add(store, "s", closes=True)).tail == tail
    assert store.stream("s", tail, 10).place == tail
    put(store, "empty", closes=True)
    empty = store.stream("empty", Cursor("", 0), 10)
    assert empty.stream is not None and empty.stream.closed and empty.stream.tail.offset == 0 and not empty.records


def test_the_producer_that_closed_may_ask_again(store: Store) -> None:
    put(store, "s")
    add(store, "s", b"a", producer=("p", 1, 0))
    add(store, "s", b"a", producer=("q", 0, 0))
    closed = add(store, "s", b"b", producer=("p", 1, 1), closes=True)
    assert what(closed) == "" and producer_of(closed) == (1, 1)
    again = add(store, "s", b"other", producer=("p", 1, 1), closes=True)
    assert what(again) == "repeated" and producer_of(again) == (1, 1)
    assert what(add(store, "s", producer=("p", 1, 1), closes=True)) == "repeated"
    assert what(add(store, "s", producer=("p", 1, 2), closes=True)) == streams.CLOSED
    assert what(add(store, "s", b"a", producer=("p", 1, 0))) == streams.CLOSED
    assert what(add(store, "s", b"a", producer=("p", 0, 0))) == streams.STALE
    assert what(add(store, "s", producer=("q", 0, 1), closes=True)) == streams.CLOSED
    assert texts(store, "s")[:2] == [b"a", b"a"]


# Other doors.


def test_appends_without_terms_must_fit(store: Store) -> None:
    put(store, "json", content_type="application/json")
    put(store, "text")
    put(store, "bytes", content_type="image/png")

    def publish(channel: str, kind: int, **more: bool) -> Appended:
        return store.append([Append(channel, [(kind, b"1")], **more)])[0]  # type: ignore[arg-type]

    for channel, fits in ("json", {Kind.JSON}), ("text", {Kind.BYTES, Kind.TEXT}), ("bytes", {Kind.BYTES}):
        for kind in Kind.JSON, Kind.TEXT, Kind.BYTES:
            assert what(publish(channel, kind)) == ("" if kind in fits else streams.KIND), (channel, kind)
    refused = publish("json", Kind.BYTES)
    assert refused.unmet is not None and "application/json" in refused.unmet.refusal().detail
    store.append([Append("json", [HOLLOW], ends=True, hollow=True)])
    assert what(publish("json", Kind.JSON)) == ENDED
    stream = store.stream("json").stream
    assert stream is not None and stream.closed and stream.tail.offset == 1


def test_a_channel_is_cleared_and_made_anew(store: Store) -> None:
    old = put(store, "s", b"a", b"b").cursors()
    epoch = store.delete("s")
    assert epoch == old[0].epoch
    assert store.stream("s").stream is None and store.positions(["s"]) == {} and store.delete("s") == ""
    new = put(store, "s", b"x", content_type="text/html").cursors()
    assert new[0].epoch[:ROOT_DIGITS] != epoch[:ROOT_DIGITS]
    assert store.stream("s", old[0], 10).place is None
    assert texts(store, "s") == [b"x"]
    assert store.clear("s") == new[0].epoch and store.stream("s").stream is None
    assert what(add(store, "s", b"a", producer=("p", 0, 0))) == streams.ABSENT
    append(store, "s", b"1")
    assert what(put(store, "s")) == streams.ORDINARY


def test_the_messages_of_a_large_stream_are_removed_in_pieces(sqlite_store: Sqlite) -> None:
    store = sqlite_store
    put(store, "s", *[b"x"] * 500)
    append(store, "other", b"1")
    store.delete("s")
    put(store, "s", b"y")
    assert store.tidy(200) >= 200
    for _ in range(10):
        store.tidy(200)
    assert store.tidy(200) == 0
    assert texts(store, "s") == [b"y"] and payloads(store.after("other", None, 10)) == [b"1"]
    rows = store._db.execute("SELECT count(*) FROM messages").fetchone()
    assert rows == (2,)


# Life.


def test_a_stream_lives_while_it_is_used(sqlite_store: Sqlite, clock: Clock) -> None:
    store = sqlite_store
    assert stream_of(put(store, "s", b"a", ttl=10)).ttl == 10

    def look() -> None:
        store.stream("s", touch=True)

    for use in (
        lambda: add(store, "s", b"b"),
        look,
        lambda: put(store, "s", ttl=10),
        lambda: add(store, "s", closes=True),
        lambda: add(store, "s", closes=True),
    ):
        clock.pass_by(9.5)
        assert store.stream("s").stream is not None, "to look at it is no use of it"
        use()
    clock.pass_by(10.6)
    assert store.stream("s").stream is None
    assert store.positions(["s"]) == {} and store.after("s", None, 10).position is None
    assert what(add(store, "s", b"c")) == streams.ABSENT
    assert what(put(store, "s", content_type="text/html")) == ""


def test_a_ttl_is_kept_by_each_engine(store: Store, clock: Clock, soon: Callable[..., None]) -> None:
    put(store, "s", b"a", ttl=1)
    assert store.stream("s").stream is not None
    soon(lambda: store.stream("s").stream is None, "its time is over")
    assert what(put(store, "s", content_type="text/html")) == ""
    put(store, "never", ttl=0)
    soon(lambda: store.stream("never").stream is None, "its time is over")


def test_a_stream_ends_at_a_time(store: Store, clock: Clock, soon: Callable[..., None]) -> None:
    at = store.now() + 1_000_000
    stream = stream_of(put(store, "s", b"a", expires=at))
    assert (stream.expires, stream.expires_text) == (at, f"at {at}")
    append_natively = Append("s", [(Kind.JSON, b"1")])

    def over() -> bool:
        store.stream("s", touch=True)
        return store.stream("s").stream is None

    soon(over, "its time is over")
    assert store.now() >= at
    assert what(store.append([append_natively])[0]) == "", "the name is that of an ordinary channel now"
    assert store.stream("s").stream is None


# Forks.


def test_a_fork_begins_with_its_source(store: Store) -> None:
    places = put(store, "s", b"a", b"b", b"c").cursors()
    made = put(store, "f", b"d", content_type="", fork=Fork("s", places[1]))
    assert stream_of(made).content_type == TEXT and list(made.offsets) == [3]
    add(store, "s", b"later")
    assert texts(store, "f") == [b"a", b"b", b"d"]
    for place, rest in (places[0], [b"b", b"d"]), (places[1], [b"d"]):
        assert texts(store, "f", place._replace(epoch="")) == rest, "places of the source are places of the fork"
    assert store.stream("f", places[2], 1).place is None
    whole = put(store, "g", content_type="", fork=Fork("s"))
    assert texts(store, "g") == [b"a", b"b", b"c", b"later"] and stream_of(whole).tail.offset == 4
    assert what(put(store, "h", content_type="", fork=Fork("s", Cursor("", 0)))) == "" and texts(store, "h") == []
    put(store, "i", content_type="", fork=Fork("f"))
    assert texts(store, "i") == [b"a", b"b", b"d"]
    assert payloads(store.after("i", None, 10)) == [b"a", b"b", b"d"]


def test_the_place_of_a_fork(store: Store) -> None:
    places = put(store, "j", b"1", b"2", b"3", content_type="application/json").cursors()
    put(store, "b", b"abc", b"de")
    one = store.stream("b", Cursor("", 0), 1).records[0]
    first = Cursor("", 1, one.proof)

    def fork(name: str, source: str, at: Cursor | None, sub: int) -> list[bytes] | str:
        made = put(store, name, content_type="", fork=Fork(source, at, sub))
        return what(made) or texts(store, name)

    assert fork("1", "j", Cursor("", 0), 2) == [b"1", b"2"]
    assert fork("2", "j", places[0], 2) == [b"1", b"2", b"3"]
    assert fork("3", "b", Cursor("", 0), 2) == [b"ab"]
    assert fork("4", "b", Cursor("", 0), 3) == [b"abc"]
    assert fork("5", "b", first, 1) == [b"abc", b"d"]
    for number, (source, at, sub) in enumerate(
        [
            ("j", places[0], 3), ("j", places[2], 1), ("b", Cursor("", 0), 4), ("b", first, 3), ("b", None, 1),
            ("b", Cursor("", 1, "0" * 12), 0), ("b", Cursor("", 9, one.proof), 0),
        ]
    ):  # fmt: skip
        assert fork(f"bad {number}", source, at, sub) == streams.POINT, number
    assert store.delete("b") and store.stream("b").stream is not None, "three forks of it are there"


def test_a_fork_that_is_refused_is_none(store: Store) -> None:
    append(store, "channel", b"1")
    for source in "nothing", "channel":
        assert what(put(store, "f", content_type="", fork=Fork(source))) == streams.NO_SOURCE
    put(store, "s", b"a")
    assert what(put(store, "f", content_type="text/html", fork=Fork("s"))) == streams.TYPE
    store.delete("s")
    assert store.stream("s").stream is None, "nothing holds it"


def test_the_same_fork_is_made_once(store: Store) -> None:
    places = put(store, "s", b"abc", b"def").cursors()
    fork = Fork("s", places[0], 2)
    put(store, "f", content_type="", fork=fork)
    add(store, "f", b"x")
    for again in fork, fork._replace(at=None):
        assert what(put(store, "f", content_type="", fork=again)) == "repeated"
    assert what(put(store, "f", fork=fork)) == "repeated"
    for other in fork._replace(sub=1), fork._replace(at=places[1]), fork._replace(source="x"):
        assert what(put(store, "f", content_type="", fork=other)) == streams.DIFFERENT
    assert what(put(store, "f")) == streams.DIFFERENT
    assert what(put(store, "f", ttl=5, fork=fork)) == streams.DIFFERENT
    assert texts(store, "f") == [b"abc", b"de", b"x"]


def test_a_fork_is_open_and_has_no_producers(store: Store) -> None:
    put(store, "s", b"a")
    add(store, "s", b"b", producer=("p", 0, 0), seq="5", closes=True)
    for name, source in ("f", "s"), ("g", "f"):
        assert not stream_of(put(store, name, content_type="", fork=Fork(source))).closed
        assert texts(store, name) == [b"a", b"b"], "the end is none in the fork"
        tail = store.stream("s").stream
        assert tail is not None and texts(store, name, tail.tail) == []
    assert what(add(store, "f", b"c", producer=("p", 0, 0), seq="1")) == ""
    put(store, "t", b"a")
    add(store, "t", closes=True)
    put(store, "h", content_type="", fork=Fork("t"))
    assert what(add(store, "h", b"c")) == "" and texts(store, "h") == [b"a", b"c"]


def test_the_life_of_a_fork(store: Store) -> None:
    at = store.now() + 3600_000_000
    put(store, "ttl", ttl=100)
    put(store, "time", expires=at)
    assert stream_of(put(store, "1", content_type="", fork=Fork("ttl"))).ttl == 100
    assert stream_of(put(store, "2", content_type="", fork=Fork("time"))).expires == at
    third = stream_of(put(store, "3", content_type="", ttl=500, fork=Fork("time")))
    assert (third.ttl, third.expires) == (500, 0)
    fourth = stream_of(put(store, "4", content_type="", expires=2 * at, fork=Fork("ttl")))
    assert (fourth.ttl, fourth.expires) == (-1, 2 * at)


def test_a_stream_with_forks_is_deleted_in_name(store: Store) -> None:
    put(store, "s", b"a")
    put(store, "f", content_type="", fork=Fork("s"))
    put(store, "g", content_type="", fork=Fork("s"))
    assert store.delete("s") != "" and store.delete("s") == ""
    page = store.stream("s", Cursor("", 0), 10, touch=True)
    assert page.stream is not None and page.stream.deleted and not page.records
    assert store.positions(["s"]) == {}
    assert what(add(store, "s", b"b")) == streams.DELETED
    assert what(put(store, "s")) == streams.RESERVED
    assert what(put(store, "h", content_type="", fork=Fork("s"))) == streams.SOURCE_DELETED
    assert texts(store, "f") == [b"a"] and what(add(store, "f", b"b")) == ""
    store.delete("f")
    assert what(put(store, "s")) == streams.RESERVED
    store.delete("g")
    assert store.stream("s").stream is None and what(put(store, "s")) == ""


def test_forks_of_forks_go_together(store: Store) -> None:
    put(store, "a", b"1")
    put(store, "b", b"2", content_type="", fork=Fork("a"))
    put(store, "c", b"3", content_type="", fork=Fork("b"))
    store.delete("b")
    store.delete("a")
    assert texts(store, "c") == [b"1", b"2", b"3"]
    for name in "a", "b":
        assert what(put(store, name)) == streams.RESERVED
    store.delete("c")
    for name in "a", "b", "c":
        assert store.stream(name).stream is None and what(put(store, name)) == ""


def test_a_source_whose_time_is_over_is_deleted_in_name(
    store: Store, clock: Clock, soon: Callable[..., None]
) -> None:  # fmt: skip
    put(store, "s", b"a", ttl=1)
    put(store, "f", content_type="", ttl=1000, fork=Fork("s"))

    def deleted() -> bool:
        stream = store.stream("s").stream
        return stream is not None and stream.deleted

    soon(deleted, "its time is over")
    store.tidy(100)
    assert deleted() and texts(store, "f") == [b"a"]
    assert what(put(store, "s")) == streams.RESERVED
    store.delete("f")
    assert what(put(store, "s")) == ""


def test_a_long_fork_is_made_in_pieces(store: Store) -> None:
    """Others append between the pieces, and nobody sees the fork until it is whole."""
    messages = [(Kind.BYTES, b"%d" % number) for number in range(12_000)]
    put(store, "s")
    store.append([Append("s", messages, terms=Add(TEXT))])
    terms = Make(fork=Fork("s"))
    pieces = 0
    while True:
        (made,) = store.append([Append("f", [(Kind.BYTES, b"last")], terms=terms)])
        assert made.outcome is not None and made.unmet is None
        if not made.outcome.more:
            break
        pieces += 1
        assert store.stream("f").stream is None
        add(store, "s", b"later")
    assert pieces and list(made.offsets) == [12_001]
    stream = store.stream("f").stream
    assert stream is not None and stream.tail == made.cursors()[0]
    page = store.stream("f", store.stream("f", Cursor("", 0), 1000).place, 1000)
    assert [record.payload for record in page.records] == [b"%d" % number for number in range(1000)]
    assert texts(store, "f", store.after("s", None, 1000).messages("s")[-1].cursor, 1) == [b"1000"]


def test_another_fork_of_a_name_waits_for_the_one_that_is_being_made(store: Store) -> None:
    """Two that began anew in turns would never end."""
    put(store, "s")
    store.append([Append("s", [(Kind.BYTES, b"%d" % number) for number in range(6000)], terms=Add(TEXT))])
    (record,) = store.stream("s", Cursor("", 0), 1).records
    first = Cursor("", record.offset, record.proof)
    long, short = Make(fork=Fork("s")), Make(fork=Fork("s", first))
    (made,) = store.append([Append("f", [], terms=long)])
    assert made.outcome is not None and made.outcome.more
    (other,) = store.append([Append("f", [(Kind.BYTES, b"mine")], terms=short)])
    assert what(other) == streams.DIFFERENT and store.stream("f").stream is None
    assert what(put(store, "f", fork=Fork("s"), content_type="")) == ""
    stream = store.stream("f").stream
    assert stream is not None and stream.tail.offset == 6000


def test_a_fork_that_nobody_goes_on_making_gives_way(store: Store, soon: Callable[..., None]) -> None:
    """A node that dies amid a fork leaves no name that can't be used."""
    put(store, "s")
    store.append([Append("s", [(Kind.BYTES, b"%d" % number) for number in range(6000)], terms=Add(TEXT))])
    (record,) = store.stream("s", Cursor("", 0), 1).records
    first = Cursor("", record.offset, record.proof)

    def gives_way(name: str, other: Fork | None) -> bool:
        return what(put(store, name, b"mine", content_type="" if other else TEXT, fork=other)) == ""

    for name, other in ("f", Fork("s", first)), ("g", None):
        (made,) = store.append([Append(name, [], terms=Make(fork=Fork("s")))])
        assert made.outcome is not None and made.outcome.more
        soon(partial(gives_way, name, other), "it gives way")
        assert texts(store, name)[-1] == b"mine"
    assert what(put(store, "g", content_type="", fork=Fork("s"))) == streams.DIFFERENT
    assert len(texts(store, "f")) == 2 and len(texts(store, "g")) == 1


def test_forks_that_are_being_made_differ_by_their_lives(store: Store) -> None:
    put(store, "s", ttl=500)
    store.append([Append("s", [(Kind.BYTES, b"%d" % number) for number in range(6000)], terms=Add(TEXT))])
    for name, ttl, others in ("f", 1000, (500, 2000)), ("g", -1, (1000,)):
        (made,) = store.append([Append(name, [], terms=Make("", ttl, fork=Fork("s")))])
        assert made.outcome is not None and made.outcome.more
        for other in others:
            assert what(put(store, name, content_type="", ttl=other, fork=Fork("s"))) == streams.DIFFERENT
        assert what(put(store, name, content_type="", ttl=-1, fork=Fork("s"))) == ""
        stream = store.stream(name).stream
        assert stream is not None and stream.ttl == (1000 if ttl > 0 else 500)


def test_a_fork_that_is_not_made_to_its_end_holds_nothing(sqlite_store: Sqlite, clock: Clock) -> None:
    store = sqlite_store
    put(store, "s", *[b"x"] * 6000)
    terms = Make(fork=Fork("s"))
    (made,) = store.append([Append("f", [], terms=terms)])
    assert made.outcome is not None and made.outcome.more
    store.delete("s")
    (made,) = store.append([Append("f", [], terms=terms)])
    assert what(made) == streams.SOURCE_DELETED
    assert store.stream("s").stream is None
    put(store, "s", *[b"x"] * 6000)
    store.append([Append("f", [], terms=terms)])
    clock.pass_by(61)
    store.tidy(100)
    store.delete("s")
    assert store.stream("s").stream is None


# Time, and failures.


def test_a_stream_outlives_the_store(open_store: Callable[[], Store], store: Store) -> None:
    places = put(store, "s", b"a", b"b").cursors()
    add(store, "s", b"c", producer=("p", 7, 0), seq="x")
    put(store, "f", content_type="", fork=Fork("s", places[0]))
    store.close()
    store = open_store()
    assert texts(store, "s", places[0]) == [b"b", b"c"]
    assert what(add(store, "s", b"c", producer=("p", 7, 0))) == "repeated"
    assert what(add(store, "s", b"c", seq="a")) == streams.SEQUENCE
    assert list(add(store, "s", b"d").offsets) == [4]
    assert texts(store, "s", places[1]) == [b"c", b"d"], "another epoch changes no place"
    assert store.delete("s") and store.stream("s").stream is not None


def test_producers_are_forgotten(sqlite_store: Sqlite, clock: Clock) -> None:
    store = sqlite_store
    put(store, "s")
    add(store, "s", b"a", producer=("old", 0, 0))
    add(store, "s", b"a", producer=("new", 0, 0))
    clock.pass_by(streams.FORGET_PRODUCERS - 3600)
    assert what(add(store, "s", b"b", producer=("new", 0, 1))) == ""
    clock.pass_by(2 * 3600 + 60)
    store.tidy(100)
    assert what(add(store, "s", b"b", producer=("old", 0, 1))) == streams.MISSING
    assert what(add(store, "s", b"c", producer=("new", 0, 2))) == ""


def test_tidying_looks_at_no_channel_that_is_no_stream(sqlite_store: Sqlite) -> None:
    """There may be a million of them, and the store is tidied each second."""
    put(sqlite_store, "s", ttl=0)
    asked: list[str] = []
    sqlite_store._db.set_trace_callback(asked.append)
    sqlite_store.tidy(100)
    sqlite_store._db.set_trace_callback(None)
    about = [command for command in asked if command.startswith("SELECT") and "lapses" in command.partition("FROM")[2]]
    plans = [sqlite_store._db.execute(f"EXPLAIN QUERY PLAN {command}").fetchall() for command in about]
    found = [step for plan in plans for *_, step in plan if "channels" in step]
    assert len(found) >= 2 and all(["channels_by_lapse" in step for step in found]), found
