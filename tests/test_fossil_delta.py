"""Fossil deltas, read by the decoder of centrifuge-python."""

from __future__ import annotations

import json
import os
import random
import time

import pytest

from raiden.protocols.fossil_delta import BLOCK, LEAST, MOST_PARTS, checksum, create

fossil = pytest.importorskip("centrifuge.fossil")
ALPHABETS = [b"ab", b"abc\x80", b"\x80\xc3", bytes(range(256)), "aé€😀".encode()]


def made(before: bytes, after: bytes) -> bytes:
    """A delta that is right."""
    delta = create(before, after)
    assert bytes(fossil.apply_delta(before, delta)) == after, (before, after, delta)
    return delta


def news(delta: bytes) -> list[bytes]:
    """The parts of a delta that are new."""
    found: list[bytes] = []
    reader = fossil.Reader(delta)
    reader.pos = delta.index(b"\n") + 1
    while True:
        size, kind = reader.get_int(), reader.get_char()
        if kind == ";":
            return found
        if kind == "@":
            reader.pos = delta.index(b",", reader.pos) + 1
        else:
            found.append(delta[reader.pos : reader.pos + size])
            reader.pos += size


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""), (b"", b"a"), (b"a", b""), (b"a", b"a"), (b"same" * 50, b"same" * 50), (b"", bytes(1000)),
        (bytes(1000), bytes(999)), (bytes(999), bytes(1000)), (b"x" * 15, b"x" * 16), (b"x" * 16, b"x" * 15),
        (b"\x80" * 100, b"\x80" * 70 + b"a"), (b"ab" * 500, b"ba" * 500), (b"a" * BLOCK, b"b" + b"a" * BLOCK + b"b"),
    ],
)  # fmt: skip
def test_beginnings_and_ends(before: bytes, after: bytes) -> None:
    made(before, after)


def test_whatever_changes() -> None:
    chance = random.Random(11)
    for _ in range(4000):
        alphabet = chance.choice(ALPHABETS)
        before = bytes(chance.choices(alphabet, k=chance.randrange(400)))
        after = bytearray(before)
        for _ in range(chance.randrange(5)):
            first, last = sorted(chance.choices(range(len(after) + 1), k=2))
            last = min(last, first + chance.randrange(40))
            moved = after[: chance.randrange(60)] if chance.random() < 0.3 else chance.choices(alphabet, k=last - first)
            after[first:last] = bytes(moved)
        made(before, bytes(after[:2000]))


def test_a_character_is_not_cut_apart() -> None:
    """What is new can stand in a JSON string, wherever the change is."""
    chance = random.Random(12)
    for _ in range(3000):
        before = "".join(chance.choices("aäÄ€₭😀😁", k=chance.randrange(100)))
        after = list(before)
        for _ in range(chance.randrange(4)):
            first = chance.randrange(len(after) + 1)
            after[first : first + chance.randrange(3)] = chance.choices("aäÄ€₭😀😁", k=chance.randrange(3))
        delta = made(before.encode(), "".join(after).encode())
        for part in news(delta):
            part.decode()


def test_a_number_of_a_document() -> None:
    document = {f"k{at}": {"price": 1000 + at, "name": f"a name {at}"} for at in range(25)}
    before = json.dumps(document).encode()
    document["k12"]["price"] = 4321
    after = json.dumps(document).encode()
    assert len(after) > 1000 and len(made(before, after)) < 40
    # Two numbers, and something that has moved.
    document["k2"]["price"] = 99999
    document["k26"] = document.pop("k3")
    assert len(made(before, json.dumps(document).encode())) < 120
    # All of them.
    for each in document.values():
        each["price"] = int(str(each["price"])) + 17
    assert len(made(before, json.dumps(document).encode())) < len(after)


def test_many_small_parts_have_a_bound() -> None:
    before = os.urandom(16384)
    after = bytearray(before)
    after[20::20] = bytes(len(after[20::20]))
    delta = made(before, bytes(after))
    assert delta.count(b"@") <= MOST_PARTS + 2 + sum([part.count(b"@") for part in news(delta)])


def test_a_checksum_wraps() -> None:
    assert checksum(b"\xff" * 8) == 0xFFFFFFFE and checksum(b"\1") == 1 << 24 and checksum(b"") == 0
    assert LEAST <= BLOCK


@pytest.mark.alone
def test_texts_that_take_long() -> None:
    """A message of 16 KB takes a worker some milliseconds, whatever stands in it."""
    chance = random.Random(13)
    data = chance.randbytes(16384)
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    chance.shuffle(blocks)
    gaps = bytearray(data)
    gaps[::40] = bytes(len(gaps[::40]))
    texts = [
        (data, chance.randbytes(16384)), (data, b"!".join(blocks)[:16384]), (data, b"".join(blocks)),
        (data, bytes(gaps)), (bytes(16384), bytes(16000) + b"1" * 384), (b"ab" * 8192, b"ba" * 8192),
        (b"\x80" * 16384, b"\x80" * 16383 + b"a"), (bytes(8192) + data[:8192], data[:8192] + bytes(8192)),
    ]  # fmt: skip
    for before, after in texts:
        made(before, after)
        times = []
        for _ in range(5):
            began = time.process_time()
            create(before, after)
            times.append(time.process_time() - began)
        assert min(times) < 0.02
