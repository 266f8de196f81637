"""ZMTP as a pure protocol: bytes in, events out, in whatever pieces the bytes come."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import pytest

from raiden.protocols import zmtp
from raiden.protocols.zmtp import (
    COMMAND,
    HEADROOM,
    LONG,
    MAX_FRAMES,
    MAX_HANDSHAKE,
    MORE,
    Alike,
    Event,
    Failed,
    Peer,
    Reply,
    Subscribed,
    Zmtp,
    frame,
    message,
)
from tests.zeromq import GREETING, command, ready

LIMIT = 1000
READY = Reply(command(b"READY", b"\x0bSocket-Type\0\0\0\4PULL"))
FUZZ_SEEDS = 2000


def server(kind: bytes = b"PULL") -> Zmtp:
    peers = {b"PULL": {b"PUSH"}, b"XPUB": {b"SUB", b"XSUB"}, b"ROUTER": {b"REQ", b"DEALER"}}[kind]
    return Zmtp(kind, frozenset(peers), lambda: LIMIT, None)


def events(*pieces: bytes, kind: bytes = b"PULL") -> list[Event]:
    """What comes of the pieces; messages that came alike are told one by one, because pieces part them."""
    protocol = server(kind)
    return [message for piece in pieces for event in protocol.feed(piece) for message in one_by_one(event)]


def one_by_one(event: Event) -> list[Event]:
    """Messages that were found to be alike, as if they had not been."""
    if isinstance(event, Alike):
        return [[event.channel, payload, *event.rest] for payload in event.payloads]
    return [event]


def traffic(data: bytes, *, kind: bytes = b"PULL") -> list[Event]:
    """What bytes after the handshake mean: the same wherever they are cut."""
    client = {b"PULL": b"PUSH", b"XPUB": b"SUB", b"ROUTER": b"REQ"}[kind]
    opening = GREETING + ready(client)
    found = events(opening + data, kind=kind)
    assert isinstance(found[0], Reply) and found[1] == Peer(client, b"")
    assert events(*crumbs(opening + data), kind=kind) == found
    if len(data) < 1000:
        for cut in range(len(opening), len(opening + data)):
            assert events((opening + data)[:cut], (opening + data)[cut:], kind=kind) == found
    return found[2:]


def crumbs(data: bytes) -> list[bytes]:
    """The bytes one by one; the middle of a long run of the same byte, which is a payload, in one piece."""
    found, at = [], 0
    for run in re.finditer(rb"(?s:(.)\1{39,})", data):
        begin, end = run.start() + 10, run.end() - 10
        found += [bytes((byte,)) for byte in data[at:begin]] + [data[begin:end]]
        at = end
    return found + [bytes((byte,)) for byte in data[at:]]


def why(found: Sequence[Event]) -> str:
    """What the last event says was wrong."""
    assert isinstance(found[-1], Failed), found
    return found[-1].why


# The handshake.


def test_a_greeting_is_of_64_bytes_and_says_which_mechanism() -> None:
    greeting = server().greeting
    assert len(greeting) == 64
    assert greeting[:10] == b"\xff\0\0\0\0\0\0\0\1\x7f" and greeting[10:12] == b"\3\1"
    assert greeting[12:32].rstrip(b"\0") == b"NULL" and greeting[32:] == bytes(32)


def test_a_handshake_tells_the_clients_kind_wherever_it_is_cut() -> None:
    data = GREETING + ready(b"PUSH")
    for cut in range(len(data)):
        assert events(data[:cut], data[cut:]) == [READY, Peer(b"PUSH", b"")]


def test_a_client_of_zmtp_3_0_is_welcome() -> None:
    assert events(GREETING[:11] + b"\0" + GREETING[12:] + ready(b"PUSH"))[-1] == Peer(b"PUSH", b"")


def test_a_greeting_of_a_newer_version_is_welcome() -> None:
    assert events(GREETING[:10] + b"\4\0" + GREETING[12:] + ready(b"PUSH"))[-1] == Peer(b"PUSH", b"")


def test_the_names_of_metadata_are_in_any_case_and_others_are_ignored() -> None:
    data = b"\x08identity\0\0\0\2me" + b"\x0bSOCKET-TYPE\0\0\0\4PUSH"
    assert events(GREETING + command(b"READY", data))[-1] == Peer(b"PUSH", b"")


def test_a_ready_may_be_a_long_frame() -> None:
    body = ready(b"PUSH")[2:]
    data = bytes((COMMAND | LONG,)) + len(body).to_bytes(8, "big") + body
    assert events(GREETING + data)[-1] == Peer(b"PUSH", b"")


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"\1\0", b"\0", b"\xfe"])
def test_what_is_no_zmtp_is_refused_at_its_first_byte(first: bytes) -> None:
    assert why(events(first[:1])) == "what came is no ZMTP"
    assert why(events(first)) == "what came is no ZMTP"


def test_a_signature_ends_with_7f() -> None:
    assert why(events(b"\xff" + bytes(8) + b"\x7e")) == "what came is no ZMTP"


@pytest.mark.parametrize("version", [0, 1, 2])
def test_an_older_version_is_refused_as_soon_as_it_says_so(version: int) -> None:
    assert "too old" in why(events(GREETING[:10] + bytes((version,))))


@pytest.mark.parametrize("mechanism", [b"PLAIN", b"CURVE", b"GSSAPI", b"", b"NULLNULL"])
def test_another_mechanism_is_refused(mechanism: bytes) -> None:
    assert "mechanism" in why(events(GREETING[:12] + mechanism.ljust(20, b"\0") + GREETING[32:]))


@pytest.mark.parametrize("kind", [b"", b"PULL", b"SUB", b"push", b"PUSHPUSH", b"X" * 300])
def test_a_socket_of_a_kind_that_does_not_fit_is_refused(kind: bytes) -> None:
    assert "this door is for PUSH" in why(events(GREETING + ready(kind)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x0b",
        b"\x0bSocket-Type",
        b"\x0bSocket-Type\0\0\0\5PUSH",
        b"\xffSocket-Type",
        b"\0\xff\xff\xff\xff",
        b"\1",
    ],
)
def test_metadata_that_are_cut_short_are_refused(data: bytes) -> None:
    assert why(events(GREETING + command(b"READY", data)))


def test_what_comes_before_ready_is_refused() -> None:
    assert "before the handshake" in why(events(GREETING + message(b"a", b"1")))
    assert "READY" in why(events(GREETING + command(b"PING", b"\0\0")))
    assert "READY" in why(events(GREETING + frame(b"", COMMAND)))
    assert "READY" in why(events(GREETING + command(b"ERROR", b"\3400")))


def test_a_handshakes_command_is_bounded_before_it_has_come() -> None:
    head = bytes((COMMAND | LONG,))
    assert str(MAX_HANDSHAKE + 1) in why(events(GREETING + head + (MAX_HANDSHAKE + 1).to_bytes(8, "big")))
    assert events(GREETING + head + MAX_HANDSHAKE.to_bytes(8, "big")) == [READY]


def test_nothing_comes_after_a_failure() -> None:
    protocol = server()
    assert [type(event) for event in protocol.feed(b"GET")] == [Failed]
    assert list(protocol.feed(GREETING + ready(b"PUSH"))) == []


# Traffic.


def test_messages_come_whole() -> None:
    big = b"x" * LIMIT
    data = message(b"a", b"1") + message(b"") + message(b"", b"", b"") + message(b"a", big)
    assert traffic(data) == [[b"a", b"1"], [b""], [b"", b"", b""], [b"a", big]]


def test_messages_that_are_alike_but_for_their_payloads_come_in_order() -> None:
    """What is told of them at once is told in the same order as one by one."""
    many = [[b"a", b"%d" % n] for n in range(5)] + [[b"a", b"x" * 300], [b"a", b""], [b"b", b"1"], [b"a", b"1", b"t"]]
    many += [[b"a", b"%d" % n, b"t"] for n in range(5)] + [[b"a"], [b"a", b"1", b"t", b"u"], [b"a", b"1"]]
    assert traffic(b"".join([message(*frames) for frames in many])) == many


@pytest.mark.parametrize("size", [0, 1, 254, 255, 256, 257])
def test_a_frame_of_any_size_is_read(size: int) -> None:
    assert traffic(message(b"x" * size, b"y" * size)) == [[b"x" * size, b"y" * size]]


def test_a_short_frame_may_be_written_as_a_long_one() -> None:
    assert traffic(bytes((LONG,)) + (3).to_bytes(8, "big") + b"abc") == [[b"abc"]]


def test_a_message_has_at_most_16_frames() -> None:
    many = [b"x"] * MAX_FRAMES
    assert traffic(message(*many)) == [many]
    assert f"more than {MAX_FRAMES}" in why(traffic(message(*many, b"x")))
    assert f"more than {MAX_FRAMES}" in why(traffic(frame(b"", MORE) * 1000))


def test_a_frame_over_the_limit_is_refused_before_it_has_come() -> None:
    head = bytes((LONG,))
    assert traffic(head + (LIMIT + HEADROOM).to_bytes(8, "big")) == []
    assert "at most" in why(traffic(head + (LIMIT + HEADROOM + 1).to_bytes(8, "big")))
    assert "at most" in why(traffic(head + b"\xff" * 8))


def test_a_message_over_the_limit_is_refused_however_many_frames_it_has() -> None:
    half = (LIMIT + HEADROOM) // 2
    assert traffic(message(b"x" * half, b"y" * half)) == [[b"x" * half, b"y" * half]]
    assert "at most" in why(traffic(message(b"x" * half, b"y" * half, b"z" * 500)))


def test_the_limit_is_that_of_each_message() -> None:
    each = message(b"x" * LIMIT)
    assert len(traffic(each * 20)) == 20


@pytest.mark.parametrize("flags", [8, 16, 128, 255])
def test_unknown_flags_are_refused(flags: int) -> None:
    assert f"flags {flags}" in why(traffic(bytes((flags,)) + bytes(8)))


def test_a_ping_gets_a_pong_with_its_context() -> None:
    assert traffic(command(b"PING", b"\0\x0a")) == [Reply(command(b"PONG"))]
    assert traffic(command(b"PING", b"\0\x0acontext")) == [Reply(command(b"PONG", b"context"))]
    assert traffic(command(b"PING", b"\0\x0a" + b"x" * 17)) == [Reply(command(b"PONG", b"x" * 16))]


def test_a_command_between_the_frames_of_a_message_leaves_it_whole() -> None:
    assert traffic(frame(b"a", MORE) + command(b"PING", b"\0\0") + frame(b"1")) == [
        Reply(command(b"PONG")),
        [b"a", b"1"],
    ]


@pytest.mark.parametrize("body", [b"", b"\0", b"\5HELLO", b"\xffHELLO", b"\4PONG", b"\4ping\0\0", b"\5READY"])
def test_unknown_commands_are_ignored(body: bytes) -> None:
    assert traffic(frame(body, COMMAND) + message(b"a")) == [[b"a"]]


def test_an_error_of_the_client_ends_it() -> None:
    assert "b'oops'" in why(traffic(command(b"ERROR", b"\4oops")))


@pytest.mark.parametrize("topic", [b"", b"news", b"\xff\0", b"x" * 1000])
def test_subscriptions_are_commands_or_messages(topic: bytes) -> None:
    new = command(b"SUBSCRIBE", topic) + command(b"CANCEL", topic)
    old = message(b"\1" + topic) + message(b"\0" + topic)
    assert (
        traffic(new, kind=b"XPUB") == traffic(old, kind=b"XPUB") == [Subscribed(topic, True), Subscribed(topic, False)]
    )


def test_only_a_message_of_one_frame_is_a_subscription() -> None:
    assert traffic(message(b"\1a", b""), kind=b"XPUB") == [[b"\1a", b""]]
    assert traffic(message(b"", b"\1a"), kind=b"XPUB") == [[b"", b"\1a"]]
    assert traffic(message(b"\2a"), kind=b"XPUB") == [[b"\2a"]]
    assert traffic(message(b"\1a")) == [[b"\1a"]]


def test_messages_that_are_alike_are_found_at_once() -> None:
    """And mean what each of them means, whatever is in their payloads, and wherever they are cut."""
    head = message(b"news", b"", b"t")[:7]
    payloads = [b"1", b"", b"22", head, head + head, b"x" * 255, b"x" * 256, b"y" * 300, head + b"x" * 300, b"\0" * 256]
    rng = random.Random(3)
    found = 0
    for rest in ([], [b""], [b"t"], [b"t" * 300]):
        for _ in range(100):
            few = rng.sample(payloads, 2)
            names, count = [b"news", b"news", b"news", b"old"], rng.choice([10, 20, 40])
            sent = [[rng.choice(names), rng.choice(few), *rest] for _ in range(count)]
            data = b"".join(message(*frames) for frames in sent)
            assert traffic(data) == sent
            protocol = server()
            found += any(isinstance(event, Alike) for event in protocol.feed(GREETING + ready(b"PUSH") + data))
    assert found > 100


def test_one_that_is_too_large_is_refused_among_others_that_are_alike() -> None:
    good, bad = message(b"a", b"x" * 300), message(b"a", b"x" * (LIMIT + HEADROOM + 1))
    found = traffic(good * 5 + bad + good)
    assert found[:5] == [[b"a", b"x" * 300]] * 5 and "at most" in why(found)


# What is sent.


def test_frames_are_walked_and_counted() -> None:
    data = message(b"a", b"x" * 300) + message(b"") + message(b"b", b"c", b"d")
    assert [content for _, content in zmtp.walk(data)] == [b"a", b"x" * 300, b"", b"b", b"c", b"d"]
    assert [flags for flags, _ in zmtp.walk(data)] == [1, 0, 0, 1, 1, 0]
    assert zmtp.count(data) == 3 and zmtp.count(b"") == 0


def test_what_is_sent_without_keys_is_the_same_for_all() -> None:
    protocol = server()
    assert protocol.plain and protocol.seal(message(b"a", b"1")) == message(b"a", b"1")


# Garbage.


def mutated(random: random.Random, data: bytes) -> bytes:
    """The bytes with some of them changed, left out, doubled or made up."""
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data) + 1)
        data = random.choice([
            data[:at] + random.randbytes(1) + data[at + 1 :],
            data[:at] + data[at + random.randint(1, 9) :],
            data[:at] + random.randbytes(random.randint(1, 20)) + data[at:],
            data[:at] + data[max(0, at - 30) : at] + data[at:],
            data[:at],
        ])  # fmt: skip
    return data


def test_garbage_is_parsed_or_refused_and_means_the_same_in_any_pieces() -> None:
    valid = {
        b"PULL": [
            message(b"a", b"1") * 3,
            message(b"a", b"2", b"x") * 2,
            message(b"b", b"y" * 300, b"x") * 2,
            message(b"a", b"x" * 400, b"text/plain"),
            command(b"PING", b"\0\0me"),
        ],
        b"XPUB": [message(b"\1news"), command(b"SUBSCRIBE", b"news"), command(b"CANCEL", b"news"), message(b"x", b"y")],
        b"ROUTER": [message(b"", b"ping"), message(b"", b"publish", b"a", b"1"), command(b"PING", b"\0\0")],
    }
    client = {b"PULL": b"PUSH", b"XPUB": b"SUB", b"ROUTER": b"DEALER"}
    failed = 0
    for seed in range(FUZZ_SEEDS):
        rng = random.Random(seed)
        kind = rng.choice([*valid])
        sane = GREETING + ready(client[kind]) if rng.random() < 0.7 else b""
        data = b"".join(rng.choices(valid[kind], k=5))
        data = sane + mutated(rng, data) if sane else mutated(rng, GREETING + ready(client[kind]) + data)
        whole = events(data, kind=kind)
        assert events(*[bytes((byte,)) for byte in data], kind=kind) == whole
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(4))
        pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        assert events(*pieces, kind=kind) == whole
        assert not any(isinstance(event, Failed) for event in whole[:-1])
        failed += bool(whole) and isinstance(whole[-1], Failed)
    assert 0.2 * FUZZ_SEEDS < failed < 0.95 * FUZZ_SEEDS
