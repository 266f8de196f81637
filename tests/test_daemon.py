"""The daemon as its operator meets it: commands, signals, deaths. Everything is real processes."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests import daemons
from tests.daemons import ROOT, Daemon, Stream, command, environment, wait_for


def run(*arguments: str, variables: dict[str, str] | None = None, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    with tempfile.TemporaryDirectory() as data_dir:
        return daemons.run(command(*arguments, **{"data_dir": data_dir, **settings}), variables)


def free_port() -> int:
    """A port that is free, of those that the kernel gives to no connection: so it is still free when it is used."""
    least, _ = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    for _ in range(100):
        port = random.SystemRandom().randrange(max(1024, least - 12_000), least)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


class Node:
    """A node that is started and stopped by commands, in a data directory of its own. ``whole``: each command is a
    Python of its own, from its beginning to its end, and no fork."""

    def __init__(self, folder: Path, *, whole: bool = False) -> None:
        self.folder = folder
        self.whole = whole
        self.config = folder / "raiden.conf.py"
        self.port = free_port()
        self.configure()

    def configure(self, text: str = "") -> None:
        self.config.write_text(f"http_port = {self.port}; backend_port = 0\nworkers = 2\n{text}\n")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        words = command("-C", str(self.config), *arguments, data_dir=self.folder)
        if not self.whole:
            return daemons.run(words)
        return subprocess.run(words, capture_output=True, text=True, env=environment(), cwd=ROOT, timeout=60)

    def log(self) -> str:
        return (self.folder / "raiden.log").read_text()

    @property
    def pid(self) -> int:
        return int((self.folder / "raiden.pid").read_text())

    def healthy(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/-/health")
            return connection.getresponse().read() == b'{"status":"ok"}'
        except OSError:
            return False
        finally:
            connection.close()


@pytest.fixture
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path, whole=getattr(request, "param", False))
    yield node
    node.run("stop")
    assert not node.healthy()


whole = pytest.mark.parametrize("node", [True], indirect=True, ids=["whole"])


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def fails(result: subprocess.CompletedProcess[str], *said: str, code: int = 1) -> None:
    """It ended with the code and one clear line."""
    assert result.returncode == code, result
    assert "Traceback" not in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr
    assert all(text in result.stderr for text in said), result.stderr


# Commands.


@whole
def test_start_status_reload_restart_stop(node: Node) -> None:
    fails(node.run("status"), "not running", code=3)
    fails(node.run("stop"), "not running")
    started = node.run("start")
    assert started.returncode == 0 and f"http://127.0.0.1:{node.port}" in started.stdout, started
    pid = node.pid
    assert node.healthy()
    assert node.run("status").stdout == f"running, pid {pid}\n"
    fails(node.run("start"), "already running", str(pid))
    assert node.run("reload").returncode == 0
    wait_for(lambda: "reloaded" in node.log(), "the reload is logged")
    assert node.run("restart").returncode == 0
    assert node.pid != pid and not alive(pid) and node.healthy()
    processes = [node.pid, *children(node.pid)]
    assert node.run("stop").returncode == 0
    assert not any(map(alive, processes))
    assert "Traceback" not in node.log()


def test_start_after_kill(node: Node) -> None:
    assert node.run("start").returncode == 0
    processes = [node.pid, *children(node.pid)]
    os.kill(node.pid, signal.SIGKILL)
    wait_for(lambda: not any(map(alive, processes)), "the children notice that they are orphans")
    fails(node.run("status"), "not running", "stale", code=3)
    fails(node.run("stop"), "not running", "stale")
    started = node.run("start")
    assert started.returncode == 0 and "stale pid file" in started.stderr
    assert node.healthy()


@whole
def test_check_and_version(node: Node) -> None:
    assert node.run("check").returncode == 0
    version = subprocess.run([sys.executable, str(ROOT / "bin/raiden"), "--version"], capture_output=True, text=True,
                             env=environment())  # fmt: skip
    assert version.stdout.startswith("raiden ")
    assert node.run("--version").stdout == version.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http_prt = 1", "did you mean http_port"),
        ("http_port = 'x'", "http_port must be int"),
        ("workers = True", "workers must be int"),
        ("workers = -1", "at least 0"),
        ("allowed_origins = [1]", "allowed_origins must be list"),
        ("log_format = 'xml'", "log_format"),
        ("http_host = '0.0.0.0'", "open_to_the_world = True"),
        ("1 +", "raiden.conf.py:3"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("service = 1", "service must be a function"),
    ],
)
def test_bad_configuration(node: Node, text: str, said: str) -> None:
    node.configure(text)
    for arguments in (["check"], [], ["start"]):
        fails(node.run(*arguments), said)


def test_bad_environment_and_options(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    fails(node.run("-X", "workers = lots", "check"), "not a Python literal")
    fails(node.run("-X", "workers", "check"), "name = value")
    node.config.unlink()
    fails(node.run("check"), "cannot read it")
    node.configure()


def test_port_in_use(node: Node) -> None:
    with socket.create_server(("127.0.0.1", node.port)):
        fails(node.run(), "in use", str(node.port))
        fails(node.run("start"), "in use")
    assert node.run("start").returncode == 0
    other = node.run("-X", f"data_dir = {str(node.folder / 'other')!r}", "start")
    fails(other, "in use")


# In the foreground.


def test_banner_lines_work(start: Callable[..., Daemon]) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    node = start()
    lines = [line.partition("curl")[2] for line in node.banner().splitlines() if "curl" in line]
    subscribe, publish = (["curl", "-sS", "-m", "30", *shlex.split(line)] for line in lines)
    with subprocess.Popen(subscribe, stdout=subprocess.PIPE) as subscriber:
        wait_for(lambda: "hello" in node.json("/-/channels")["channels"], "curl has subscribed")
        assert subprocess.run(publish, capture_output=True, timeout=20).stdout.startswith(b'{"cursor":')
        assert subscriber.stdout is not None
        assert next(line for line in subscriber.stdout if line.strip()) == b'{"text": "hi"}\n'
        subscriber.terminate()


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({"jwt_keys": [{"alg": "HS256", "key": "k" * 32}]}, ["subscribe: Bearer", "publish: Bearer"]),
        (
            {"jwt_keys": [{"alg": "HS256", "key": "k" * 32}], "channels": {"*": {"subscribe": "anyone"}}},
            ["subscribe:", "publish: Bearer"],
        ),
        ({"channels": {"*": {"publish": "token"}}}, ["subscribe:"]),
        ({"dialects": ["cable"], "cable_secret": "secret"}, []),
        ({"delegate": {"url": "http://127.0.0.1:1/"}}, ["subscribe:", "publish:"]),
    ],
)
def test_the_banner_shows_what_can_be_done(
    start: Callable[..., Daemon], values: dict[str, Any], shown: list[str]
) -> None:
    lines = [line for line in start(**values).banner().splitlines() if "curl" in line]
    assert [line.split()[0] + " Bearer" * ("Bearer $TOKEN" in line) for line in lines] == shown


def test_drain(start: Callable[..., Daemon]) -> None:
    node = start(workers=2)
    processes = [node.pid, *children(node.pid)]
    stream, events = Stream(node, "/a"), Stream(node, "/a", {"Accept": "text/event-stream"})
    with connect(f"ws://127.0.0.1:{node.port}/a") as ws, ThreadPoolExecutor(1) as pool:
        poll = pool.submit(node.request, "GET", "/a?_wait=60")
        wait_for(lambda: node.json("/-/channels/a")["subscribers"] == 4, "all have subscribed")
        assert node.stop() == 0
        assert poll.result()[0] == 204
        assert stream.line() == events.line() == b""
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv()
        assert closed.value.rcvd and closed.value.rcvd.code == 4002
    stream.close()
    events.close()
    assert not any(map(alive, processes))
    assert "Traceback" not in node.log()


class Load:
    """Publishes on ``count`` connections until it ends; collects what went wrong."""

    def __init__(self, port: int, count: int = 4) -> None:
        self._port = port
        self.done = [0] * count
        self._stop = Event()
        self._pool = ThreadPoolExecutor(count)
        self._results = [self._pool.submit(self._publish, n) for n in range(count)]

    def _publish(self, number: int) -> list[str]:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=20)
        wrong = []
        while not self._stop.is_set():
            try:
                connection.request(
                    "POST", f"/load{number}", str(self.done[number]), {"Content-Type": "application/json"}
                )
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    wrong.append(str(response.status))
                self.done[number] += 1
            except OSError as error:
                wrong.append(repr(error))
                connection.close()
        connection.close()
        return wrong

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> list[str]:
        self._stop.set()
        wrong = [text for result in self._results for text in result.result()]
        self._pool.shutdown()
        return wrong


def test_reload_under_load(start: Callable[..., Daemon], tmp_path: Path) -> None:
    config = tmp_path / "conf.py"
    config.write_text("max_body = 1000\n")
    node = start(config=config, workers=2)
    with Load(node.port) as load, Stream(node, "/a") as stream:
        for n in range(20):
            config.write_text(f"max_body = {1001 + n}\n")
            node.signal(signal.SIGHUP)
            wait_for(lambda n=n: node.log().count("reloaded") > n, "the reload is logged")  # type: ignore[misc]
            node.publish("a", n)
            assert stream.value() == n
        json_type = {"Content-Type": "application/json"}

        def refuses() -> bool:
            return all(node.request("POST", "/b", "1" * 1021, json_type)[0] == 413 for _ in range(10))

        wait_for(refuses, "both workers have the new limit")
        assert node.request("POST", "/b", "1" * 1020, json_type)[0] == 200
        config.write_text("max_body = 500\nhttp_host = '127.0.0.2'\n")
        node.signal(signal.SIGHUP)
        wait_for(lambda: "needs a restart: http_host" in node.log(), "what can't be changed is named")
        config.write_text("max_bdy = 1\n")
        node.signal(signal.SIGHUP)
        wait_for(lambda: "not reloaded" in node.log(), "a bad file changes nothing")
        wait_for(lambda: sum(load.done) > 100, "much is published")
        wrong = load.end()
    assert not wrong
    assert node.stop() == 0


def test_killed_worker_is_replaced(start: Callable[..., Daemon]) -> None:
    node = start(workers=2)
    with Load(node.port) as load:
        first = node.workers()["worker 0"]
        others = {*node.workers().values()} - {first}
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: len(children(node.pid)) == 4 and first not in children(node.pid), "a new worker")
        wait_for(lambda: "worker 0 replaced" in node.log(), "its replacement is logged")
        assert others <= set(children(node.pid))
        streams = [Stream(node, "/a") for _ in range(16)]
        node.publish("a", 1)
        assert [stream.value() for stream in streams] == [1] * 16
        for stream in streams:
            stream.close()
        wait_for(lambda: sum(load.done) > 100, "much is published")
        wrong = load.end()
    assert len(wrong) <= 4, "only who was connected to the killed worker noticed"


def test_workers_that_keep_dying_end_the_node(start: Callable[..., Daemon]) -> None:
    node = start()
    worker = node.workers()["worker 0"]
    others = {*node.workers().values()} - {worker}
    for n in range(5):
        os.kill(worker, signal.SIGKILL)
        if n < 4:
            seen = {*others, worker}
            (worker,) = wait_for(lambda seen=seen: set(children(node.pid)) - seen, "a new worker")  # type: ignore[misc]
    assert node.process.wait(20) == 1
    assert "raiden: processes died 5 times" in node.log()


def test_a_backbone_that_dies_ends_the_node(start: Callable[..., Daemon]) -> None:
    node = start()
    os.kill(children(node.pid)[0], signal.SIGKILL)
    assert node.process.wait(20) == 1
    assert "raiden: the backbone died" in node.log()


def test_service_that_fails_to_start(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.configure("def service(worker):\n    raise ValueError('mine')")
    result = node.run()
    assert result.returncode == 1 and "failed to start" in result.stderr.splitlines()[-1]


def test_services_of_the_user(start: Callable[..., Daemon], tmp_path: Path) -> None:
    config = tmp_path / "conf.py"
    config.write_text(
        "from pathlib import Path\n"
        "from raiden.service import Service\n"
        f"_folder = Path({str(tmp_path)!r})\n"
        "class Mine(Service):\n"
        "    def do_start(self): (_folder / 'started').touch()\n"
        "    def do_stop(self): (_folder / 'stopped').touch()\n"
        "def service(worker): return Mine()\n"
    )
    node = start(config=config)
    assert (tmp_path / "started").exists() and not (tmp_path / "stopped").exists()
    assert node.stop() == 0
    assert (tmp_path / "stopped").exists()


def test_systemd_is_told(start: Callable[..., Daemon], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        node = start()
        assert manager.recv(100) == b"READY=1"
        node.signal(signal.SIGHUP)
        assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert manager.recv(100) == b"READY=1"
        assert node.stop() == 0
        assert manager.recv(100) == b"STOPPING=1"


def test_json_log(start: Callable[..., Daemon]) -> None:
    node = start(log_format="json")
    node.stop()
    entries: list[dict[str, Any]] = [json.loads(line) for line in node.log().splitlines()]
    assert {"ready", "stopping", "stopped"} <= {entry["event"] for entry in entries}
    assert [entry["workers"] for entry in entries if entry["event"] == "ready"] == [1]  # a number, as it was
    assert node.banner() == ""  # where both streams are one, each line of it is JSON


def test_commands_find_a_node_in_the_foreground(start: Callable[..., Daemon]) -> None:
    node = start()
    ask = functools.partial(run, data_dir=node.folder)
    assert ask("status").stdout == f"running, pid {node.pid}\n"
    assert ask("reload").returncode == 0
    wait_for(lambda: "reloaded" in node.log(), "the reload is logged")
    assert ask("stop").returncode == 0
    assert node.process.wait(20) == 0
    assert not (node.folder / "raiden.pid").exists()


def test_two_nodes_of_one_data_dir_in_the_foreground(start: Callable[..., Daemon], tmp_path: Path) -> None:
    shared = str(tmp_path / "raiden.pid")
    start(pid_file=shared)
    fails(run("run", data_dir=tmp_path / "other", http_port=0, backend_port=0, pid_file=shared), "already running")
    start(store="none", data_dir=tmp_path / "both")
    second = start(store="none", data_dir=tmp_path / "both")
    assert "no pid file" in second.log() and "already running" in second.log()


def test_the_log_file_is_opened_again(node: Node) -> None:
    assert node.run("start").returncode == 0
    log, rotated = node.folder / "raiden.log", node.folder / "raiden.log.1"
    log.rename(rotated)
    os.kill(node.pid, signal.SIGUSR1)
    wait_for(log.exists, "there is a new file")
    worker = children(node.pid)[2]
    wait_for(lambda: Path(f"/proc/{worker}/fd/2").resolve() == log, "the workers have it, too")
    before = rotated.read_text()
    assert node.run("stop").returncode == 0
    assert "stopped" in node.log() and rotated.read_text() == before


def test_where_sockets_have_no_place_in_the_temporary_directory(start: Callable[..., Daemon], tmp_path: Path) -> None:
    far = tmp_path / ("far" * 30)
    far.mkdir()
    variables = {"TMPDIR": str(far)}
    said = run(data_dir=far / "data", http_port=0, backend_port=0, store="none", variables=variables)
    fails(said, "too long", "TMPDIR")
    assert list(far.glob("raiden-*")) == []
    with tempfile.TemporaryDirectory() as near:
        node = start(variables=variables, data_dir=near)
        assert node.request("GET", "/-/health")[0] == 200
        assert node.stop() == 0


def test_what_reads_the_output_may_end(start: Callable[..., Daemon]) -> None:
    node = start()
    words = shlex.join(command("nodes", data_dir=node.folder, http_port=node.port))
    shell = f"set -o pipefail; {{ {words}; }} | true"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=environment(), cwd=ROOT)
    assert done.stderr == "" and done.returncode in (0, 128 + signal.SIGPIPE), done


def test_each_command_has_help_of_its_own_and_options_around_it() -> None:
    assert "FILE where the secret key goes" in " ".join(run("keygen", "--help").stdout.split())
    assert "FILE" not in run("status", "--help").stdout.replace("-C FILE", "")
    fails(run("check", "-X", "workers = -1", http_port=1), "workers must be")
    fails(run("check", "-X", "http_port = 1", workers=-1), "workers must be")


def test_the_service_in_the_shown_config_publishes(start: Callable[..., Daemon], tmp_path: Path) -> None:
    text = (ROOT / "conf/raiden.conf.py").read_text()
    config = tmp_path / "conf.py"
    config.write_text(re.sub("^# ?", "", text[text.index("# import time") :], flags=re.MULTILINE))
    node = start(config=config, workers=2)
    clock = Stream(node, "/clock?_since=earliest")
    first, second = int(clock.line()), int(clock.line())
    assert first < second
    assert "Traceback" not in node.log()


def test_started_node_logs_why_it_ended(node: Node) -> None:
    assert node.run("start").returncode == 0
    pid = node.pid
    first = children(pid)[2]
    os.kill(first, signal.SIGKILL)  # its replacement takes descriptors that 'start' used
    wait_for(lambda: "replaced" in node.log(), "it is replaced")
    os.kill(children(pid)[0], signal.SIGKILL)
    wait_for(lambda: not alive(pid), "the node ends")
    assert "raiden: the backbone died" in node.log()


def test_worker_killed_with_a_reload_unread(start: Callable[..., Daemon], tmp_path: Path) -> None:
    config = tmp_path / "conf.py"
    config.write_text("max_body = 1000\n")
    node = start(config=config)
    worker = node.workers()["worker 0"]
    os.kill(worker, signal.SIGSTOP)
    config.write_text("max_body = 100\n")
    node.signal(signal.SIGHUP)
    wait_for(lambda: "reloaded" in node.log(), "the reload is logged")
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: "worker 0 replaced" in node.log() or node.process.poll() is not None, "a new worker")
    assert node.request("POST", "/a", "1" * 101)[0] == 413
    assert node.stop() == 0
    assert "Traceback" not in node.log()


def test_reload_sets_the_supervisors_log_level(node: Node) -> None:
    node.configure("log_level = 'ERROR'")
    assert node.run("start").returncode == 0
    assert node.log() == ""
    node.configure("log_level = 'INFO'")
    assert node.run("reload").returncode == 0
    wait_for(lambda: "reloaded" in node.log(), "the reload is logged")


def test_killed_node_leaves_no_folder(
    start: Callable[..., Daemon], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    node = start()
    processes = children(node.pid)
    assert list(folder.iterdir())
    node.process.kill()
    node.process.wait(20)
    wait_for(lambda: not any(map(alive, processes)), "the orphans end")
    assert not list(folder.iterdir())
