"""What is left in a worker of clients that have gone: nothing, without the help of the garbage collector."""

from __future__ import annotations

import os
import random
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.soak import LIVES, SETTINGS, Soak
from tests.collecting import Collecting
from tests.daemons import Daemon, memory, wait_for
from tests.data.malformed import HOST, JSON, KEY, POST, VERSION, head, websocket
from tests.multiplex import Client
from tests.zeromq import GREETING, ready

SIZE, CLIENTS = 900_000, 40

# What opens it, which is answered, and how it begins.
BEGINNINGS = {
    "body": (b"", head(POST, HOST, JSON, f"Content-Length: {SIZE + 1}")),
    "chunk": (b"", head(POST, HOST, JSON, "Transfer-Encoding: chunked") + b"%x\r\n" % (SIZE + 1)),
    "message": (websocket(KEY, VERSION), b"\x81\xff" + (SIZE + 1).to_bytes(8, "big") + b"mask"),
    "frame": (GREETING + ready(b"PUSH"), b"\2" + (SIZE + 1).to_bytes(8, "big")),
}


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_what_is_not_complete_goes_with_its_client(start: Callable[..., Daemon], kind: str) -> None:
    """40 clients, one after the other, break off 900,000 bytes into something: 36 MB in all."""
    node = start(workers=1, zmq_push_port=0)
    pid = node.workers()["zeromq" if kind == "frame" else "worker 0"]

    def begin() -> None:
        if kind == "frame":
            host, port = node.doors()["PUSH"].removeprefix("tcp://").rsplit(":", 1)
            sock = socket.create_connection((host, int(port)), 20)
        else:
            sock = node.connect()
        with closing(sock):
            opening, beginning = BEGINNINGS[kind]
            if opening:
                sock.sendall(opening)
                sock.recv(4096)
            sock.sendall(beginning + b"x" * SIZE)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass

    begin()
    before = memory(pid)
    for _ in range(CLIENTS):
        begin()
    assert memory(pid) - before < CLIENTS * SIZE / 4


# Allows all, and is asked again about each subscription.
DELEGATE = """
class Rules:
    def on_connect(self, question):
        return True

    def on_disconnect(self, question):
        pass

    def on_subscribe(self, question):
        return {"allow": True, "ttl": 1}

    on_publish = on_subscribe

delegate = Rules()
"""


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("kind", ["stream", "poll", "websocket", "multiplex", "ask", "slow", "delete", "post"])
def test_no_cycle_is_left(tmp_path: Path, kind: str, asked: bool) -> None:
    anyone = dict.fromkeys(("request", "serve", "manage", "presence"), "anyone")
    channels = {pattern: {**options, **anyone} for pattern, options in SETTINGS["channels"].items()}
    node = Collecting(tmp_path, DELEGATE * asked, **{**SETTINGS, "workers": 1, "channels": channels})

    try:
        soak = Soak([node], seed=1)
        others = node.metric("raiden_connections")
        node.collected()
        lives = [LIVES[each][1] for each in ((kind, "serve") if kind == "ask" else (kind,))]
        with ThreadPoolExecutor(10) as pool:
            for done in [pool.submit(lives[n % len(lives)], soak, random.Random(n)) for n in range(20)]:
                done.result()
        wait_for(lambda: node.metric("raiden_connections") <= others, "all have gone")
        assert node.collected() == ""
        soak.context.destroy(linger=0)
    finally:
        node.stop()


def test_no_cycle_is_left_of_watches_that_are_refused(tmp_path: Path) -> None:
    """Too many ask for lists of members while a worker does not answer."""
    node = Collecting(tmp_path, store="none", zmq_sub_port=0)
    stopped = node.workers()["zeromq"]

    try:
        others = node.metric("raiden_connections")
        client = Client(node)
        node.collected()
        os.kill(stopped, signal.SIGSTOP)
        asked = [client.send(cmd="subscribe", channel=f"{at}", presence=True) for at in range(120)]
        codes = {client.reply(number, 60).get("error", {}).get("code") for number in asked}
        assert codes == {None, 503}
        os.kill(stopped, signal.SIGCONT)
        client.abort()
        wait_for(lambda: node.metric("raiden_connections") <= others, "it has gone")
        assert node.collected() == ""
    finally:
        os.kill(stopped, signal.SIGCONT)
        node.stop()
