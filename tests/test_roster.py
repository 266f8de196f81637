"""What nodes say of themselves, and what the roster makes of it."""

from __future__ import annotations

import dataclasses
import json
import random

import msgspec
import pytest
import ujson

from raiden.backbone.frames import VERSION
from raiden.backbone.roster import (
    BEAT,
    DROP,
    GONE,
    LEAVING,
    SUSPECT,
    TOLD,
    Beat,
    Echo,
    InvalidBeat,
    OtherVersion,
    Report,
    Roster,
    State,
)

OWN = Beat("own", "10.0.0.1:9989", since=100.0, workers=2)


def peer(name: str = "peer", **fields: object) -> Beat:
    return Beat(name, f"{name}:9989", **fields)  # type: ignore[arg-type]


def beat_of(**fields: object) -> bytes:
    return ujson.dumps({"id": "a", "address": "a:1", "protocol": VERSION, **fields}).encode()


def test_a_beat_comes_back_as_it_was() -> None:
    beat = peer(key="k", version="1.2.3", phase=LEAVING, since=1.5, stamp=2.5, linked=["x"], peers=[["y:1", ""]])
    assert Beat.from_bytes(beat.to_bytes()) == beat


def test_a_later_release_may_say_more_and_an_introduction_says_less() -> None:
    assert Beat.from_bytes(beat_of(mood="good")) == Beat("a", "a:1")
    assert Beat.from_bytes(peer(key="k", workers=3).introduction(7)) == peer(key="k")
    assert peer().introduction(1) != peer().introduction(2)


def test_another_version_is_told_apart_whatever_else_it_says() -> None:
    with pytest.raises(OtherVersion, match=f"speaks version {VERSION + 1} .* this node {VERSION}") as error:
        Beat.from_bytes(beat_of(protocol=VERSION + 1, linked="in a way of its own"))
    assert error.value.node == "a" and error.value.address == "a:1"


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"{", b"[]", b"null", b"{}", beat_of(id=""), beat_of(id=7), beat_of(id="x" * 65), beat_of(id="a\n"),
     beat_of(address=None), beat_of(protocol="1"), beat_of(workers="2"), beat_of(workers=True), beat_of(since=None),
     beat_of(linked={}), beat_of(linked=[1]), beat_of(peers=["a"]), beat_of(peers=[["a"]]), beat_of(peers=[["", ""]]),
     beat_of(peers=[["a", 1]])],
)  # fmt: skip
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidBeat):
        Beat.from_bytes(data)


# What JSON can say, and what Python's readers take for JSON, as text.
JSON_VALUES = [
    "null", "true", "false", "0", "-0", "-1", "1.5", "1e308", "1e999", "-1e999", "Infinity", "-Infinity", "NaN",
    "1" + "0" * 400, str(1 << 63), str(1 << 64), '""', '"x"', f'"{"x" * 5000}"', '"\\ud800"', '"\\u0000"', '"Infinity"',
    "[]", "{}", "[[]]", "[null]", '["x"]', '[["x"]]', '[["x",""]]', '[["x","\\ud800"]]', '[["x:1","y"],["x:1"]]',
    "[" * 2000 + "]" * 2000, '{"x":1}',
]  # fmt: skip


@pytest.mark.parametrize("name", [item.name for item in dataclasses.fields(Beat)])
def test_whatever_a_field_holds_can_be_counted_with_and_told(name: str) -> None:
    """It is refused, or all that is made of it is JSON again."""
    whole = dataclasses.asdict(peer(key="k", version="1", linked=["x"], peers=[["y:1", ""]]))
    del whole[name]
    for value in JSON_VALUES:
        data = f'{json.dumps(whole)[:-1]},"{name}":{value}}}'.encode()
        try:
            beat = Beat.from_bytes(data)
        except InvalidBeat:
            continue
        roster = Roster(dataclasses.replace(OWN))
        node = roster.add(beat, "tcp://peer", 0.0)
        node.linked = True
        roster.hear(beat, 0.0)
        rows = roster.rows(1e9)
        assert json.loads(json.dumps(rows, allow_nan=False)) == rows
        assert State.from_bytes(json.dumps({"serial": 1, "nodes": rows}).encode()).nodes == rows
        round(beat.clock - 1e9)
        for text in (beat.id, beat.address, beat.key, *beat.linked, *(word for each in beat.peers for word in each)):
            text.encode()
        assert Beat.from_bytes(roster.beat(1.0, 2.0).to_bytes()).linked == [beat.id]


@pytest.mark.parametrize("kind", [Echo, Report, State])
def test_what_else_is_heard_is_read_or_refused(kind: type[Echo | Report | State]) -> None:
    row = {"id": "a", "address": "a:1", "state": "self", "workers": 1}
    whole = {"from": "a", "stamp": 1.0, "worker": 0, "serial": 1, "connections": 2, "alone": True, "nodes": [row]}
    assert kind.from_bytes(json.dumps(whole).encode())
    for name in whole:
        for value in JSON_VALUES:
            rest = json.dumps({other: said for other, said in whole.items() if other != name})
            try:
                read = kind.from_bytes(f'{rest[:-1]},"{name}":{value}}}'.encode())
            except InvalidBeat:
                continue
            json.dumps(msgspec.to_builtins(read), allow_nan=False)
    for name in row:
        for value in JSON_VALUES:
            rest = json.dumps({other: said for other, said in row.items() if other != name})
            try:
                State.from_bytes(f'{{"serial":1,"nodes":[{rest[:-1]},"{name}":{value}}}]}}'.encode())
            except InvalidBeat:
                continue


def test_mutations_are_parsed_or_refused() -> None:
    chance = random.Random(1)
    whole = peer(key="k", version="1", linked=["x"], peers=[["y:1", ""]]).to_bytes()
    for _ in range(3000):
        data = bytearray(whole[: chance.randrange(len(whole) + 1)])
        for _ in range(chance.randrange(4)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            Beat.from_bytes(bytes(data))
        except InvalidBeat:
            pass


def test_connected_when_both_say_so() -> None:
    roster = Roster(OWN)
    node = roster.add(peer(), "tcp://peer:9989", 0.0)
    assert roster.state(node) == "connecting"
    node.linked = True
    assert roster.state(node) == "connecting" and roster.beat(0.0, 0.0).linked == ["peer"]
    assert roster.hear(peer(linked=["own"]), 1.0) and roster.state(node) == "connected"
    assert not roster.hear(peer(linked=["own"], connections=5), 2.0)
    assert roster.hear(peer(linked=["own"], phase=LEAVING), 3.0) and roster.state(node) == "leaving"


def test_silence_is_suspected_then_dropped() -> None:
    roster = Roster(OWN)
    node = roster.add(peer(linked=["own"]), "", 0.0)
    assert roster.silent(SUSPECT) == ([], [])
    assert roster.silent(SUSPECT + 0.1) == ([node], [])
    assert roster.suspect(node) and not roster.suspect(node)
    assert roster.silent(SUSPECT + BEAT) == ([], [])
    assert roster.silent(DROP + 0.1) == ([], [node])
    assert roster.hear(peer(linked=["own"]), 9.0) and roster.state(node) == "connecting", (
        "the link is to be proved anew"
    )
    roster.excuse(60.0)
    assert roster.silent(9.0 + 60.0) == ([], [])


def test_a_beat_tells_of_a_bounded_number_of_live_nodes() -> None:
    roster = Roster(OWN)
    for n in range(3):
        roster.add(peer(f"n{n}", key=str(n)), "", 0.0)
    roster.nodes["n1"].suspected = True
    roster.hear(peer("n2", phase=LEAVING), 0.0)
    assert roster.beat(0.0, 0.0).peers == [["n0:9989", "0"]]
    for n in range(3, 100):
        roster.add(peer(f"n{n}"), "", 0.0)
    assert len(roster.beat(0.0, 0.0).peers) == TOLD
    assert len(roster.beat(0.0, 0.0).to_bytes()) < 3000


def test_rows() -> None:
    roster = Roster(peer("own", since=100.0, workers=2))
    roster.add(peer(since=150.0, clock=160.0, messages_in=3), "", 0.0).lag = 0.25
    own, other = roster.rows(200.0)
    assert own["state"] == "self" and own["uptime"] == 100.0 and own["workers"] == 2 and own["lag"] is None
    assert other["state"] == "connecting" and other["uptime"] == 10.0 and other["lag"] == 0.25
    assert other["messages_in"] == 3
    roster.own.phase = LEAVING
    assert roster.rows(200.0)[0]["state"] == "leaving"
    assert GONE not in {row["state"] for row in roster.rows(200.0)}
