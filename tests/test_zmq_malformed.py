"""Bad bytes at the ZeroMQ doors: they are refused, nobody else notices, and the doors stay up."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from raiden.protocols import zmtp
from raiden.protocols.zmtp import COMMAND, LONG, MAX_FRAMES, MORE, frame, message
from tests.daemons import Daemon, wait_for
from tests.zeromq import GREETING, OPEN, Clients, Raw, ask, command, in_force, payloads, ready, wait_for_metric

KINDS = {"SUB": b"SUB", "PUSH": b"PUSH", "REQ": b"DEALER"}
FUZZ_SEEDS = 150
MAX_BODY = 100_000


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    found = Daemon(tmp_path_factory.mktemp("node"), channels={"none*": {"history_size": 0}}, max_body=MAX_BODY, **OPEN)
    doors = found.workers()["zeromq"]
    yield found
    assert found.workers()["zeromq"] == doors, "no input ended the doors"
    assert found.stop() == 0
    assert "Traceback" not in found.log(), found.log()


@pytest.fixture(autouse=True)
def good(node: Daemon) -> Iterator[None]:
    """Good clients who are there before and after, and miss nothing."""
    with Clients(node) as clients:
        sub, push, req = clients.sub("good"), clients.push(), clients.req()
        assert ask(req, "publish", "good", "1")[0] == b"200"
        yield
        assert ask(req, "publish", "good", "2")[0] == b"200"
        assert payloads(sub, 2) == [b"1", b"2"]
        push.send_multipart([b"good", b"3"])
        assert payloads(sub, 1) == [b"3"]
        assert in_force(sub) == []


@pytest.fixture(params=[*KINDS])
def door(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
        b"\xff\0\0\0\0\0\0\0\1\x7f\1\1\0\0",  # ZMTP 2.0
        b"\1\0",  # ZMTP 1.0
        b"\5\0name",
        bytes(64),
        GREETING[:12] + b"PLAIN".ljust(20, b"\0") + GREETING[32:],
        GREETING[:12] + b"CURVE".ljust(20, b"\0") + GREETING[32:],
        GREETING + command(b"HELLO", b"\1a\1b"),
        GREETING + ready(b"PAIR"),
        GREETING + command(b"ERROR", b"\3400"),
        GREETING + message(b"a", b"1"),
        GREETING + bytes((COMMAND | LONG,)) + b"\xff" * 8,
        GREETING + command(b"READY", b"\xff" * 100),
    ],
    ids=lambda data: repr(data[:12]) if isinstance(data, bytes) else None,
)
def test_what_is_no_handshake_is_closed_and_counted(node: Daemon, door: str, data: bytes) -> None:
    before = node.metric("raiden_refused_handshakes_total")
    with Raw(node.doors()[door]) as raw:
        raw.send(data)
        assert raw.closed()
    wait_for_metric(node, "refused_handshakes_total", before + 1)


@pytest.mark.parametrize(
    "data",
    [
        bytes((LONG,)) + (MAX_BODY + zmtp.HEADROOM + 1).to_bytes(8, "big"),
        bytes((LONG | MORE,)) + b"\xff" * 8,
        message(*[b"x"] * (MAX_FRAMES + 1)),
        frame(b"", MORE) * 10_000,
        frame(b"x" * (MAX_BODY // 2), MORE) * 3,
        b"\x08\0",
        b"\xff" * 20,
        command(b"ERROR", b"\4oops"),
    ],
    ids=["oversize", "huge", "17 frames", "endless", "total", "flags", "all flags", "error"],
)
def test_what_goes_over_a_limit_is_closed_and_counted(node: Daemon, door: str, data: bytes) -> None:
    before = node.metric("raiden_bad_messages_total")
    with Raw(node.doors()[door], KINDS[door]) as raw:
        raw.send(data)
        assert raw.closed()
    wait_for_metric(node, "bad_messages_total", before + 1)


def test_what_came_before_the_fault_holds(node: Daemon) -> None:
    with Clients(node) as clients:
        sub = clients.sub("before")
        with Raw(node.doors()["PUSH"], b"PUSH") as raw:
            raw.send(message(b"before", b"1") + message(b"before", b"2") + b"\xff" * 20)
            assert raw.closed()
        assert payloads(sub, 2) == [b"1", b"2"]


def test_unknown_commands_are_ignored_and_pings_answered(node: Daemon, door: str) -> None:
    with Raw(node.doors()[door], KINDS[door]) as raw:
        raw.send(
            command(b"WHATEVER", b"x" * 100) + command(b"PONG") + frame(b"", COMMAND) + command(b"PING", b"\0\0me")
        )
        assert raw.frame() == (COMMAND, b"\4PONGme")


def test_clients_that_send_byte_by_byte_are_served(node: Daemon) -> None:
    with Clients(node) as clients:
        sub = clients.sub("bytewise")
        with Raw(node.doors()["PUSH"]) as raw:
            for byte in GREETING + ready(b"PUSH") + message(b"bytewise", b"1") + message(b"bytewise", b"2"):
                raw.send(bytes((byte,)))
            assert payloads(sub, 2) == [b"1", b"2"]


def mutated(rng: random.Random, data: bytes) -> bytes:
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        data = rng.choice([
            data[:at] + rng.randbytes(1) + data[at + 1 :],
            data[:at] + data[at + rng.randint(1, 9) :],
            data[:at] + rng.randbytes(rng.randint(1, 20)) + data[at:],
            data[:at] + data[max(0, at - 30) : at] + data[at:],
        ])  # fmt: skip
    return data


VALID = {
    "SUB": [command(b"SUBSCRIBE", b"fuzz"), message(b"\1fuzz.a"), command(b"CANCEL", b"fuzz"), message(b"\0fuzz.a"),
            message(b"\1-/in-force/x"), message(b"what"), command(b"SUBSCRIBE", b"")],
    "PUSH": [message(b"fuzz", b"1"), message(b"none.fuzz", b"x", b"text/plain"), message(b"fuzz", os.urandom(300),
             b"application/octet-stream"), command(b"PING", b"\0\0")],
    "REQ": [message(b"", b"ping"), message(b"", b"publish", b"fuzz", b"1", b"", b"key"), message(b"", b"channels"),
            message(b"1", b"", b"history", b"fuzz", b"", b"3"), message(b"", b"publish", b"none.fuzz", b"1")],
}  # fmt: skip


def test_garbage_ends_no_more_than_its_connection(node: Daemon, door: str) -> None:
    before = node.metric("raiden_connections", transport=door.lower())
    for seed in range(FUZZ_SEEDS):
        rng = random.Random(f"{door} {seed}")
        traffic = b"".join(rng.choices(VALID[door], k=8))
        opening = GREETING + ready(KINDS[door])
        share = rng.random()
        if share < 0.7:
            data = opening + mutated(rng, traffic)
        elif share < 0.9:
            data = mutated(rng, opening) + traffic
        else:
            data = rng.choice([b"\xff", b"", GREETING]) + rng.randbytes(200)
        with Raw(node.doors()[door]) as raw:
            cut = rng.randrange(len(data))
            if raw.send(data[:cut]) and raw.send(data[cut:]) and rng.random() < 0.7:
                raw.half_close()
                assert raw.closed()
    wait_for(lambda: node.metric("raiden_connections", transport=door.lower()) == before, "all are gone")
