"""Stores for tests: each engine, on a file or a real server of its own, with a clock that a test may move."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from raiden.history.redis import Redis
from raiden.history.sqlite import Sqlite
from raiden.history.store import Append, Appended, Store, StoreFailed
from raiden.model.options import Durability
from raiden.model.page import Page
from tests.daemons import wait_for


class Clock:
    """Microseconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000_000

    def __call__(self) -> int:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += int(seconds * 1_000_000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


class RedisServer:
    """A server that flushes every append to the disk, on a socket in ``folder``; ``url`` is another way to it that
    the options make."""

    def __init__(self, folder: Path, *options: str, url: str | None = None) -> None:
        self.folder = folder
        self.options = options
        self.url = url or f"unix://{folder / 'socket'}"
        self.start()

    def start(self) -> None:
        """Start it with what an earlier life left, and return when it answers."""
        self._repair()
        command = ["redis-server", "--port", "0", "--unixsocket", str(self.folder / "socket")]
        command += ["--dir", str(self.folder), "--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        command += self.options
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for(self._answers, f"redis-server answers; its log is {self.folder / 'log'}")
        except BaseException:  # raised again: nobody else will end it
            self.kill()
            raise

    def _repair(self) -> None:
        """Take a transaction that was half written off the end of the file. The server would only take off the command
        that was, and at its next start the others would be taken for a part of what followed (valkey pull request
        4342)."""
        for manifest in self.folder.glob("appendonlydir/*.manifest"):
            command = ["redis-check-aof", "--fix", str(manifest)]
            done = subprocess.run(command, input=b"y\n", capture_output=True, check=False, timeout=60)
            assert b"manifest are valid" in done.stdout, done.stdout

    def _answers(self) -> bool:
        store = Redis(self.url)
        try:
            store.positions(["a"])
        except StoreFailed as error:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            return "is a replica" in str(error)
        finally:
            store.close()
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


Soon = Callable[[Callable[[], object], str], None]


@pytest.fixture
def soon(clock: Clock) -> Soon:
    """Waits for a condition that time brings about, by whichever clock; seconds are not longer than they are."""

    def soon(condition: Callable[[], object], what: str) -> None:
        def polled() -> object:
            clock.pass_by(0.01)
            return condition()

        wait_for(polled, what)

    return soon


@pytest.fixture(scope="session")
def installed_redis() -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server")


@pytest.fixture(scope="session")
def shared_server(installed_redis: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def redis_server(shared_server: RedisServer) -> RedisServer:
    """An empty one."""
    with redis.Redis.from_url(shared_server.url) as client:
        client.flushall()
    return shared_server


@pytest.fixture
def own_server(installed_redis: None, tmp_path: Path) -> Iterator[RedisServer]:
    """One that the test may kill."""
    server = RedisServer(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def open_sqlite(tmp_path: Path, clock: Clock) -> Iterator[Callable[[], Sqlite]]:
    stores = []

    def open_sqlite() -> Sqlite:
        stores.append(Sqlite(tmp_path / "state" / "history.db", clock=clock))
        return stores[-1]

    yield open_sqlite
    for store in stores:
        store.close()


@pytest.fixture
def sqlite_store(open_sqlite: Callable[[], Sqlite]) -> Sqlite:
    return open_sqlite()


@pytest.fixture
def open_redis(redis_server: RedisServer) -> Iterator[Callable[[], Redis]]:
    stores = []

    def open_redis() -> Redis:
        stores.append(Redis(redis_server.url))
        return stores[-1]

    yield open_redis
    for store in stores:
        store.close()


@pytest.fixture
def redis_store(open_redis: Callable[[], Redis]) -> Redis:
    return open_redis()


@pytest.fixture(params=["sqlite", "redis"])
def open_store(request: pytest.FixtureRequest) -> Callable[[], Store]:
    """Opens stores on the same history, with each engine."""
    return request.getfixturevalue(f"open_{request.param}")


@pytest.fixture
def store(open_store: Callable[[], Store]) -> Store:
    return open_store()


def append(store: Store, channel: str, *payloads: bytes, size: int = 100, ttl: float = 300.0, key: str | None = None,
           durability: Durability = Durability.STORED, retain: float = 0.0) -> Appended:  # fmt: skip
    messages = [(0, payload) for payload in payloads]
    (appended,) = store.append([Append(channel, messages, size, ttl, key, durability, retain)])
    return appended


def payloads(page: Page) -> list[bytes]:
    return [record.payload for record in page.records]
