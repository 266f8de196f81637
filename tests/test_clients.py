"""Clients that others wrote, each publishing and subscribing on a real node of two workers."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.daemons import ROOT, Daemon, Stream, wait_for

CLIENTS = Path(__file__).parent / "clients"
NODE_MODULES = ROOT / "build" / "node" / "node_modules"
LONG = "long enough to be worth compressing: " * 200
VALUES = [{"a": [1, "é"]}, "grüße", None, LONG]


def tool(*names: str) -> str:
    """The path of the first of these programs that is installed."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"needs {names[0]}")
    return found


@contextmanager
def running(*command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, text=True, encoding="utf-8", **options) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


# curl.


def curl(*arguments: str) -> list[str]:
    return [tool("curl"), "-sS", "--no-buffer", "--noproxy", "*", "--max-time", "30", *arguments]


def curl_publish(url: str, value: Any) -> None:
    done = subprocess.run(curl("--fail", "--json", json.dumps(value), url), capture_output=True, check=True)
    assert list(json.loads(done.stdout)) == ["cursor"]


@contextmanager
def curl_stream(url: str, *arguments: str) -> Iterator[Callable[[], str]]:
    """A subscription whose head has come; yields what reads its next line that is no keep-alive and no id."""
    # Unlike --include, this shows the head before there is a body.
    with running(*curl("--dump-header", "-", *arguments, url), stdout=subprocess.PIPE) as process:
        output = process.stdout
        assert output and output.readline().startswith("HTTP/1.1 200 ")
        assert any(line == "\n" for line in iter(output.readline, "")), "the head has no end"
        yield lambda: next(line.rstrip("\n") for line in iter(output.readline, "") if line[0] not in "\n:i")


@pytest.mark.parametrize(("arguments", "prefix"), [((), ""), (("--header", "Accept: text/event-stream"), "data: ")])
def test_curl_stream(daemon: Daemon, arguments: tuple[str, ...], prefix: str) -> None:
    url = f"{daemon.url}/curl"
    with curl_stream(url, *arguments) as line:
        for value in VALUES:
            curl_publish(url, value)
            got = line()
            assert got.startswith(prefix) and json.loads(got.removeprefix(prefix)) == value


@pytest.mark.parametrize("framing", [(), ("-H", "Transfer-Encoding: chunked")], ids=["sized", "chunked"])
def test_curl_that_offers_to_upgrade(daemon: Daemon, framing: tuple[str, ...]) -> None:
    """``--http2`` is an offer, which is ignored: two publishes on one connection."""
    url = f"{daemon.url}/curl-http2"
    arguments = ("--http2", "--write-out", " %{http_code}/%{num_connects} ", *framing, "--json", "1", url, url)
    done = subprocess.run(curl(*arguments), capture_output=True, check=True, text=True)
    assert [word for word in done.stdout.split() if "/" in word] == ["200/1", "200/0"]


def test_curl_long_poll(daemon: Daemon) -> None:
    url = f"{daemon.url}/curl-poll"
    for value in VALUES:
        with running(*curl("--fail", f"{url}?_wait=25"), stdout=subprocess.PIPE) as process:
            wait_for(lambda: daemon.metric("raiden_connections", transport="poll"), "the poll is in force")
            curl_publish(url, value)
            answer, _ = process.communicate(timeout=20)
        assert [item["data"] for item in json.loads(answer)["messages"]] == [value]
        wait_for(lambda: not daemon.metric("raiden_connections", transport="poll"), "the poll is over")


# Python's websockets, and Node's ws.


class PythonSocket:
    """One socket of `websockets`."""

    def __init__(self, url: str, deflate: bool, stack: ExitStack) -> None:
        compression: Literal["deflate"] | None = "deflate" if deflate else None
        self._socket = stack.enter_context(connect(url, compression=compression, proxy=None))
        self.deflate = bool(self._socket.protocol.extensions)

    def send(self, data: str | bytes) -> None:
        self._socket.send(data)

    def receive(self) -> str | bytes:
        return self._socket.recv(timeout=20)

    def close(self) -> int | None:
        self._socket.close()
        return self._socket.close_code


class NodeSocket:
    """One socket of `ws`, in a process of its own."""

    def __init__(self, url: str, deflate: bool, stack: ExitStack) -> None:
        node = tool("node")
        if not (NODE_MODULES / "ws").is_dir():
            pytest.skip("needs ws: npm install --prefix build/node ws@8")
        command = [node, str(CLIENTS / "ws.js"), url, json.dumps(deflate)]
        environ = {**os.environ, "NODE_PATH": str(NODE_MODULES)}
        pipe = subprocess.PIPE
        self._process = stack.enter_context(running(*command, env=environ, stdin=pipe, stdout=pipe))
        self.deflate = self._event("open") == "permessage-deflate"

    def _event(self, *names: str) -> Any:
        assert self._process.stdout
        [(name, value)] = json.loads(self._process.stdout.readline()).items()
        assert name in names, (name, value)
        return bytes.fromhex(value) if name == "binary" else value

    def send(self, data: str | bytes) -> None:
        assert self._process.stdin
        print(json.dumps({"text": data} if isinstance(data, str) else {"binary": data.hex()}), file=self._process.stdin)
        self._process.stdin.flush()

    def receive(self) -> str | bytes:
        got: str | bytes = self._event("text", "binary")
        return got

    def close(self) -> int:
        assert self._process.stdin
        self._process.stdin.close()
        code: int = self._event("close")
        return code


SOCKETS: list[type[PythonSocket] | type[NodeSocket]] = [PythonSocket, NodeSocket]
Open = Callable[[str], PythonSocket | NodeSocket]


@pytest.fixture(params=[f"{kind.__name__}-{deflate}" for kind in SOCKETS for deflate in ("deflate", "plain")])
def sockets(daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens sockets of one kind; as they are asked for, they are compressed or not."""
    name, _, how = request.param.partition("-")
    kind = next(kind for kind in SOCKETS if kind.__name__ == name)
    with ExitStack() as stack:

        def open(path: str) -> PythonSocket | NodeSocket:
            socket = kind(f"ws://{daemon.host}:{daemon.port}{path}", how == "deflate", stack)
            assert socket.deflate == (how == "deflate")
            return socket

        yield open


def test_socket_of_a_channel(daemon: Daemon, sockets: Open) -> None:
    socket, other = sockets("/socket"), sockets("/socket")
    for value in VALUES:
        text = json.dumps(value, ensure_ascii=False)
        socket.send(text)
        assert [json.loads(each.receive()) for each in (socket, other)] == [value, value]
    for data in (b"\0\xff", LONG.encode()):
        socket.send(data)
        assert [each.receive() for each in (socket, other)] == [data, data]
    daemon.publish("socket", "by HTTP")
    assert [each.receive() for each in (socket, other)] == ['"by HTTP"', '"by HTTP"']
    assert [each.close() for each in (socket, other)] == [1000, 1000]


def test_socket_of_many_channels(daemon: Daemon, sockets: Open) -> None:
    publisher, subscriber = sockets("/-/websocket"), sockets("/-/websocket")
    numbers = count(1)

    def command(socket: PythonSocket | NodeSocket, cmd: str, **arguments: Any) -> dict[str, Any]:
        number = next(numbers)
        socket.send(json.dumps({"id": number, "cmd": cmd, **arguments}))
        reply: dict[str, Any] = json.loads(socket.receive())
        assert reply.pop("id") == number
        return reply

    for channel in ("many.a", "many.b"):
        assert command(subscriber, "subscribe", channel=channel)["channel"] == channel
    cursors: dict[str, str] = {}
    for value in VALUES:
        for channel in ("many.a", "many.none", "many.b"):
            cursors[channel] = command(publisher, "publish", channel=channel, data=value)["cursor"]
        pushes = [json.loads(subscriber.receive()) for _ in range(2)]
        assert pushes == [
            {"channel": channel, "data": value, "cursor": cursors[channel]} for channel in ("many.a", "many.b")
        ]
    assert command(subscriber, "unsubscribe", channel="many.a") == {"channel": "many.a"}
    daemon.publish("many.a", "not for it any more")
    daemon.publish("many.b", "by HTTP")
    assert json.loads(subscriber.receive())["data"] == "by HTTP"
    assert [each.close() for each in (publisher, subscriber)] == [1000, 1000]


# Chromium.

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
]


class PageLeft(Exception):
    """The browser went to another page while it evaluated an expression in this one."""


class Browser:
    """A Chromium by its DevTools protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = count(1)

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        command = {"id": next(self._numbers), "method": method, "params": params}
        self._socket.send(json.dumps(command if session is None else {**command, "sessionId": session}))
        while True:
            answer = json.loads(self._socket.recv(timeout=20))
            if answer.get("id") == command["id"]:
                if "navigated" in answer.get("error", {}).get("message", ""):
                    raise PageLeft
                assert "result" in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    @contextmanager
    def page(self, url: str) -> Iterator[Callable[[], dict[str, str]]]:
        """Open a page; yields what reads its body's data-* attributes."""
        target = self.call("Target.createTarget", url=url)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        script = {"expression": "({...document.body?.dataset})", "returnByValue": True}
        yield lambda: self.call("Runtime.evaluate", session, **script)["result"]["value"]
        self.call("Target.closeTarget", targetId=target)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium = tool("chromium", "chromium-browser", "google-chrome")
    folder = tmp_path_factory.mktemp("chromium")
    environ = {**os.environ, "HOME": str(folder), "TMPDIR": str(folder)}
    with running(
        chromium, *FLAGS, f"--user-data-dir={folder}", env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        found = folder / "DevToolsActivePort"
        opened = wait_for(
            lambda: process.poll() is not None or (found.exists() and found.read_text().count("\n") and "yes"),
            "its DevTools port is open",
        )
        assert opened == "yes", f"{chromium} ended with {process.returncode}"
        port, path = found.read_text().split()
        with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, compression=None, proxy=None) as socket:
            yield Browser(socket)


class Files(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def page_port() -> Iterator[int]:
    """The port of a web server with the page."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(CLIENTS))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_page(browser: Browser, page_port: int, start: Callable[..., Daemon]) -> None:
    node = start(workers=2, allowed_origins=[f"http://127.0.0.1:{page_port}"])
    address = f"{page_port}/page.html?url={quote(f'{node.url}/page', safe='')}"
    with Stream(node, "/page") as stream:
        with browser.page(f"http://localhost:{address}") as report:
            wait_for(lambda: "tried" in report(), "the page of another origin has tried everything")
            assert report() == {
                "event": "refused", "socket": "refused", "fetch": "TypeError", "simple": "0", "tried": "all",
            }  # fmt: skip
        with browser.page(f"http://127.0.0.1:{address}") as report:
            wait_for(lambda: "tried" in report(), "the page has tried everything")
            node.publish("page", "by HTTP")
            # Each came by a connection of its own, so in any order. None is by the page of another origin.
            expected = sorted(['{"by":"fetch"}', '"by a simple request"', '{"by":"socket"}', '"by HTTP"'])
            assert sorted(stream.line().decode() for _ in expected) == expected

            def received(name: str) -> list[str]:
                values = json.loads(report().get(name, "[]"))
                return sorted(json.dumps(value, separators=(",", ":")) for value in values)

            for name in ("eventGot", "socketGot"):
                wait_for(lambda name=name: len(received(name)) >= len(expected), f"all in {name}")  # type: ignore[misc]
                assert received(name) == expected
            got = report()
            assert (got["event"], got["socket"], got["fetch"], got["simple"]) == ("open", "open", "200", "0")
            assert got["extensions"].startswith("permessage-deflate")


# Two workers.


def test_both_workers_serve_all(start: Callable[..., Daemon]) -> None:
    node = start(workers=2)
    workers = ("0", "1")
    messages = 200
    with ExitStack() as stack:
        streams: list[Stream] = []
        sockets: list[ClientConnection] = []

        def subscribed() -> bool:
            streams.append(stack.enter_context(Stream(node, "/all")))
            sockets.append(stack.enter_context(connect(f"{node.url.replace('http', 'ws')}/all", proxy=None)))
            transports = ("stream", "websocket")
            return all(node.metric("raiden_connections", worker=w, transport=t) for w in workers for t in transports)

        publishers: dict[str, http.client.HTTPConnection] = {}

        def publish(connection: http.client.HTTPConnection, channel: str, value: Any) -> None:
            connection.request("POST", channel, json.dumps(value), {"Content-Type": "application/json"})
            response = connection.getresponse()
            assert (response.status, response.read()[:10]) == (200, b'{"cursor":')

        def both_publish() -> bool:
            connection = http.client.HTTPConnection(node.host, node.port, timeout=20)
            stack.callback(connection.close)
            before = {worker: node.metric("raiden_published_total", worker=worker) for worker in workers}
            publish(connection, "/elsewhere", "which worker is this?")
            [worker] = [w for w in workers if node.metric("raiden_published_total", worker=w) > before[w]]
            publishers[worker] = connection
            return len(publishers) == len(workers)

        wait_for(subscribed, "both workers have subscribers")
        wait_for(both_publish, "both workers have a publisher")
        for number in range(messages):
            for worker, connection in publishers.items():
                publish(connection, "/all", [worker, number])
        total = messages * len(workers)
        for received in (
            *([stream.value() for _ in range(total)] for stream in streams),
            *([json.loads(socket.recv(timeout=20)) for _ in range(total)] for socket in sockets),
        ):
            for worker in workers:
                assert [number for by, number in received if by == worker] == list(range(messages))
