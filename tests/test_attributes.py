"""Attributes of messages: their envelope, and its way by the backbone and through a history."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import Raw

from raiden.backbone.frames import InvalidFrame, from_frame, runs, to_frame
from raiden.history.sqlite import Sqlite
from raiden.history.store import Append
from raiden.model.attributes import ENVELOPE, Attributes, NoEnvelope, put_in, taken_out
from raiden.model.message import Cursor, Kind, Message

ALL = Attributes(
    event="created", tags={"color": "réd"}, sender=Raw(b'{"sub":"ann","info":{"n":[1,null]}}'), excluded="c1", end=True
)


@pytest.mark.parametrize("payload", [b"", b"1", b"\0\xff" * 70_000])
@pytest.mark.parametrize("attributes", [ALL, Attributes(), Attributes(event="x")])
def test_an_envelope(attributes: Attributes, payload: bytes) -> None:
    assert taken_out(put_in(attributes, payload)) == (attributes, payload)


@pytest.mark.parametrize(
    "envelope", [b"", b"\0\0\0", b"\0\0\0\x03{}", b"\0\0\0\x02[]x", b"\xff\xff\xff\xff{}", b'\0\0\0\x0b{"event":1}x']
)
def test_no_envelope(envelope: bytes) -> None:
    with pytest.raises(NoEnvelope):
        taken_out(envelope)
    frame = to_frame([Message("a", Kind.JSON, envelope)])
    assert frame[3] == Kind.JSON
    with pytest.raises(InvalidFrame):
        from_frame(b"a", frame[:3] + bytes([Kind.JSON | ENVELOPE]) + frame[4:])


@pytest.mark.parametrize("cursor", [None, Cursor("k3x9", 41, "0123456789ab")])
@pytest.mark.parametrize("count", [1, 3])
def test_attributes_in_a_frame(cursor: Cursor | None, count: int) -> None:
    places = [cursor and cursor._replace(offset=cursor.offset + n) for n in range(count)]
    sent = [Message("a", Kind.TEXT, b"%d" % n, place, 7, "", ALL) for n, place in enumerate(places)]
    came = from_frame(b"a", to_frame(sent))
    assert [(each.kind, each.payload, each.cursor, each.attributes) for each in came] == [
        (Kind.TEXT, b"%d" % n, place, ALL) for n, place in enumerate(places)
    ]


def test_messages_with_and_without_attributes_have_frames_of_their_own() -> None:
    sent = [Message("a", Kind.JSON, b"1", attributes=ALL if n in (1, 2) else None) for n in range(4)]
    assert [len(run) for run in runs(sent)] == [1, 2, 1]


def test_attributes_in_a_history(tmp_path: Path) -> None:
    store = Sqlite(tmp_path / "history.db")
    sent = [Message("a", Kind.JSON, b"1", attributes=ALL), Message("a", Kind.JSON, b"2")]
    store.append([Append("a", [each.entry for each in sent])])
    found = store.after("a", None, 10).messages("a")
    store.close()
    assert [(each.kind, each.payload, each.attributes) for each in found] == [
        (Kind.JSON, b"1", ALL), (Kind.JSON, b"2", None)
    ]  # fmt: skip
