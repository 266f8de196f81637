"""The examples in examples/zmq, each as its language builds and runs it, on real nodes: a subscriber at one node hears
all that is published at another, in order and without a gap, and the same with keys. A language whose tools or
libraries are not there is skipped by name."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zmq
from websockets.sync.client import connect

from tests import daemons
from tests.daemons import ROOT, Daemon, command, post, wait_for
from tests.stores import RedisServer

EXAMPLES = ROOT / "examples" / "zmq"
NODE_MODULES = ROOT / "build" / "node" / "node_modules"
PROGRAMS = ("subscribe", "publish")
EACH = 800  # messages by each way to publish that answers
PUSHED = 1250  # and by each that does not: more than libzmq's high-water mark
UNDER_WAY = 50  # of them without an answer yet
DOORS: dict[str, Any] = {"zmq_sub_port": 0, "zmq_push_port": 0, "zmq_req_port": 0}
KEEP_ALL: dict[str, Any] = {"channels": {"*": {"history_size": 20_000, "history_ttl": 3600}}, "max_outbox": 1 << 24}


@dataclass
class Example:
    """How a language's programs are started."""

    subscribe: list[str]
    publish: list[str]
    environ: dict[str, str] = field(default_factory=dict)


# What the languages need, and how each is built, in a folder of the test's.


def need(language: str, *programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{language}: needs {program}")


def run(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, **options)


def need_success(language: str, what: str, *argv: str, **options: Any) -> None:
    """Skip if the command fails: then something of the language's is not installed, or can't be fetched."""
    if run(*argv, **options).returncode:
        pytest.skip(f"{language}: needs {what}")


def make(*argv: str, **options: Any) -> None:
    done = run(*argv, **options)
    assert done.returncode == 0, done.stdout + done.stderr


def compiled(folder: Path) -> Example:
    return Example([str(folder / "subscribe")], [str(folder / "publish")])


def interpreted(interpreter: str, language: str, suffix: str, **environ: str) -> Example:
    subscribe, publish = ([interpreter, str(EXAMPLES / language / f"{name}.{suffix}")] for name in PROGRAMS)
    return Example(subscribe, publish, environ)


def python(folder: Path) -> Example:
    return interpreted(sys.executable, "python", "py")


def c(folder: Path) -> Example:
    need("c", "gcc")
    need_success("c", "libzmq's zmq.h", "gcc", "-E", "-include", "zmq.h", "-x", "c", "/dev/null")
    for name in PROGRAMS:
        make("gcc", "-Wall", "-Werror", "-o", str(folder / name), str(EXAMPLES / "c" / f"{name}.c"), "-lzmq")
    return compiled(folder)


def cpp(folder: Path) -> Example:
    need("cpp", "g++")
    need_success("cpp", "cppzmq", "g++", "-std=c++17", "-E", "-include", "zmq_addon.hpp", "-x", "c++", "/dev/null")
    for name in PROGRAMS:
        source = str(EXAMPLES / "cpp" / f"{name}.cpp")
        make("g++", "-std=c++17", "-Wall", "-Werror", "-o", str(folder / name), source, "-lzmq")
    return compiled(folder)


def go(folder: Path) -> Example:
    need("go", "go", "gcc", "pkg-config")
    need_success("go", "libzmq", "pkg-config", "--exists", "libzmq")
    shutil.copytree(EXAMPLES / "go", folder, dirs_exist_ok=True)
    need_success("go", "its modules", "go", "mod", "download", cwd=folder)
    make("go", "build", "-o", f"{folder / 'bin'}/", "./...", cwd=folder)
    return compiled(folder / "bin")


def java(folder: Path) -> Example:
    need("java", "java", "javac", "mvn")
    jars = f"-DoutputDirectory={folder}"
    pom = str(EXAMPLES / "java" / "pom.xml")
    short = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]  # what runs for a moment is not worth more
    argv = ["mvn", "--quiet", "--batch-mode", "-f", pom, "dependency:copy-dependencies", jars]
    options = " ".join([os.environ.get("MAVEN_OPTS", ""), *short])
    need_success("java", "JeroMQ", *argv, env={**os.environ, "MAVEN_OPTS": options})
    start = ["java", *short, "-cp", f"{folder}/*"]
    subscribe, publish = ([*start, str(EXAMPLES / "java" / f"{name.title()}.java")] for name in PROGRAMS)
    return Example(subscribe, publish)


def javascript(folder: Path) -> Example:
    need("javascript", "node")
    if not (NODE_MODULES / "zeromq").is_dir():
        pytest.skip("javascript: needs zeromq: npm install --prefix build/node zeromq@6")
    return interpreted("node", "javascript", "js", NODE_PATH=str(NODE_MODULES))


def perl(folder: Path) -> Example:
    need("perl", "perl")
    need_success("perl", "ZMQ::FFI", "perl", "-MZMQ::FFI", "-e", "1")
    return interpreted("perl", "perl", "pl")


def rust(folder: Path) -> Example:
    need("rust", "cargo", "pkg-config")
    need_success("rust", "libzmq", "pkg-config", "--exists", "libzmq")
    shutil.copytree(EXAMPLES / "rust", folder, dirs_exist_ok=True)
    need_success("rust", "its crates", "cargo", "fetch", cwd=folder)
    environ = {**os.environ, "CARGO_TARGET_DIR": str(folder / "target"), "CARGO_PROFILE_DEV_DEBUG": "0"}
    make("cargo", "build", "--quiet", "--offline", cwd=folder, env=environ)
    return compiled(folder / "target" / "debug")


LANGUAGES: list[Callable[[Path], Example]] = [python, c, cpp, go, java, javascript, perl, rust]


@pytest.fixture(scope="module", params=LANGUAGES, ids=lambda build: build.__name__)
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Example:
    built: Example = request.param(tmp_path_factory.mktemp(request.param.__name__))
    return built


# The nodes.


@pytest.fixture(scope="module")
def nodes(shared_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Daemon]]:
    """Two nodes of a cluster, with one history."""
    settings = {"store": shared_server.url, **KEEP_ALL, **DOORS}
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    first = Daemon(tmp_path_factory.mktemp("first"), backend_port=port, **settings)
    try:
        second = Daemon(tmp_path_factory.mktemp("second"), peers=[f"127.0.0.1:{port}"], **settings)
        try:
            for node in (first, second):
                wait_for(partial(connected, node), "the nodes are connected")
            yield first, second
        finally:
            assert second.stop() == 0
    finally:
        assert first.stop() == 0
    assert "Traceback" not in first.log() + second.log()


def connected(node: Daemon) -> bool:
    return [row["state"] for row in node.json("/-/nodes")["nodes"]] == ["self", "connected"]


@dataclass
class Keyed:
    """A node that lets in whoever has these keys."""

    node: Daemon
    environ: dict[str, str]


def keygen(path: Path, data_dir: Path) -> str:
    """Make a key; its public half."""
    argv = command("keygen", str(path), data_dir=data_dir)
    made = daemons.run(argv)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    folder = tmp_path_factory.mktemp("keyed")
    server, client = (keygen(folder / name, folder) for name in ("doors.key", "client.key"))
    may = {"name": "example", "publish": ["*"], "subscribe": ["*"], "history": ["*"]}
    node = Daemon(folder / "node", zmq_key=str(folder / "doors.key"), zmq_keys={client: may}, **KEEP_ALL, **DOORS)
    secret = (folder / "client.key").read_text().strip()
    yield Keyed(node, {"ZMQ_SERVER_KEY": server, "ZMQ_PUBLIC_KEY": client, "ZMQ_SECRET_KEY": secret})
    assert node.stop() == 0
    assert "Traceback" not in node.log(), node.log()


# Running them.


class Subscriber:
    """A run of a language's subscriber; its subscription holds."""

    def __init__(self, argv: list[str], folder: Path, environ: dict[str, str]) -> None:
        self._out = folder / "subscriber.out"
        self._err = folder / "subscriber.err"
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environ)

    def lines(self) -> list[list[str]]:
        """What it has printed: for each message the channel, the cursor and the payload."""
        return [line.split("\t") for line in self._out.read_text().splitlines() if line != "ready"]

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self._err.read_text()
        return self._out.read_text().startswith("ready\n")

    def end(self) -> tuple[int, str]:
        """Its exit code and what it complained of."""
        try:
            return self.process.wait(60), self._err.read_text()
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it has {len(self.lines())} messages, and says {self._err.read_text()!r}") from None


@contextmanager
def subscriber(argv: list[str], folder: Path, environ: dict[str, str]) -> Iterator[Subscriber]:
    running = Subscriber(argv, folder, environ)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def values(by: str, count: int = EACH) -> list[str]:
    """What one publisher publishes."""
    return [json.dumps({"by": by, "n": n}) for n in range(count)]


def batched(items: list[str], size: int) -> Iterator[list[str]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def by_http(node: Daemon, channel: str) -> None:
    for batch in batched(values("http"), UNDER_WAY):
        post(node, channel, *map(json.loads, batch))


def by_websocket(node: Daemon, channel: str) -> None:
    with connect(f"ws://127.0.0.1:{node.port}/-/websocket", proxy=None) as websocket:
        for batch in batched(values("websocket"), UNDER_WAY):
            for value in batch:
                websocket.send(json.dumps({"cmd": "publish", "channel": channel, "data": json.loads(value)}))
            for _ in batch:
                assert "cursor" in json.loads(websocket.recv(timeout=20))


def by_push(node: Daemon, channel: str) -> None:
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.connect(node.doors()["PUSH"])
        for value in values("push", PUSHED):
            push.send_multipart([channel.encode(), value.encode()])


def by_req(node: Daemon, channel: str) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(node.doors()["REQ"])
        for batch in batched(values("req"), UNDER_WAY):
            for value in batch:
                dealer.send_multipart([b"", b"publish", channel.encode(), value.encode()])
            for _ in batch:
                assert dealer.poll(20_000)
                assert dealer.recv_multipart()[:2] == [b"", b"200"]


def by_program(argv: list[str], environ: dict[str, str], count: int) -> None:
    lines = "".join(f"{value}\n" for value in values("program", count))
    done = subprocess.run(argv, input=lines, capture_output=True, text=True, timeout=60, env=environ)
    assert (done.returncode, done.stderr) == (0, "")


def test_all_that_another_node_publishes_comes_in_order(
    example: Example, nodes: tuple[Daemon, Daemon], channel: str, tmp_path: Path
) -> None:
    first, second = nodes
    environ = {**os.environ, **example.environ}
    total = 3 * EACH + 2 * PUSHED
    with subscriber([*example.subscribe, second.doors()["SUB"], channel, str(total)], tmp_path, environ) as running:
        wait_for(running.is_ready, "the subscription holds")
        with ThreadPoolExecutor() as pool:
            jobs = [pool.submit(by, first, channel) for by in (by_http, by_websocket, by_push, by_req)]
            jobs.append(pool.submit(by_program, [*example.publish, first.doors()["PUSH"], channel], environ, PUSHED))
            for job in jobs:
                job.result()
        assert running.end() == (0, "")
    channels, cursors, payloads = zip(*running.lines(), strict=True)
    assert set(channels) == {channel}
    epochs, offsets = zip(*(cursor.split(":") for cursor in cursors), strict=True)
    assert len(set(epochs)) == 1 and list(map(int, offsets)) == list(range(1, total + 1))
    came = defaultdict(list)
    for payload in map(json.loads, payloads):
        came[payload["by"]].append(payload["n"])
    answered, pushed = list(range(EACH)), list(range(PUSHED))
    assert came == {"http": answered, "websocket": answered, "req": answered, "push": pushed, "program": pushed}


def test_with_keys(example: Example, keyed: Keyed, channel: str, tmp_path: Path) -> None:
    environ = {**os.environ, **example.environ, **keyed.environ}
    with subscriber([*example.subscribe, keyed.node.doors()["SUB"], channel, "100"], tmp_path, environ) as running:
        wait_for(running.is_ready, "the subscription holds")
        by_program([*example.publish, keyed.node.doors()["PUSH"], channel], environ, 100)
        assert running.end() == (0, "")
    assert [payload for _, _, payload in running.lines()] == values("program", 100)


def test_late_joiners_miss_nothing_across_restarts(channel: str, tmp_path: Path) -> None:
    """The node is restarted twice while they listen: one to a channel without a message yet, one to one with many."""
    settings: dict[str, Any] = {**KEEP_ALL, **DOORS}
    node = Daemon(tmp_path / "node", **settings)
    join = [sys.executable, str(EXAMPLES / "python" / "join.py"), node.doors()["SUB"], node.doors()["REQ"]]
    settings |= {f"zmq_{name}_port": int(node.doors()[name.upper()].rpartition(":")[2]) for name in ("sub", "req")}
    befores = {f"{channel}.{before}": before for before in (0, 100)}

    def publish(begin: int, end: int) -> None:
        for name, before in befores.items():
            for number in range(max(0, before + begin), before + end):
                node.publish(name, number)

    joined: dict[str, Subscriber] = {}
    try:
        publish(-100, 0)
        with ExitStack() as stack:
            for name, before in befores.items():
                folder = tmp_path / name
                folder.mkdir()
                argv = [*join, name, str(before + 400)]
                joined[name] = stack.enter_context(subscriber(argv, folder, dict(os.environ)))
            for first in (0, 200):
                publish(first, first + 100)
                for running in joined.values():
                    wait_for(running.lines, "it has begun")
                assert node.stop() == 0
                node = Daemon(tmp_path / "node", **settings)
                publish(first + 100, first + 200)
            for running in joined.values():
                assert running.end() == (0, "")
    finally:
        node.stop()
    for name, before in befores.items():
        assert [int(payload) for _, _, payload in joined[name].lines()] == list(range(before + 400))
