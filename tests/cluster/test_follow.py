"""The clients of channels with history: what they read is what was sent, and with one node, all is well."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from raiden.model import encoding
from raiden.model.encoding import chunk, dumps
from raiden.model.message import Cursor, Kind, Message
from raiden.model.page import Gap
from tests.cluster.checker import Checker
from tests.cluster.follow import Events, Followers, Frames, KeyedPublisher, LinesOf, Said
from tests.cluster.offsets import Offsets
from tests.cluster.test_load import Local
from tests.daemons import Daemon, wait_for

CHANNEL = "a/ä"
GAP = Gap("e", 3, 4)
PAYLOADS = [b'["p","a",0]', b"x" * 200, b"x" * 70_000]
MESSAGES = [
    Message(CHANNEL, Kind.JSON, payload, Cursor("e", offset)) for offset, payload in enumerate(PAYLOADS, 1)
]  # fmt: skip


def of_lines() -> bytes:
    begin = chunk(b'{"cursor":"e:0","recovered":true}\n')
    told = chunk(dumps(encoding.gap(CHANNEL, GAP)) + b"\n")
    return begin + b"".join([encoding.line(True, True)(message) for message in MESSAGES]) + chunk(b"\n") + told


def of_events() -> bytes:
    told = chunk(encoding.event(dumps(encoding.gap(None, GAP)), name="gap"))
    begin, keepalive, moved = chunk(b"id: e:0\n\n"), chunk(b": keep-alive\n\n"), chunk(b"id: e:9\n\n")
    return begin + b"".join([encoding.sse(False, True)(message) for message in MESSAGES]) + keepalive + moved + told


def of_frames() -> bytes:
    begin = encoding.text_frame(b'{"cursor":"e:0"}')
    told = encoding.text_frame(dumps(encoding.gap(CHANNEL, GAP)))
    return begin + b"".join([encoding.websocket(True, False)(message) for message in MESSAGES]) + b"\x89\0" + told


Reader = Callable[[], LinesOf | Events | Frames]


@pytest.mark.parametrize(
    ("make", "data"),
    [(lambda: LinesOf(CHANNEL), of_lines()), (Events, of_events()), (lambda: Frames(CHANNEL), of_frames())],
    ids=["lines", "events", "socket"],
)
@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
def test_what_is_read(make: Reader, data: bytes, size: int) -> None:
    reader, said = make(), list[Said]()
    for at in range(0, len(data), size):
        said += reader.feed(data[at : at + size])
    *messages, (cursor, told) = said
    assert messages == [(message.cursor, message.payload) for message in MESSAGES]
    assert cursor is None and json.loads(told)["missing"] == GAP._asdict()


@pytest.fixture
def nothing_is_left_behind() -> Iterator[None]:
    descriptors = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert threading.active_count() == 1


@pytest.mark.usefixtures("nothing_is_left_behind")
def test_one_node(start: Callable[..., Daemon]) -> None:
    """It keeps more than comes, so nobody misses anything."""
    node = Local(start(store="sqlite", channels={"*": {"history_size": 10_000}}))
    checker = Checker()
    offsets = Offsets(checker)
    publisher = KeyedPublisher(checker, [node], ["a", CHANNEL], total=5000, rate=2500)
    with Followers(offsets, [node], ["a", CHANNEL], each=3, stay=(0.1, 1.0)) as followers:
        wait_for(lambda: followers.attached() == 6, "all have subscribed")
        with publisher:
            publisher.join(60)
        wait_for(lambda: min(followers.begun[t] for t in ("lines", "events", "socket")) > 1, "they come back")
        followers.stay()
        wait_for(lambda: not followers.behind(), "all have got all")
    assert followers.error is publisher.error is None and not followers.ended
    verdict = offsets.report()
    assert verdict.clean and verdict.counts["received"] == 15_000, str(verdict)


def test_what_is_not_kept_is_told(start: Callable[..., Daemon]) -> None:
    """Followers that are away for longer than the history reaches are told so; the verdict is clean, and says it."""
    node = Local(start(store="sqlite", channels={"*": {"history_size": 20}}))
    checker = Checker()
    offsets = Offsets(checker)
    with (
        Followers(offsets, [node], ["a"], each=6, stay=(0.1, 1.0)) as followers,
        KeyedPublisher(checker, [node], ["a"], total=10**9, rate=2000, batch=10) as publisher,
    ):
        wait_for(lambda: sum(followers.begun.values()) > 40, "they come and go", timeout=60)
        publisher.stop()
        followers.stay()
        wait_for(lambda: not followers.behind(), "all have got all")
    assert followers.error is publisher.error is None
    verdict = offsets.report()
    assert verdict.clean, str(verdict)
    assert verdict.counts["recovered"] < verdict.counts["resumed"]
