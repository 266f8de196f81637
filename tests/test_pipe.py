"""Messages over a Unix socket."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest

from raiden.history.pipe import Closed, Pipe


@pytest.fixture
def ends() -> Iterator[tuple[Pipe, Pipe]]:
    pipes = [Pipe(sock) for sock in socket.socketpair()]
    yield pipes[0], pipes[1]
    for pipe in pipes:
        pipe.close()


def test_messages_come_whole_and_in_order_however_they_are_cut(ends: tuple[Pipe, Pipe]) -> None:
    sender, receiver = ends
    rng = random.Random(1)
    messages = [rng.randbytes(rng.choice([0, 1, 3, 4, 5, 1000, 300_000])) for _ in range(100)]
    got: list[bytes] = []
    waited = False
    for message in messages:
        sender.send(message)
        waited = waited or sender.waits
        if rng.random() < 0.3:
            got += receiver.receive()
    while len(got) < len(messages):
        sender.flush()
        got += receiver.receive()
    assert got == messages
    assert waited and not sender.waits and receiver.receive() == []


def test_one_byte_at_a_time() -> None:
    sender, other = socket.socketpair()
    receiver = Pipe(other)
    got: list[bytes] = []
    for number in b"\x03\0\0\0abc\0\0\0\0\x01\0\0\0d":
        sender.send(bytes([number]))
        got += receiver.receive()
    assert got == [b"abc", b"", b"d"]
    sender.close()
    receiver.close()


@pytest.mark.parametrize("unread", [False, True])
def test_the_other_end_is_gone(ends: tuple[Pipe, Pipe], unread: bool) -> None:
    """What had come is still received; what is sent is dropped."""
    sender, receiver = ends
    if unread:
        receiver.send(b"1")  # to close with something unread resets the connection
    sender.send(b"last")
    sender.close()
    if not unread:
        assert receiver.receive() == [b"last"]
    receiver.send(b"2")
    receiver.send(b"3")
    assert not receiver.waits
    with pytest.raises(Closed):
        while True:
            receiver.receive()
