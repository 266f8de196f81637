"""Redis as a server: where it is, who may use it, what it refuses, and another that takes its place."""

from __future__ import annotations

import fcntl
import shutil
import signal
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from raiden.history.redis import Redis
from raiden.history.server import stands
from raiden.history.store import Append, StoreFailed
from raiden.model.message import Cursor
from raiden.model.page import Gap
from tests.daemons import wait_for
from tests.stores import RedisServer, append, payloads
from tests.test_daemon import free_port

# Others who use the server at the same time.


class Overtaken(Redis):
    """A store that is overtaken: where it looks for the place of a new channel, another one has just begun that."""

    def begin(self, channels: Sequence[str]) -> dict[str, Cursor]:
        for channel in channels:
            append(self, channel, b"1")
        return super().begin(channels)


@pytest.fixture
def overtaken(redis_server: RedisServer) -> Iterator[Overtaken]:
    store = Overtaken(redis_server.url)
    yield store
    store.close()


def test_a_channel_begins_while_its_place_is_looked_for(overtaken: Overtaken) -> None:
    new = Redis.begin(overtaken, ["a", "b"])
    found = stands(overtaken, ["a", "b"])
    assert found == overtaken.positions(["a", "b"])
    for channel, (position, _) in found.items():
        assert (position.epoch, position.offset) == (new[channel].epoch, 1)


def test_a_channel_begins_while_a_page_of_it_is_looked_for(overtaken: Overtaken) -> None:
    place = Redis.begin(overtaken, ["a"])["a"]
    page = overtaken.after("a", place, 9)
    assert page.gap is None and payloads(page) == [b"1"]


# Servers that are not as they should be.


def test_redis_fails_a_group_as_a_whole(redis_store: Redis, redis_server: RedisServer) -> None:
    append(redis_store, "a", b"1")
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_set("maxmemory", 1)
        try:
            with pytest.raises(StoreFailed, match=r"fails: .*maxmemory") as failure:
                redis_store.append([Append("a", [(0, b"secret")]), Append("b", [(0, b"2")])])
        finally:
            client.config_set("maxmemory", 0)
    assert "secret" not in str(failure.value) and len(str(failure.value)) < 300
    assert payloads(redis_store.after("a", None, 9)) == [b"1"] and redis_store.positions(["b"]) == {}
    assert append(redis_store, "a", b"2").offsets == range(2, 3)


@pytest.mark.parametrize(
    "garbage",
    [
        {"epoch": b"\xff", "next": 3},
        {"epoch": "e"},
        {"epoch": "e", "next": "x"},
        {"epoch": "e", "next": "1e300"},
        b"text",
    ],
)
def test_what_others_have_written_fails_a_call_and_nothing_else(
    redis_store: Redis, redis_server: RedisServer, garbage: dict[str, object] | bytes
) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        if isinstance(garbage, bytes):
            client.set("raiden:{a}:meta", garbage)
        else:
            client.hset("raiden:{a}:meta", mapping=garbage)
        client.hset("raiden:kept:x", mapping={"holder": b"\xff", "value": b""})
        client.xadd("raiden:{a}:stream", {"kind": "x"}, id="1-0")
    for call in (
        lambda: redis_store.after("a", None, 9),
        lambda: redis_store.before("a", None, 9),
        lambda: redis_store.positions(["a"]),
        lambda: redis_store.claim("a", "d", 1, 1.0),
        lambda: redis_store.take("x", "me"),
        lambda: append(redis_store, "a", b"1"),
    ):
        try:
            call()
        except StoreFailed:
            continue
    assert append(redis_store, "b", b"1").offsets == range(1, 2)


def test_redis_takes_its_scripts_again(redis_store: Redis, redis_server: RedisServer) -> None:
    append(redis_store, "a", b"1")
    with redis.Redis.from_url(redis_server.url) as client:
        client.script_flush()
    redis_store.append([Append("a", [(0, b"2")]), Append("a", [(0, b"3")])])
    assert payloads(redis_store.after("a", None, 9)) == [b"1", b"2", b"3"]


def test_a_redis_that_ends_before_its_answer_leaves_it_open(own_server: RedisServer) -> None:
    """What was sent to it may be stored; what could not be sent is not."""
    store = Redis(own_server.url)
    append(store, "a", b"1")
    (connection,) = store._redis.connection_pool._available_connections
    own_server.process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor() as pool:
        failure = pool.submit(append, store, "a", b"2")
        wait_for(lambda: any(fcntl.ioctl(connection._sock, termios.TIOCOUTQ, bytes(4))), "it was sent, and is not read")
        own_server.kill()
        with pytest.raises(StoreFailed, match="nobody knows whether the message was stored"):
            failure.result()
    with pytest.raises(StoreFailed) as refused:
        append(store, "a", b"3")
    assert "nobody knows" not in str(refused.value)
    own_server.start()
    assert b"3" not in payloads(store.after("a", None, 9))
    store.close()


def test_a_stopped_redis_fails_in_time(own_server: RedisServer) -> None:
    store = Redis(own_server.url, timeout=0.2)
    append(store, "a", b"1")
    own_server.process.send_signal(signal.SIGSTOP)
    begin = time.monotonic()
    try:
        with pytest.raises(StoreFailed, match="Timeout"):
            store.after("a", None, 9)
    finally:
        own_server.process.send_signal(signal.SIGCONT)
    assert time.monotonic() - begin < 2
    assert payloads(store.after("a", None, 9)) == [b"1"], "the late answer is nobody's"
    store.close()


def test_redis_tells_no_password() -> None:
    store = Redis("redis://user:secret@127.0.0.1:1/0")
    with pytest.raises(StoreFailed, match=r"the history at redis://127\.0\.0\.1:1/0 fails: ") as failure:
        store.clear("a")
    assert "secret" not in str(failure.value)


def test_names_in_redis_are_never_two_channels(redis_store: Redis) -> None:
    names = ["a", "}", "a}:stream", "{a}", "a%7D:stream", "a}:key:k", "%"]
    for name in names:
        append(redis_store, name, name.encode(), key="k}:meta")
    assert [payloads(redis_store.after(name, None, 9)) for name in names] == [[name.encode()] for name in names]


def test_a_server_that_refuses_writes_is_not_ready(redis_store: Redis, redis_server: RedisServer) -> None:
    redis_store.check()
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_set("maxmemory", 1)
        with pytest.raises(StoreFailed, match="maxmemory"):
            redis_store.check()
        client.config_set("maxmemory", 0)
        client.replicaof("127.0.0.1", 1)
        try:
            with pytest.raises(StoreFailed, match=r"read.?only"):
                redis_store.check()
        finally:
            client.replicaof("NO", "ONE")
    redis_store.check()


# Where it is, and who may use it.


@pytest.mark.parametrize(
    "url",
    [
        "ftp://somewhere", "sqlite", "", "redis:/host", "redis://host:secret", "redis://host:99999", "redis://host:0",
        "redis://host/secret", "redis://:pass/secret@host", "redis://[::1", "unix://", "unix://host/path",
        "redis://host?secret=1", "redis://host?socket_timeout=secret", "redis+sentinel://host", "redis+sentinel://host/",
        "redis+sentinel:///secret", "redis+sentinel://a:1,b:secret/s", "redis+sentinel://a,,b/s",
        "redis+sentinel://a/s/secret", "redis+sentinel://a/s?x=1",
    ],
)  # fmt: skip
def test_a_url_is_judged_without_connecting(url: str) -> None:
    with pytest.raises(ValueError, match=r"is no URL of a Redis server: write redis://HOST:PORT/DB, ") as failure:
        Redis(url)
    assert "secret" not in str(failure.value) and failure.value.__suppress_context__


@pytest.mark.parametrize(
    "url",
    [
        "redis://host", "redis://user:p%40ss@[::1]:6379/3", "rediss://host:6380/0?ssl_ca_certs=/ca.pem",
        "unix:///run/redis?db=2", "unix://user:pass@/run/redis", "redis+sentinel://host/service",
        "redis+sentinel://user:p%40ss@[::1]:26379,b/service/3",
    ],
)  # fmt: skip
def test_a_good_url(url: str) -> None:
    store = Redis(url)
    assert "p%40ss" not in store._where and "pass" not in store._where
    store.close()


@pytest.fixture
def secured_server(installed_redis: None, tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path, "--requirepass", "right", url=f"unix://:right@{tmp_path / 'socket'}")
    yield server
    server.stop()


def test_a_password(secured_server: RedisServer) -> None:
    store = Redis(secured_server.url)
    assert append(store, "a", b"1").offsets == range(1, 2)
    store.close()
    for login, why in [(":wrong@", "invalid username-password pair"), ("", "Authentication required")]:
        store = Redis(f"unix://{login}{secured_server.folder / 'socket'}")
        with pytest.raises(StoreFailed, match=rf"the history at unix:///.* fails: {why}") as failure:
            append(store, "a", b"2")
        assert "wrong" not in str(failure.value)
        with pytest.raises(StoreFailed, match=why):
            store.check()
        store.close()


def certify(folder: Path) -> None:
    """An authority, and a server's certificate for 127.0.0.1."""
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    for command in (
        [*new, "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem"],
        [*new, "-subj", "/CN=server", "-keyout", "server.key", "-out", "server.pem", "-CA", "ca.pem", "-CAkey",
         "ca.key", "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"],
        [*new, "-subj", "/CN=another", "-keyout", "another.key", "-out", "another.pem"],
    ):  # fmt: skip
        subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.mark.usefixtures("installed_redis")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_tls(tmp_path: Path) -> None:
    refused = subprocess.run(["redis-server", "--port", "0", "--tls-replication", "x"], capture_output=True, text=True)
    if "argument must be 'yes' or 'no'" not in refused.stdout + refused.stderr:
        pytest.skip("this redis-server has no TLS")
    certify(tmp_path)
    port = free_port()
    files = {"cert": "server.pem", "key": "server.key", "ca-cert": "ca.pem"}
    options = [word for name, file in files.items() for word in (f"--tls-{name}-file", str(tmp_path / file))]
    url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={tmp_path}"
    options += ["--tls-port", str(port), "--tls-auth-clients", "no"]
    server = RedisServer(tmp_path, *options, url=f"{url}/ca.pem")
    store, stranger = Redis(server.url), Redis(f"{url}/another.pem")
    try:
        assert append(store, "a", b"1").offsets == range(1, 2)
        with pytest.raises(StoreFailed, match=r"the history at rediss://127\.0\.0\.1:\d+/0 fails: .*certificate"):
            append(stranger, "a", b"2")
    finally:
        store.close()
        stranger.close()
        server.stop()


@pytest.fixture
def watched_servers(installed_redis: None, tmp_path: Path) -> Iterator[tuple[list[RedisServer], str]]:
    """A master and its replica, and the URL of a Sentinel that watches them."""
    servers: list[RedisServer] = []
    master, replica, watcher = (free_port() for _ in range(3))
    for port, options in [(master, ()), (replica, ("--replicaof", "127.0.0.1", str(master)))]:
        folder = tmp_path / str(port)
        folder.mkdir()
        # "--port 0" stands before it: the last one counts.
        servers.append(RedisServer(folder, "--port", str(port), "--repl-diskless-sync-delay", "0", *options))
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {watcher}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor history 127.0.0.1 {master} 1\n"
        "sentinel down-after-milliseconds history 500\nsentinel failover-timeout history 5000\n"
    )
    with open(tmp_path / "sentinel.log", "wb") as log:
        sentinel = subprocess.Popen(["redis-server", str(config), "--sentinel"], stdout=log, stderr=log)
    yield servers, f"redis+sentinel://127.0.0.1:{watcher}/history/0"
    sentinel.terminate()
    sentinel.wait(20)
    for server in servers:
        server.kill()  # in order, they would wait for each other


def test_sentinels_tell_which_server(watched_servers: tuple[list[RedisServer], str]) -> None:
    """The master is killed, and the replica takes its place."""
    (master, replica), url = watched_servers
    store = Redis(url, timeout=1.0)

    def works() -> bool:
        try:
            store.check()
        except StoreFailed:
            return False
        return True

    wait_for(works, "the Sentinel knows the master")
    before = append(store, "a", b"1", b"2")
    with redis.Redis.from_url(f"{url.replace('+sentinel', '').removesuffix('/history/0')}") as client:
        wait_for(lambda: client.sentinel_master("history")["num-slaves"] == 1, "the Sentinel knows the replica")
    with redis.Redis.from_url(replica.url) as client:
        wait_for(lambda: client.exists("raiden:{a}:stream"), "the replica has what was appended")
    master.kill()
    with pytest.raises(StoreFailed, match=r"the history at redis\+sentinel://.*/history/0 fails: "):
        store.check()
    wait_for(works, "the replica is the master")
    assert append(store, "a", b"3").offsets == range(3, 4)
    page = store.after("a", before.cursors()[1], 9)
    assert (payloads(page), page.gap) == ([b"3"], None)
    store.close()


def test_a_replica_that_was_behind(watched_servers: tuple[list[RedisServer], str]) -> None:
    """It becomes the master without the last messages: who has them is told, and gets what follows."""
    (master, replica), url = watched_servers
    store = Redis(url, timeout=1.0)

    def works() -> bool:
        try:
            store.check()
        except StoreFailed:
            return False
        return True

    wait_for(works, "the Sentinel knows the master")
    kept = append(store, "a", b"1", b"2").cursors()
    with redis.Redis.from_url(f"{url.replace('+sentinel', '').removesuffix('/history/0')}") as client:
        wait_for(lambda: client.sentinel_master("history")["num-slaves"] == 1, "the Sentinel knows the replica")
    with redis.Redis.from_url(replica.url) as client:
        wait_for(lambda: client.xlen("raiden:{a}:stream") == 2, "the replica has what was appended")
    with redis.Redis.from_url(master.url) as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "replica")
        replica.process.send_signal(signal.SIGSTOP)
        client.execute_command("CLIENT", "KILL", "TYPE", "replica")
    lost = append(store, "a", b"3", b"4").cursors()
    master.kill()
    replica.process.send_signal(signal.SIGCONT)
    wait_for(works, "the replica is the master")
    new = append(store, "a", b"5").cursors()
    assert new[0].offset == lost[0].offset and new[0].epoch != lost[0].epoch
    for cursor in lost:
        page = store.after("a", cursor, 9)
        assert (payloads(page), page.gap) == ([b"5"], Gap(cursor.epoch, 0, 0))
    page = store.after("a", kept[1], 9)
    assert (payloads(page), page.gap) == ([b"5"], None)
    store.close()


def test_a_server_that_is_a_replica(watched_servers: tuple[list[RedisServer], str]) -> None:
    """What it has may be old, as when it was started again and a Sentinel still takes it for the master: nothing is
    read there."""
    (master, replica), _ = watched_servers
    store, other = Redis(master.url), Redis(replica.url)
    cursor = append(store, "a", b"1").cursors()[0]
    for ask in (lambda: other.after("a", cursor, 9), lambda: other.positions(["a"]), other.check):
        with pytest.raises(StoreFailed, match="is a replica"):
            ask()
    with redis.Redis.from_url(replica.url) as client:
        client.replicaof("NO", "ONE")
        other.check()
        client.replicaof("127.0.0.1", 1)
        with pytest.raises(StoreFailed):
            append(other, "a", b"2")
        with pytest.raises(StoreFailed, match="is a replica"):
            other.after("a", None, 9)
        client.replicaof("NO", "ONE")
    other.check()
    store.close()
    other.close()


def test_a_service_that_sentinels_do_not_know(watched_servers: tuple[list[RedisServer], str]) -> None:
    _, url = watched_servers
    store = Redis(url.replace("history", "other"), timeout=1.0)
    with pytest.raises(StoreFailed, match="other"):
        store.check()
    store.close()
