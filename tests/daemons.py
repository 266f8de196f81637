"""Real daemons for tests: on a port of the kernel's choice, with a data directory of their own, ended by their pid."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from tests import starter
from tests.starter import Started

ROOT = Path(__file__).parent.parent
# Ports are the kernel's choice. What tests write by hand has "Host: a".
DEFAULTS: dict[str, Any] = {"http_port": 0, "backend_port": 0, "allowed_hosts": ["a"]}
# Seconds to wait for what should come: other tests run beside each, and other programs beside them.
PATIENCE = 60.0
T = TypeVar("T")


def wait_for(condition: Callable[[], T], what: str, timeout: float = PATIENCE, *, every: float = 0.01) -> T:
    """Poll until the condition is true and return what it returned. To ask costs milliseconds, often of all processes
    of a node: so a pause is a tenth of what was waited, at least ``every`` so many seconds, at most a tenth of one."""
    begun = time.monotonic()
    pause = threading.Event()
    while True:
        value = condition()
        if value:
            return value
        waited = time.monotonic() - begun
        assert waited < timeout, f"not within {timeout} s: {what}"
        pause.wait(max(every, min(waited / 10, 0.1)))


def environment(root: Path = ROOT) -> dict[str, str]:
    """This process's environment, without settings for raiden; ``root`` is the checkout that runs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAIDEN_")}
    return {**kept, "PYTHONPATH": str(root)}


def command(*arguments: str, data_dir: Path, **settings: Any) -> list[str]:
    """The command line of a raiden with these settings; what is None is left to the config file."""
    told = {"data_dir": str(data_dir), **settings}
    options = [f"{name} = {value!r}" for name, value in told.items() if value is not None]
    return [sys.executable, "-m", "raiden", *[word for option in options for word in ("-X", option)], *arguments]


def run(words: list[str], variables: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a raiden to its end."""
    given = {**environment(), **(variables or {})}
    if not Daemon.forks:
        return subprocess.run(words, capture_output=True, text=True, env=given, cwd=ROOT, timeout=PATIENCE)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        forks = starter.of(ROOT)
        code = forks.start(words[3:], given, out, err).wait(PATIENCE)
        said = [os.pread(file.fileno(), 1 << 24, 0).decode() for file in (out, err)]
    return subprocess.CompletedProcess(words, code, *said)


class Daemon:
    """A node in the foreground. ``log()`` is all that it has logged; `stop` checks that it ends by itself."""

    host = "127.0.0.1"
    patience = PATIENCE  # seconds for it to be ready
    forks = False  # started as a fork, where nobody measures how that is different (`tests.starter`)
    namespace = ""  # the path of the network namespace that it is in, if it is in one of its own

    def __init__(
        self, folder: Path, *, config: Path | None = None, root: Path = ROOT, variables: dict[str, str] | None = None,
        **settings: Any,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.keeps_history = settings.get("store") != "none"
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "stderr"
        self._out = folder / "stdout"
        extra = ("-C", str(config)) if config else ()
        settings = {"data_dir": folder, **DEFAULTS, **settings}
        given = {**environment(root), **(variables or {})}
        argv = command(*extra, **settings)
        with open(self._log, "wb") as log, open(self._out, "wb") as out:
            self.process: subprocess.Popen[bytes] | Started
            if not self.forks or (self.command_line(argv) != argv and not self.namespace):
                self.process = subprocess.Popen(
                    self.command_line(argv), stdout=out, stderr=log, stdin=subprocess.DEVNULL, env=given, cwd=root
                )
            else:
                forks = starter.of(root)
                self.process = forks.start(argv[3:], given, out, log, self.namespace)
        try:
            self._wait_until_ready()
        except BaseException:
            self.process.kill()  # its children notice
            self.process.wait()
            raise
        self.url = f"http://{self.host}:{self.port}"
        self.pid = self.process.pid
        self._publisher = self.open()

    def _wait_until_ready(self) -> None:
        wait_for(lambda: re.search(r"\bready\b", self.log()) or self.process.poll() is not None, "the daemon is ready",
                 self.patience)  # fmt: skip
        found = re.search(r"\bready\b.*address\W+[\d.]+:(\d+)", self.log())
        assert found, f"the daemon did not start: {self.log()}"
        self.port = int(found.group(1))

    def command_line(self, argv: list[str]) -> list[str]:
        """What is run to start the node."""
        return argv

    def connect(self, timeout: float = PATIENCE) -> socket.socket:
        """A connection to the node's HTTP door."""
        return socket.create_connection((self.host, self.port), timeout)

    def open(self) -> http.client.HTTPConnection:
        """A connection for requests; it does not connect again when it was closed."""
        connection = http.client.HTTPConnection(self.host, self.port)
        connection.sock = self.connect()
        # The head and the body of a request are sent one after the other.
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.auto_open = 0  # only the node knows how to connect
        return connection

    def log(self) -> str:
        return self._log.read_text()

    def banner(self) -> str:
        return self._out.read_text()

    def workers(self) -> dict[str, int]:
        """The pids of the children by name: backbone, history if there is one, worker 0, ..., zeromq if it has doors.
        This is the order in which they are started, so ask before any is replaced."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        names = ["backbone", *(["history"] if self.keeps_history else [])]
        last = ["zeromq"] if self.doors() else []
        names += [f"worker {number}" for number in range(len(children) - len(names) - len(last))] + last
        return dict(zip(names, map(int, children), strict=True))

    def doors(self) -> dict[str, str]:
        """The endpoints of the ZeroMQ doors: SUB, PUSH, REQ."""
        return dict(re.findall(r"\b(SUB|PUSH|REQ) (tcp://[^\s,]+)", self.banner()))

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def signal_all(self, number: int) -> None:
        """Signal all processes of the node, as if its machine were struck."""
        for pid in (self.pid, *self.workers().values()):
            os.kill(pid, number)

    def stop(self, timeout: float = PATIENCE) -> int:
        self.hang_up()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def hang_up(self) -> None:
        """Close the connection that this object keeps: a node that stops waits a while for its clients to close."""
        self._publisher.close()

    def request(
        self, method: str, path: str, body: bytes | str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """One request on a connection of its own."""
        connection = self.open()
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def post_json(self, path: str, value: Any) -> tuple[int, dict[str, str], bytes]:
        return self.request("POST", path, json.dumps(value), {"Content-Type": "application/json"})

    def json(self, path: str) -> Any:
        status, _, body = self.request("GET", path)
        assert status == 200, body
        return json.loads(body)

    def publish(self, channel: str, value: Any) -> None:
        """Publish on the one connection that this object keeps: order holds per connection."""

        def post() -> http.client.HTTPResponse:
            self._publisher.request("POST", f"/{channel}", json.dumps(value), {"Content-Type": "application/json"})
            return self._publisher.getresponse()

        try:
            response = post()
        except (ConnectionError, http.client.HTTPException):
            self._publisher.close()  # a kept connection may have been closed meanwhile
            self._publisher = self.open()
            response = post()
        body = response.read()
        assert response.status in (200, 202), body

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples over the workers."""
        _, _, body = self.request("GET", "/-/metrics")
        total = 0.0
        for line in body.decode().splitlines():
            sample, _, value = line.rpartition(" ")
            if re.fullmatch(rf"{name}(\{{.*\}})?", sample) and all(f'{k}="{v}"' in sample for k, v in labels.items()):
                total += float(value)
        return total


def running(folder: Path, **settings: Any) -> Iterator[Daemon]:
    """A node, for the body of a fixture: it must end in order, and without a traceback."""
    node = Daemon(folder, **settings)
    yield node
    assert node.stop() == 0
    assert "Traceback" not in node.log(), node.log()


def memory(pid: int) -> int:
    """Bytes of memory that a process takes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def post(node: Daemon, channel: str, *values: Any, key: str | None = None) -> list[str]:
    """Publish a batch to a channel with history, under a key; the messages' cursors."""
    headers = {"Content-Type": "application/x-ndjson", **({} if key is None else {"Idempotency-Key": key})}
    status, _, body = node.request("POST", f"/{quote(channel)}", "\n".join(map(json.dumps, values)), headers)
    assert status == 200, body
    cursors: list[str] = json.loads(body)["cursors"]
    return cursors


class Stream:
    """A subscription by HTTP: its head has come, so it is in force. ``position`` is the one that was told last between
    the messages, as far as they were read."""

    def __init__(self, daemon: Daemon, path: str, headers: dict[str, str] | None = None) -> None:
        self._connection = daemon.open()
        self._connection.request("GET", path, headers=headers or {})
        self.response = self._connection.getresponse()
        self.status = self.response.status
        self.position: str | None = None
        self._ahead: list[bytes] = []

    def line(self, *, positions: bool = False) -> bytes:
        """The next line that is no keep-alive, and unless ``positions`` tells more than a position; b'' at the end of
        the stream."""
        while line := self._next():
            if line.startswith(b'{"cursor":'):
                self.position = json.loads(line)["cursor"]
            elif line.startswith(b"id: "):
                after = self._next()
                if after.strip() or positions:
                    self._ahead.append(after)
                    return line.rstrip(b"\n")
                self.position = line[4:].decode().strip()
            elif line.strip() and not line.startswith(b":"):
                return line.rstrip(b"\n")
        return b""

    def _next(self) -> bytes:
        return self._ahead.pop() if self._ahead else self.response.readline()

    def value(self) -> Any:
        return json.loads(self.line())

    def close(self) -> None:
        # The response keeps the socket open of its own.
        self.response.close()
        self._connection.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
