"""Nodes on one host: whom they let in, what they make of rosters and peers that are not as they should be."""

from __future__ import annotations

import contextlib
import json
import queue
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import ujson
import zmq
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from raiden.access import keys
from raiden.backbone.frames import ANSWER, ASK, BEATS, HELLO, INBOX, NONCE, REPORTS, ROSTER, VERSION, to_frame
from raiden.backbone.roster import Beat
from raiden.model.message import Kind, Message
from tests.daemons import Daemon, Stream, command, run, wait_for

Start = Callable[..., Daemon]


def rows(node: Daemon) -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = node.json("/-/nodes")["nodes"]
    return nodes


def address(node: Daemon) -> str:
    return str(rows(node)[0]["address"])


def states(node: Daemon) -> list[str]:
    return [row["state"] for row in rows(node)[1:]]


def connected(*nodes: Daemon) -> None:
    """Wait until these know each other, and nobody else."""
    others = ["connected"] * (len(nodes) - 1)
    wait_for(lambda: all(states(node) == others for node in nodes), "the nodes are connected", every=0.05)


def passes(one: Daemon, other: Daemon, channel: str = "a") -> None:
    """What is published at one is received at the other, once."""
    with Stream(other, f"/{channel}") as stream:
        for number in range(10):
            one.publish(channel, number)
            assert stream.value() == number


def logged(node: Daemon, text: str, times: int = 1) -> None:
    wait_for(lambda: text in node.log(), f"{text!r} is logged")
    assert node.log().count(text) == times, node.log()


# The roster.


def test_one_known_peer_is_enough(start: Start) -> None:
    first = start()
    second = start(peers=[address(first)])
    third = start(peers=[address(second)])
    connected(first, second, third)
    passes(third, first)
    assert {row["id"] for row in rows(first)} == {row["id"] for row in rows(third)}


def test_a_node_that_was_alone(start: Start) -> None:
    """Its one worker has not used the backbone. From the moment that a subscription at the new node is in force, all
    that is published at the old one comes to it, and the old one's own subscribers miss nothing."""
    first = start(workers=1, store="none")
    stop, published = threading.Event(), 0

    def publish() -> None:
        nonlocal published
        connection = HTTPConnection("127.0.0.1", first.port, timeout=20)
        while not stop.is_set():
            connection.request("POST", "/a", str(published), {"Content-Type": "application/json"})
            assert connection.getresponse().read() == b"{}"
            published += 1
        connection.close()

    with Stream(first, "/a") as own, ThreadPoolExecutor() as pool:
        publishing = pool.submit(publish)
        try:
            assert own.value() == 0
            second = start(workers=1, store="none", peers=[address(first)])
            connected(first, second)
            with Stream(second, "/a") as stream:
                after = published + 1  # one may have been under way
                come = [stream.value()]
                wait_for(lambda: published > after + 100, "some more are published")
                stop.set()
                publishing.result()
                while come[-1] < published - 1:
                    come.append(stream.value())
        finally:
            stop.set()
        assert come == list(range(come[0], published)) and come[0] <= after
        assert [own.value() for _ in range(1, published)] == list(range(1, published))


def test_rosters_with_mistakes(start: Start) -> None:
    """A node listed twice under two names, this node itself, a dead host, a name that isn't, something else's port."""
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        first = start()
        port = address(first).rpartition(":")[2]
        dead, other = (f"127.0.0.1:{sock.getsockname()[1]}" for sock in (unused, silent))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            own = probe.getsockname()[1]
        peers = [address(first), f"localhost:{port}", f"localhost:{own}", dead, other, "no.such.host.invalid:9989"]
        second = start(peers=peers, backend_port=own)
        connected(first, second)
        passes(first, second)
        logged(second, "a peer is known already")
        logged(second, "this node's own: ignored")
        logged(second, "a peer's name does not resolve")
        logged(second, f"a peer does not answer: no connection peer='{dead}'")
        logged(second, f"peer='{other}'")
        passes(second, first)
        lines = len(second.log().splitlines())
        wait_for(lambda: rows(second)[0]["uptime"] > 8, "some time passes", every=0.1)
        assert len(second.log().splitlines()) == lines, "each is logged once"


def test_a_file_that_names_nodes_is_watched(start: Start, tmp_path: Path) -> None:
    roster = tmp_path / "roster"
    first = start(discovery=[f"file:{roster}"])
    logged(first, "can't be read")
    second = start()
    roster.write_text(f"# the nodes\n{address(second)}\n")
    connected(first, second)
    passes(second, first)


def test_a_restart_is_another_node(start: Start) -> None:
    first = start()
    second = start(peers=[address(first)])
    connected(first, second)
    (old,) = (row["id"] for row in rows(first)[1:])
    port = int(address(second).rpartition(":")[2])
    second.signal_all(signal.SIGKILL)
    second.process.wait()
    again = start(peers=[address(first)], backend_port=port)
    connected(first, again)
    (new,) = (row["id"] for row in rows(first)[1:])
    assert new != old
    passes(first, again)
    passes(again, first)


def test_ready_when_enough_peers_are_connected(start: Start) -> None:
    first = start(min_peers=1)
    status, headers, body = first.request("GET", "/-/ready")
    assert status == 503 and headers["retry-after"] and b"0 peers are connected, and min_peers = 1" in body
    second = start(min_peers=1, peers=[address(first)])
    connected(first, second)
    assert first.json("/-/ready") == second.json("/-/ready") == {"status": "ready", "peers": 1}
    assert second.stop() == 0
    wait_for(lambda: first.request("GET", "/-/ready")[0] == 503, "its only peer has left", every=0.1)


def test_a_node_that_stops_spreads_its_clients(start: Start) -> None:
    first = start(drain_window=0)
    second = start(peers=[address(first)], drain_window=2.0)
    connected(first, second)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(f"ws://127.0.0.1:{second.port}/a")) for _ in range(8)]
        ends: list[tuple[float, int | None]] = []

        def wait_for_end(client: Any) -> None:
            try:
                while True:
                    client.recv()
            except ConnectionClosed as closed:
                ends.append((time.monotonic(), closed.rcvd.code if closed.rcvd else None))

        threads = [threading.Thread(target=wait_for_end, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        second.hang_up()
        second.signal(signal.SIGTERM)
        wait_for(lambda: states(first) in (["leaving"], []), "it says that it leaves")
        first.publish("a", 1)  # reaches those that are still there
        for thread in threads:
            thread.join(10)
        assert second.process.wait(20) == 0
    times = sorted(end for end, _ in ends)
    assert [code for _, code in ends] == [4002] * 8
    assert times[-1] - times[0] > 1.0, "one after the other"
    wait_for(lambda: states(first) == [], "it has left", every=0.1)
    assert "suspect" not in first.log() and "a node has left" in first.log()


def test_nodes_for_people(start: Start, tmp_path: Path) -> None:
    first = start()
    second = start(peers=[address(first)], workers=2)
    connected(first, second)
    wait_for(lambda: rows(first)[1]["lag"], "the lag is known")
    words = command("nodes", data_dir=tmp_path, http_port=first.port)
    done = run(words)
    head, own, other = done.stdout.splitlines()
    assert head.split()[:3] == ["ADDRESS", "STATE", "VERSION"]
    assert own.split()[:2] == [address(first), "self"]
    assert other.split()[:2] == [address(second), "connected"] and other.split()[4] == "2" and " ms " in other
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        words = command("nodes", data_dir=tmp_path, http_port=unused.getsockname()[1])
        done = run(words)
    assert done.returncode == 1 and done.stderr.startswith("raiden: no node answers at 127.0.0.1")


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = command(data_dir=tmp_path, http_port=0, backend_port=taken.getsockname()[1])
        done = run(words)
    assert done.returncode == 1
    assert "raiden: backbone: cannot listen" in done.stderr and "set backend_host or backend_port" in done.stderr, (
        done.stderr
    )


def test_nodes_by_ipv6_and_by_name(start: Start) -> None:
    first = start(backend_host="::1")
    second = start(backend_host="localhost", peers=[address(first)])
    connected(first, second)
    assert address(first).startswith("[::1]:") and address(second).startswith("localhost:")
    passes(first, second)
    passes(second, first)


# Keys.


@pytest.fixture
def keyed(start: Start, tmp_path: Path) -> Iterator[tuple[Daemon, Daemon, list[Path], list[str]]]:
    """Two nodes of three whose keys are listed, and the keys of four."""
    paths = [tmp_path / f"key{n}" for n in range(4)]
    public = [keys.generate(path) for path in paths]
    first = start(node_key=str(paths[0]), node_keys=public[:3])
    second = start(node_key=str(paths[1]), node_keys=public[:3], peers=[address(first)])
    yield first, second, paths, public


Keyed = tuple[Daemon, Daemon, list[Path], list[str]]


def test_nodes_with_listed_keys(start: Start, keyed: Keyed) -> None:
    first, second, paths, public = keyed
    connected(first, second)
    third = start(node_key=str(paths[2]), node_keys=public[:3], peers=[address(second)])
    connected(first, second, third)
    passes(third, first)
    passes(first, third)


def test_nodes_without_a_listed_key(start: Start, keyed: Keyed) -> None:
    first, second, paths, public = keyed
    unlisted = start(node_key=str(paths[3]), node_keys=public, peers=[address(first)])
    plain = start(peers=[address(first)])
    other = start(node_key=str(paths[2]), node_keys=public[2:3], peers=[address(first)])
    logged(unlisted, "it refuses this node's key: list it there in node_keys")
    logged(plain, "wants a key")
    logged(other, "no key in node_keys is its")
    logged(first, "refused a node: add its key to node_keys")
    assert public[3] in first.log()
    connected(first, second)
    assert states(unlisted) == states(plain) == states(other) == []
    passes(first, second)


@pytest.mark.parametrize("has_key", [True, False])
def test_an_intruder_gets_nothing_and_injects_nothing(keyed: Keyed, has_key: bool) -> None:
    first, second, _, public = keyed
    connected(first, second)
    context = zmq.Context()
    intruder, injector = context.socket(zmq.SUB), context.socket(zmq.XSUB)
    monitor = intruder.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
                                          | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_DISCONNECTED)  # fmt: skip
    fake = Beat("intruder", "127.0.0.1:1")
    for sock in (intruder, injector):
        if has_key:
            sock.curve_publickey, sock.curve_secretkey = zmq.curve_keypair()
            sock.curve_serverkey = public[0].encode()
        sock.connect(f"tcp://{address(first)}")
    intruder.subscribe(b"")
    injector.send(b"\x01" + HELLO + fake.introduction(1) + b"\0")
    injector.send(to_frame([Message("a", Kind.JSON, b"666")]))
    assert monitor.poll(10_000), "it is turned away"
    passes(first, second)
    passes(second, first)
    assert not intruder.poll(0)
    assert [row["id"] for row in rows(first)].count("intruder") == 0 and len(rows(first)) == 2
    context.destroy(linger=0)


def test_without_keys_only_loopback(tmp_path: Path) -> None:
    def check(**settings: Any) -> str:
        words = command("check", data_dir=tmp_path, **settings)
        done = run(words)
        return done.stdout + done.stderr

    assert "open_backbone = True" in check(backend_host="10.0.0.1")
    assert "good" in check(backend_host="10.0.0.1", open_backbone=True)
    assert "good" in check(backend_host="10.0.0.1", node_key="key")
    assert "set advertise" in check(backend_host="0.0.0.0", open_backbone=True)
    assert "good" in check(backend_host="0.0.0.0", open_backbone=True, advertise="node1:9989")
    assert "write it as host:port" in check(peers=["node1"])
    assert "dns:NAME, srv:NAME or file:PATH" in check(discovery=["consul:x"])
    assert "is no key" in check(node_key="key", node_keys=["short"])
    assert "node_keys without node_key" in check(node_keys=["a" * 40])


# Peers that are not as they should be.


class Patched(Daemon):
    """A node whose program begins with a line of its own: another release, or a machine with another clock."""

    def __init__(self, folder: Path, patch: str, **settings: Any) -> None:
        self._patch = patch
        super().__init__(folder, store="none", **settings)

    def command_line(self, argv: list[str]) -> list[str]:
        assert argv[1:3] == ["-m", "raiden"]
        code = f"{self._patch}; import sys; from raiden.cli import main; sys.exit(main())"
        return [argv[0], "-c", code, *argv[3:]]


def test_another_version_is_refused_by_both(start: Start, tmp_path: Path) -> None:
    first = start()
    second = start(peers=[address(first)])
    patch = f"from raiden.backbone import frames; frames.VERSION = {VERSION + 1}"
    later = Patched(tmp_path / "later", patch, peers=[address(first)])
    try:
        logged(first, f"refused a node: it speaks version {VERSION + 1} of the backbone, this node {VERSION}")
        logged(later, f"it speaks version {VERSION} of the backbone, this node {VERSION + 1}")
        connected(first, second)
        assert states(later) == []
        passes(first, second)
    finally:
        assert later.stop() == 0


def test_a_clock_that_is_off_is_named(start: Start, tmp_path: Path) -> None:
    first = start()
    patch = "import time; right = time.time; time.time = lambda: right() - 7200"
    second = Patched(tmp_path / "past", patch, peers=[address(first)])
    try:
        connected(first, second)
        logged(first, "a node's clock is off")
        assert "seconds=-7200" in first.log()
        passes(first, second)
        passes(second, first)
        logged(second, "a node's clock is off")
    finally:
        assert second.stop() == 0


def test_a_node_with_a_history_of_its_own_is_named(start: Start) -> None:
    first = start(store="sqlite")
    second = start(peers=[address(first)])
    connected(first, second)
    for node, its_store, own in ((first, "none", "sqlite"), (second, "sqlite", "none")):
        logged(node, "a node keeps history elsewhere")
        assert f"its_store='{its_store}' store='{own}'" in node.log()
    third = start(peers=[address(first)])
    connected(first, second, third)
    assert f"linked to a node peer='{address(third)}'" in second.log()
    assert second.log().count("a node keeps history elsewhere") == 1


def test_garbage_on_the_backbones_port(start: Start) -> None:
    first = start()
    second = start(peers=[address(first)])
    connected(first, second)
    chance = random.Random(3)
    host, _, port = address(first).rpartition(":")
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
    ready = b"\x05READY\x0bSocket-Type\x00\x00\x00\x03SUB"
    handshake = greeting + b"\x04" + bytes([len(ready)]) + ready
    pieces = [b"GET / HTTP/1.1\r\n\r\n", greeting[:20], greeting + b"\x04\x00", handshake[:-3],
              handshake + b"\x02" + struct.pack("!Q", 1 << 62), handshake + b"\x00\xff" + bytes(100),
              handshake + b"\x02" + struct.pack("!Q", 100_000) + bytes(100_000)]  # fmt: skip
    pieces += [chance.randbytes(chance.randrange(1, 400)) for _ in range(100)]
    pieces += [handshake + chance.randbytes(chance.randrange(1, 400)) for _ in range(100)]
    for piece in pieces:
        with socket.create_connection((host, int(port))) as sock:
            sock.settimeout(0.01)
            try:
                sock.sendall(piece)
                sock.recv(1000)
            except (TimeoutError, ConnectionError):
                pass
    passes(first, second)
    with zmq.Context() as context, context.socket(zmq.XSUB) as sock:
        sock.linger = 0
        sock.connect(f"tcp://{host}:{port}")
        topics = [HELLO, INBOX, NONCE, BEATS, HELLO + b"{}\0", HELLO + b"[]\0", NONCE + b"x" * 5000, INBOX + b"\0" * 9]
        topics += [Beat("x", "no address", peers=[]).introduction(n) for n in range(5)]
        topics += [HELLO + Beat("y", f"127.0.0.1:{n}").introduction(n)[: n * 3] + b"\0" for n in range(30)]
        topics += [prefix + chance.randbytes(20) for prefix in (HELLO, INBOX, NONCE, b"") for _ in range(50)]
        topics += [HELLO + ujson.dumps({"id": "z", "address": "::::", "protocol": VERSION}).encode() + b"\0"]
        for topic in topics:
            sock.send(b"\x01" + topic)
            sock.send(topic)
        sock.send(b"\x01" + HELLO + Beat("last", "127.0.0.1:1").introduction(0) + b"\0")
        wait_for(lambda: "127.0.0.1:1" in first.log(), "all was heard")
    passes(second, first)
    connected(first, second)
    assert len(first.log().splitlines()) < 40, first.log()
    assert "Traceback" not in first.log() and "died" not in first.log()


class Rogue(threading.Thread):
    """Something that introduces itself to a node as one should, says beats, and then does what it is told to."""

    def __init__(self, node: Daemon, *, confirms: bool) -> None:
        super().__init__()
        self.linked = threading.Event()
        self.frames: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._confirms = confirms
        self._stopping = threading.Event()
        self._to = f"tcp://{address(node)}"
        self._inbox = INBOX + str(rows(node)[0]["id"]).encode()
        self._context = zmq.Context()
        self._xpub = self._context.socket(zmq.XPUB)
        self.address = f"127.0.0.1:{self._xpub.bind_to_random_port('tcp://127.0.0.1')}"

    def __enter__(self) -> Rogue:
        self.start()
        assert self.linked.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.join()
        self._context.destroy(linger=0)

    def run(self) -> None:
        beat = Beat("rogue", self.address, workers=0)
        sub = self._context.socket(zmq.SUB)
        sub.subscribe(HELLO + beat.introduction(1) + b"\0")
        sub.connect(self._to)
        while not self._stopping.is_set():
            while self._xpub.poll(20):
                there, topic = self._xpub.recv().partition(b"\x01")[1:]
                if there and topic.startswith(HELLO):
                    self._xpub.send(topic + beat.to_bytes())
                elif there and topic.startswith(NONCE) and self._confirms:
                    self._xpub.send(topic + b"rogue")
                elif there and topic.startswith(self._inbox):
                    self.linked.set()
            self._xpub.send(BEATS + b"\0" + beat.to_bytes())
            while not self.frames.empty():
                self._xpub.send(self.frames.get())


def test_a_node_that_does_not_confirm_is_named(start: Start) -> None:
    node = start()
    with Rogue(node, confirms=False) as rogue:
        began = time.monotonic()
        with Stream(node, "/a") as stream:
            assert stream.response.headers["Raiden-Unconfirmed"] == rogue.address
            assert 2.5 < time.monotonic() - began < 10
            node.publish("a", 1)
            assert stream.value() == 1
        began = time.monotonic()
        status, headers, _ = node.request("GET", "/a?_wait=0")
        assert (status, headers["raiden-unconfirmed"]) == (204, rogue.address)
        assert time.monotonic() - began < 2.5, "who was late is waited for a shorter time"
        with connect(f"ws://127.0.0.1:{node.port}/a") as socket:
            assert socket.response and socket.response.headers["Raiden-Unconfirmed"] == rogue.address
        with connect(f"ws://127.0.0.1:{node.port}/-/websocket") as socket:
            socket.send('{"id": 1, "cmd": "subscribe", "channel": "a"}')
            reply = {"id": 1, "channel": "a", "unconfirmed": [rogue.address]}
            assert ujson.loads(socket.recv()) == reply
        logged(node, "subscriptions are not confirmed by all nodes")
    wait_for(lambda: states(node) in (["suspected"], []), "it is missed", every=0.1)
    with Stream(node, "/a") as stream:
        assert stream.response.headers["Raiden-Unconfirmed"] == rogue.address
    wait_for(lambda: states(node) == [], "it is dropped", every=0.1)
    with Stream(node, "/a") as stream:
        assert "Raiden-Unconfirmed" not in stream.response.headers


def test_a_node_that_says_garbage(start: Start) -> None:
    """Something that introduces itself well, and then sends what no node would."""
    first = start()
    second = start(peers=[address(first)])
    connected(first, second)
    id_of_first = str(rows(first)[0]["id"]).encode()
    with Rogue(first, confirms=True) as rogue, Stream(first, "/a") as stream:
        chance = random.Random(5)
        good = to_frame([Message("a", Kind.JSON, b'"rogue"')])
        topics = [BEATS, INBOX + id_of_first, REPORTS + id_of_first, ROSTER + id_of_first, ASK, ANSWER + b"x"]
        texts = [b"", b"{}", b"[]", b"null", b'{"from":[]}', b'{"from":"rogue","stamp":"x"}', b"\xff" * 50]
        texts += [
            b'{"serial":1,"nodes":[{}]}',
            b'{"serial":1,"nodes":[1]}',
            b'{"worker":0}',
            b'{"worker":"x","serial":1}',
        ]
        texts += [
            b'{"from":"rogue","stamp":-1e308}',
            b'{"from":"rogue","stamp":1e999}',
            b'{"worker":Infinity,"serial":1}',
            b'{"worker":0,"serial":1,"connections":1e999}',
            b'{"serial":Infinity,"nodes":[{"id":1,"address":2,"state":3,"workers":4}]}',
        ]
        beat = Beat("rogue", rogue.address).to_bytes()
        texts += [
            beat.replace(b'"%b":0.0' % name, b'"%b":%b' % (name, value))
            for name in (b"clock", b"since", b"stamp")
            for value in (b"Infinity", b"-Infinity", b"NaN", b"1" + b"0" * 400)
        ]
        frames = [topic + b"\0" + text for topic in topics for text in texts]
        frames += [good[:n] for n in range(2, len(good) - 7)]
        frames += [b"a\0" + chance.randbytes(chance.randrange(60)) for _ in range(300)]
        frames += [to_frame([Message("a", Kind.TEXT, b"\xff\xfe")]), good]
        for frame in frames:
            rogue.frames.put(frame)
        seen = [stream.value()]
        while seen[-1] != "rogue":
            seen.append(stream.value())
        assert first.metric("raiden_bad_frames_total") > 250
        json.loads(first.request("GET", "/-/nodes")[2], parse_constant=pytest.fail)
        passes(first, second)
    passes(second, first)
    connected(first, second)
    assert "Traceback" not in first.log() and "died" not in first.log(), first.log()
