"""What a node's history survives: kills amid the work, and data directories that are not as they should be."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from raiden.history.sqlite import Sqlite
from raiden.model.chain import ROOT_DIGITS
from raiden.model.message import Cursor
from tests.daemons import ROOT, Daemon, Stream, command, environment, run, wait_for

JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}
# How often a node is killed, and after how many messages at least.
KILLS, EACH = int(os.environ.get("TESTS_KILLS", "12")), 2_500
BATCH, CONNECTIONS = 50, 4


# Kills.


class Publisher(threading.Thread):
    """Publishes batches of its own numbers on one connection until that breaks; ``acked`` is what was answered."""

    def __init__(self, node: Daemon, first: int) -> None:
        super().__init__()
        self.acked: dict[str, int] = {}
        self.wrong: list[str] = []
        self._connection = node.open()
        self._next = first

    def run(self) -> None:
        with closing(self._connection):
            try:
                while self._publish():
                    pass
            except (OSError, http.client.HTTPException):
                pass  # it was killed

    def _publish(self) -> bool:
        values = range(self._next, self._next + BATCH)
        self._next += BATCH
        self._connection.request("POST", "/killed", "\n".join(map(str, values)), NDJSON)
        response = self._connection.getresponse()
        body = response.read()
        if response.status == 200:
            self.acked.update(zip(json.loads(body)["cursors"], values, strict=True))
            return True
        self.wrong.append(f"{response.status} {body!r}")
        return False


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nodes make their sockets where they are removed after the test: who is killed can't."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield


def test_what_was_acknowledged_survives_kills(tmp_path: Path, sockets: None) -> None:
    """30,000 messages, and all processes of the node killed 12 times in the middle of it. After each, a client that
    comes back misses nothing of what was acknowledged."""
    settings: dict[str, Any] = {"workers": 2, "channels": {"*": {"history_size": 10**7, "history_ttl": 3600}}}
    folder = tmp_path / "node"
    acked: dict[str, int] = {}
    stored: dict[str, int] = {}
    seen = "earliest"

    def read(node: Daemon) -> None:
        """All that is new in the history."""
        nonlocal seen
        newest = json.loads(node.request("POST", "/killed", "0", JSON)[2])["cursor"]
        with Stream(node, f"/killed?_wrap=1&_since={seen}") as stream:
            assert stream.response.headers["Raiden-Recovered"] == "true"
            while seen != newest:
                line = stream.value()
                assert stored.setdefault(line["cursor"], line["data"]) == line["data"], "no offset is used twice"
                seen = line["cursor"]

    for life in range(KILLS + 1):
        node = Daemon(folder, **settings)
        try:
            read(node)
            assert acked.items() <= stored.items(), f"life {life} lost {len(acked.items() - stored.items())}"
            if life < KILLS:
                first = 10_000_000 * (life + 1)
                publishers = [Publisher(node, first + number * 1_000_000) for number in range(CONNECTIONS)]
                for publisher in publishers:
                    publisher.start()
                wait_for(lambda: sum(len(each.acked) for each in publishers) >= EACH, "so many are acknowledged")  # noqa: B023
                # All at one moment: a worker that outlived the history would say that nothing more is stored.
                node.signal_all(signal.SIGSTOP)
                node.signal_all(signal.SIGKILL)
                node.process.wait(20)
                for publisher in publishers:
                    publisher.join(20)
                    assert not publisher.wrong and not acked.keys() & publisher.acked.keys()
                    acked.update(publisher.acked)
        finally:
            node.stop()
    assert len(acked) >= KILLS * EACH
    assert len({cursor[:ROOT_DIGITS] for cursor in stored}) == 1, "each life has an epoch of its own in one history"
    store = Sqlite(folder / "history.sqlite")
    page = store.after("killed", None, 10**9)
    offsets = []
    while page.records:
        offsets += [record.offset for record in page.records]
        page = store.after("killed", Cursor(page.epoch, offsets[-1]), 10**9)
    store.close()
    assert offsets == list(range(1, len(stored) + 1)), "without holes"


@contextmanager
def traced(node: Daemon, path: Path) -> Iterator[None]:
    """Trace the history process while it works."""
    pid = node.workers()["history"]
    calls = "trace=write,writev,sendto,sendmsg,pwrite64,fsync,fdatasync"
    tracer = ["strace", "-f", "-y", "-s", "64", "-o", str(path), "-e", calls, "-p", str(pid)]
    with subprocess.Popen(tracer, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        said = process.stderr.readline()
        try:
            if "attached" not in said:
                pytest.skip(f"strace can't trace here: {said}")
            yield
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("ack", ["stored", "synced"])
def test_synced_is_flushed_before_the_answer(start: Callable[..., Daemon], tmp_path: Path, ack: str) -> None:
    """As the kernel sees it: what is written to the history's log is flushed before the socket gets the answer."""
    node = start(channels={"*": {}, "chosen": {"ack": ack}})
    trace = tmp_path / "trace"
    assert node.post_json("/chosen", "warm")[0] == 200
    with traced(node, trace):
        for number in range(5):
            assert node.post_json("/chosen", number)[0] == 200
    events = ""
    for line in trace.read_text().splitlines():
        log = "history.sqlite-wal" in line
        if log and "pwrite64(" in line:
            events += "w"
        elif log and re.search(r"f(data)?sync\(", line):
            events += "f"
        elif "history.sqlite" not in line and re.search(r"(sendto|sendmsg|write|writev)\(\d+<(UNIX|socket):", line):
            events += "a"
    # Nothing but appends writes to the log; other answers have nothing before them.
    commits = re.findall(r"w[wf]*a", events)
    assert len(commits) == 5, events
    flushed = [bool(re.fullmatch(r"w+f+a", commit)) for commit in commits]
    assert flushed == [ack == "synced"] * 5, events


# Data directories.


def refused(folder: Path, **settings: Any) -> str:
    """What a node says that can't start; it must end by itself, and leave no process."""
    argv = command(data_dir=folder, **{"http_port": 0, "backend_port": 0, **settings})
    process = run(argv)
    assert process.returncode == 1 and "Traceback" not in process.stderr, process.stderr
    last = process.stderr.splitlines()[-1]
    assert last.startswith("raiden: "), process.stderr
    return last


def test_a_damaged_file(tmp_path: Path) -> None:
    """It is set aside, and the log says so; the node lives."""
    folder = tmp_path / "node"
    node = Daemon(folder)
    old = json.loads(node.post_json("/a", 1)[2])["cursor"]
    assert node.stop() == 0
    damaged = b"\xa5" * 100_000
    (folder / "history.sqlite").write_bytes(damaged)
    node = Daemon(folder)
    assert re.search(r"ERROR .*the history was damaged and set aside; a new one begins.*damaged-", node.log())
    (aside,) = [file for file in folder.iterdir() if re.search(r"\.damaged-[\d-]+$", file.name)]
    assert aside.read_bytes() == damaged
    with Stream(node, f"/a?_since={old}", {"Accept": "text/event-stream"}) as stream:
        assert stream.response.headers["Raiden-Recovered"] == "false"
        new = json.loads(node.post_json("/a", 2)[2])["cursor"]
        assert new.partition(":")[0] != old.partition(":")[0]
        assert stream.line() == b"event: gap"
    assert node.stop() == 0 and "Traceback" not in node.log()


def test_a_later_schema(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    assert Daemon(folder).stop() == 0
    with closing(sqlite3.connect(folder / "history.sqlite")) as db:
        db.execute("PRAGMA user_version = 99")
    said = refused(folder)
    assert "written by a later release" in said and str(folder) in said and "data_dir" in said
    with closing(sqlite3.connect(folder / "history.sqlite")) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (99,), "it is left alone"


def test_held_by_another_node(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    node = Daemon(folder)
    said = refused(folder)
    assert f"another raiden keeps its history in {folder}" in said and "data_dir" in said
    assert node.post_json("/a", 1)[0] == 200
    assert node.stop() == 0
    node = Daemon(folder)  # the lock is gone with its holder
    assert node.stop() == 0


def test_nobody_else_may_hold_a_node_s_locks(tmp_path: Path) -> None:
    """Also where an earlier release, or a lax umask, left files that all may open."""
    folder = tmp_path / "node"
    folder.mkdir(mode=0o755)
    for name in ("history.lock", "raiden.pid"):
        (folder / name).touch(mode=0o644)
        (folder / name).chmod(0o644)
    argv = command("start", data_dir=folder, http_port=0, backend_port=0)
    assert run(argv).returncode == 0
    try:
        modes = {name: (folder / name).stat().st_mode & 0o777 for name in ("history.lock", "raiden.pid")}
        assert modes == {"history.lock": 0o600, "raiden.pid": 0o600}
    finally:
        assert run(command("stop", data_dir=folder)).returncode == 0


@pytest.mark.parametrize("name", ["history.lock", "raiden.pid"])
def test_a_link_in_place_of_a_lock_is_not_followed(tmp_path: Path, name: str) -> None:
    """Whoever can write in the directory could have the node write to any of its user's files."""
    folder = tmp_path / "node"
    folder.mkdir()
    target = tmp_path / "precious"
    target.write_text("untouched")
    (folder / name).symlink_to(target)
    argv = command(*(["start"] if name == "raiden.pid" else []), data_dir=folder, http_port=0, backend_port=0)
    process = run(argv)
    assert process.returncode == 1 and "symbolic link" in process.stderr and "Traceback" not in process.stderr
    assert target.read_text() == "untouched"


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root, to mount a small disk")
def test_a_start_on_a_full_disk_says_what_to_do(tmp_path: Path) -> None:
    """As after a crash: there is a file with a log, and no byte is free."""
    node = Daemon(tmp_path / "node")
    node.post_json("/a", 1)
    node.signal_all(signal.SIGSTOP)
    node.signal_all(signal.SIGKILL)
    node.process.wait(20)
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        f"mount -t tmpfs -o size=2m none {disk} && cp {tmp_path}/node/history.sqlite{{,-wal}} {disk} && cd {disk}"
        ' && touch history.lock && (cat /dev/zero > zeros 2>/dev/null || true) && cd "$0" && exec "$@"'
    )
    for pid_file, reason in (
        (tmp_path / "pid", "its disk is full; make room"),
        (disk / "pid", "No space left on device"),
    ):
        argv = command(data_dir=disk, http_port=0, backend_port=0, pid_file=str(pid_file))
        argv = ["unshare", "-m", "bash", "-c", script, str(ROOT), *argv]
        process = subprocess.run(argv, capture_output=True, text=True, env=environment(), timeout=60)
        if "mount:" in process.stderr:
            pytest.skip(f"can't mount here: {process.stderr}")
        assert process.returncode == 1 and "Traceback" not in process.stderr, process.stderr
        said = process.stderr.splitlines()[-1]
        assert reason in said and str(disk) in said and "data_dir" in said, said


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        said = refused(folder)
        assert str(tmp_path / "file") in said and "data_dir" in said, said


def test_a_directory_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "history.sqlite").mkdir()
    said = refused(tmp_path)
    assert str(tmp_path / "history.sqlite") in said and "directory" in said.lower()


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    """Root may write what others may not, but not what is immutable."""
    folder = tmp_path / "node"
    folder.mkdir()
    if os.geteuid():
        folder.chmod(0o500)
        undo: Callable[[], object] = lambda: folder.chmod(0o700)  # noqa: E731
    else:
        chattr = shutil.which("chattr")
        if chattr is None or subprocess.run([chattr, "+i", str(folder)], capture_output=True).returncode:
            pytest.skip("needs chattr, and a file system that knows it")
        undo = lambda: subprocess.run([chattr, "-i", str(folder)], check=True)  # noqa: E731
    try:
        said = refused(folder)
        assert str(folder) in said and "data_dir" in said, said
    finally:
        undo()


def test_max_data_is_reached(start: Callable[..., Daemon]) -> None:
    """Publishes are refused with the reason; what there is can be read, and the rest goes on. When there is room again,
    publishes work."""
    node = start(max_data=2 << 20, channels={"*": {"history_size": 10**6}, "none": {"history_size": 0}})
    published = 0

    def full() -> tuple[int, dict[str, str], bytes] | None:
        nonlocal published
        answer = node.post_json("/a", "x" * 10_000)
        published += answer[0] == 200
        return answer if answer[0] != 200 else None

    status, headers, body = wait_for(full, "it is full")  # type: ignore[misc]
    assert status == 503 and headers["content-type"] == "application/problem+json" and "retry-after" in headers
    assert b"raise max_data" in body and b"history_size" in body, body
    assert (node.folder / "history.sqlite").stat().st_size <= 2 << 20
    with Stream(node, "/a?_since=earliest") as stream, Stream(node, "/none") as other:
        for _ in range(published):
            assert stream.value() == "x" * 10_000
        assert node.post_json("/none", 1)[0] == 202 and other.value() == 1
        assert node.json("/-/health") == {"status": "ok"}
        with closing(socket.create_connection((node.host, node.port), 20)) as sock:
            lines = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nyyyy" * 3
            sock.sendall(lines)
            answer = b""
            while answer.count(b"HTTP/1.1 ") < 3:
                answer += sock.recv(65536)
    assert "the history can't be written" in node.log()
    assert node.request("DELETE", "/a")[0] < 300
    wait_for(lambda: node.post_json("/a", "x" * 10_000)[0] == 200, "there is room again")
    wait_for(lambda: "the history can be written again" in node.log(), "the log says so")
