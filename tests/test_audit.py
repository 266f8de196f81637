"""The audit log: a line for each refusal, and for what managers did."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from raiden.runtime import audit
from raiden.runtime.audit import LINES, LONGEST, MOST, Audit
from tests import daemons
from tests.addresses import JSON, From, command, websocket
from tests.daemons import ROOT, Daemon, running, wait_for
from tests.tokens import API_KEYS, JWT_KEYS, KEY, SMALL_KEY, bearer, on, token
from tests.zeromq import OPEN, Clients, Pair, ask

SERVER, FEEDER, STRANGER = (Pair.make() for _ in range(3))
ELSEWHERE, ALL = token("ann", **on("elsewhere")), token("root")
BAD = "eyJhbGciOiJIUzI1NiJ9.e30.c2VjcmV0"


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of an audit log."""
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("audit")
    (folder / "doors.key").write_bytes(SERVER.secret + b"\n")
    yield from running(
        folder / "node", workers=2, jwt_keys=JWT_KEYS, api_keys=API_KEYS, token_cookie="session",
        audit_log=str(folder / "node" / "audit"), rates={"subscribe": (0.01, 4), "channel": (0.01, 4)},
        zmq_key=str(folder / "doors.key"), zmq_keys={FEEDER.name: {"name": "feeder", **on("elsewhere")}}, **OPEN,
    )  # fmt: skip
    written = (folder / "node" / "audit").read_text()
    for secret in (KEY, SMALL_KEY, ELSEWHERE, ALL, BAD, "c2VjcmV0", "hidden"):
        assert secret not in written, "it shows no credential, and nothing of a query"


def audited(node: Daemon, **fields: Any) -> dict[str, Any]:
    """The one line that has these fields."""

    def find() -> list[dict[str, Any]]:
        return [line for line in lines(node.folder / "audit") if fields.items() <= line.items()]

    found = wait_for(find, f"a line with {fields}")
    assert len(found) == 1, found
    return found[0]


# Refusals.


@pytest.mark.parametrize(
    ("credential", "who", "status"),
    [(None, "", 401), (BAD, "", 401), (ELSEWHERE, "ann", 403), (SMALL_KEY, "small", 403)],
    ids=["nothing", "bad", "token", "key"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("method", "path", "action", "what"),
    [
        ("POST", "/NAME", "publish", "NAME"),
        ("POST", "/-/publish", "publish", ""),
        ("GET", "/NAME?team=hidden", "subscribe", "NAME"),
        ("GET", "/-/subscribe?channel=NAME&channel=b%20c&x=hidden", "subscribe", "NAME, b c"),
        ("GET", "/-/channels/NAME/history?_limit=2", "history", "NAME"),
        ("GET", "/-/channels/NAME", "manage", "/-/channels/NAME"),
        ("DELETE", "/NAME", "delete", "NAME"),
    ],
    ids=["publish", "many", "subscribe", "several", "history", "page", "delete"],
)
def test_refused_requests(
    node: Daemon, here: str, method: str, path: str, action: str, what: str, credential: str | None, who: str,
    status: int,
) -> None:  # fmt: skip
    with From(node, here, credential) as client:
        body = '{"channels": ["a"], "data": 1}' if method == "POST" else None
        found = client.request(method, path.replace("NAME", here), body, JSON)
    assert found[0] == status
    line = audited(node, address=here, event="refused")
    assert line["outcome"] == status and line["who"] == who and line["door"] == "http"
    assert (line["action"], line["channel"]) == (action, what.replace("NAME", here))
    assert line["reason"] == json.loads(found[2])["detail"] and line["node"] and line["process"].startswith("worker ")
    assert line["time"] > 1e9


def test_a_client_is_not_the_one_of_the_request_before(node: Daemon, here: str) -> None:
    with From(node, here) as client:
        assert client.request("GET", "/elsewhere?_wait=0", None, bearer(ELSEWHERE))[0] == 204
        assert client.request("GET", "/elsewhere?_wait=0", None, bearer(BAD))[0] == 401
    assert audited(node, address=here)["who"] == ""


def test_credentials_in_a_query_or_a_cookie_are_not_shown(node: Daemon, here: str) -> None:
    with From(node, here) as client:
        assert client.request("GET", f"/a?_token={BAD}")[0] == 401
        assert client.request("GET", "/a", None, {"Cookie": f"session={BAD}"})[0] == 401
    wait_for(lambda: sum(line["address"] == here for line in lines(node.folder / "audit")) == 2, "both are there")


def test_refused_commands(node: Daemon, here: str, channel: str) -> None:
    with websocket(node, here, credential=ELSEWHERE) as socket:
        for cmd, more in (("subscribe", {}), ("publish", {"data": 1}), ("history", {})):
            assert command(socket, cmd=cmd, channel=channel, **more)["error"]["code"] == 403
        assert command(socket, cmd="auth", token=BAD)["error"]["code"] == 401
        assert command(socket, cmd="nonsense")["error"]["code"] == 400
    for cmd in ("subscribe", "publish", "history"):
        line = audited(node, address=here, action=cmd, channel=channel)
        assert (line["who"], line["door"], line["outcome"]) == ("ann", "websocket", 403)
    assert audited(node, address=here, action="auth")["outcome"] == 401
    assert sum(line["address"] == here for line in lines(node.folder / "audit")) == 4


def test_a_refused_frame(node: Daemon, here: str, channel: str) -> None:
    with websocket(node, here, f"/{channel}", token("bob", subscribe=[channel])) as socket:
        socket.send("1")
        with pytest.raises(ConnectionClosed):
            socket.recv(60)
    line = audited(node, address=here)
    assert (line["who"], line["action"], line["channel"], line["outcome"]) == ("bob", "publish", channel, 403)


def test_limits(node: Daemon, here: str, channel: str) -> None:
    """Requests with a known head are refused by a shorter way."""
    with From(node, here, token("carl")) as client:
        statuses = [client.poll(f"/{channel}") for _ in range(6)]
        assert statuses == [204] * 4 + [429] * 2
        assert [client.publish(channel)[0] for _ in range(6)] == [200] * 4 + [429] * 2

    def found() -> list[tuple[str, str, str, int]]:
        return [
            (line["who"], line["action"], line["channel"], line["outcome"])
            for line in lines(node.folder / "audit") if line["address"] == here
        ]  # fmt: skip

    wait_for(lambda: len(found()) == 4, "all are there")
    assert found() == [("carl", "subscribe", channel, 429)] * 2 + [("carl", "publish", channel, 429)] * 2


def test_refused_connections(start: Callable[..., Daemon], tmp_path: Path, here: str) -> None:
    node = start(rates={"connect": (0.01, 1)}, audit_log=str(tmp_path / "node0" / "audit"))
    for _ in range(2):
        try:
            with From(node, here) as client:
                client.request("GET", "/-/health")
        except OSError:
            pass  # it was closed at once
    line = audited(node, address=here)
    assert (line["action"], line["door"], line["outcome"], line["who"]) == ("connect", "http", 429, "")


def test_zeromq(node: Daemon, channel: str) -> None:
    with Clients(node, server=SERVER.public) as clients:
        req, push = clients.req(key=FEEDER), clients.push(key=FEEDER)
        assert ask(req, "publish", channel, "1")[0] == b"403"
        assert ask(req, "history", channel)[0] == b"403"
        push.send_multipart([channel.encode(), b"2"])
        clients.sub(channel, key=FEEDER)
        for door, action, name in (
            ("req", "publish", channel), ("req", "history", channel), ("push", "publish", channel),
            ("sub", "subscribe", channel + "*"),
        ):  # fmt: skip
            line = audited(node, door=door, action=action, channel=name)
            assert (line["who"], line["address"], line["outcome"]) == ("feeder", "127.0.0.1", 403)
            assert line["process"] == "zeromq"
        stranger = clients.req(key=STRANGER)
        line = audited(node, action="connect", door="req")
        assert line["outcome"] == 401 and STRANGER.name in line["reason"]
        assert STRANGER.secret.decode() not in json.dumps(line)
        stranger.close()


# What managers do.


def test_what_managers_do(node: Daemon, here: str, channel: str) -> None:
    with From(node, here, ALL) as client:
        assert client.publish(channel)[0] == 200
        assert client.request("DELETE", f"/{channel}")[0] == 202
        line = audited(node, address=here, event="done")
        assert (line["who"], line["action"], line["channel"], line["outcome"]) == ("root", "delete", channel, "done")
        assert client.request("POST", "/-/revoke", '{"sub": "eve"}', JSON)[0] == 200
        assert client.request("POST", "/-/disconnect", json.dumps({"sub": "eve", "channel": channel}), JSON)[0] == 200
    assert audited(node, address=here, event="done", action="revoke")["sub"] == "eve"
    line = audited(node, address=here, event="done", action="disconnect")
    assert (line["who"], line["channel"], line["sub"]) == ("root", channel, "eve")
    with websocket(node, here, credential=KEY) as socket:
        assert "error" not in command(socket, cmd="subscribe", channel=channel, durable="d")
        assert "error" not in command(socket, cmd="unsubscribe", channel=channel, durable="d", forget=True)
    line = audited(node, address=here, event="done", action="forget")
    assert (line["who"], line["channel"], line["durable"]) == ("server", channel, "d")


def test_reload_and_rotation(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """A file that was renamed is followed by a new one, at the next line. A reload turns the log on and off."""
    file, first, second = tmp_path / "conf.py", tmp_path / "first", tmp_path / "second"
    settings = f"jwt_keys = {JWT_KEYS!r}\n"

    def write(**more: Any) -> None:
        file.write_text(settings + "".join(f"{name} = {value!r}\n" for name, value in more.items()))

    write(audit_log=str(first))
    node = start(config=file)
    assert node.request("GET", "/a")[0] == 401
    wait_for(lambda: len(lines(first)) == 1, "the refusal")
    first.rename(tmp_path / "first.1")
    write(audit_log=str(first), max_wait=5.0, zmq_max_topics=7)
    node.signal(signal.SIGHUP)
    done = wait_for(lambda: lines(first) if first.exists() else [], "the reload, in a new file")
    assert [line["action"] for line in done] == ["reload"]
    assert done[0]["changed"] == ["max_wait", "zmq_max_topics"] and done[0]["process"] == "raiden"
    assert node.request("GET", "/a")[0] == 401
    wait_for(lambda: len(lines(first)) == 2, "the worker writes to the new one, too")
    assert len(lines(tmp_path / "first.1")) == 1 and not first.stat().st_mode & 0o027
    write(audit_log=str(second))
    node.signal(signal.SIGHUP)
    wait_for(lambda: second.exists() and node.request("GET", "/a")[0] == 401 and len(lines(second)) >= 2, "the second")
    write(audit_log="/nowhere/audit")
    node.signal(signal.SIGHUP)
    wait_for(lambda: "not reloaded: audit_log" in node.log(), "it is told that this can't be")
    write()
    node.signal(signal.SIGHUP)
    wait_for(lambda: "'audit_log'" in node.log().rpartition("reloaded")[2], "it is off")
    wait_for(lambda: (before := len(lines(second))) and node.request("GET", "/a")[0] == 401
             and len(lines(second)) == before, "nothing is written any more")  # fmt: skip


def test_the_ordinary_log(start: Callable[..., Daemon], here: str) -> None:
    node = start(jwt_keys=JWT_KEYS, audit_log="log", log_format="json")
    with From(node, here) as client:
        assert client.publish("a")[0] == 401
    wait_for(lambda: here in node.log(), "the refusal is there")
    line = json.loads(node.log().splitlines()[-1])
    assert (line["event"], line["action"], line["channel"], line["address"]) == ("refused", "publish", "a", here)


def test_a_file_that_can_t_be_opened(tmp_path: Path) -> None:
    line = daemons.command(data_dir=tmp_path, http_port=0, backend_port=0, audit_log="/nowhere/audit")
    done = subprocess.run(line, cwd=ROOT, env=daemons.environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "audit_log can't be opened" in done.stderr and "Traceback" not in done.stderr


# Attacks.


def test_a_flood_writes_few_lines(start: Callable[..., Daemon], tmp_path: Path, here: str, there: str) -> None:
    node = start(jwt_keys=JWT_KEYS, audit_log=str(tmp_path / "node0" / "audit"))
    path = node.folder / "audit"
    with From(node, here) as client:
        assert {client.publish("a")[0] for _ in range(4 * LINES)} == {401}
    with From(node, there, ALL) as client:
        assert client.request("DELETE", "/a")[0] == 202

    def told() -> int:
        return sum(line.get("count", line["event"] == "refused") for line in lines(path))

    wait_for(lambda: told() == 4 * LINES, "each is written, or counted")
    left_out = [line["count"] for line in lines(path) if line["event"] == "left out"]
    written = [line for line in lines(path) if line["event"] == "refused"]
    # However long the flood took: so many in each second of it.
    seconds = int(written[-1]["time"] - written[0]["time"]) + 1
    assert len(written) <= (seconds + 1) * LINES and (left_out or seconds > 2)
    assert [line["action"] for line in lines(path) if line["event"] == "done"] == ["delete"], "never left out"


def test_nothing_breaks_a_line(node: Daemon, here: str, tmp_path: Path) -> None:
    with From(node, here) as client:
        for path in ("/a%0A%7B%22event%22:1%7D", "/%C2%85%E2%80%A8%1B%5B31m", "/%ff%00", "/" + "x" * 1000):
            assert client.request("POST", path, "1")[0] == 401
    wait_for(lambda: sum(line["address"] == here for line in lines(node.folder / "audit")) == 4, "a line for each")
    names = [line["channel"] for line in lines(node.folder / "audit") if line["address"] == here]
    assert names == ['a\n{"event":1}', "\x85\u2028\x1b[31m", "%ff%00", "x" * LONGEST + "..."]
    raw = (node.folder / "audit").read_bytes()
    assert raw.isascii() and b"\x1b" not in raw
    audit.setup(str(tmp_path / "audit"), "test", "n")
    try:
        audit.refused(403, "\ud800\r\n\0", action="\udfff", channel="é\u2029")
    finally:
        audit.close()
    (line,) = lines(tmp_path / "audit")
    assert (line["reason"], line["action"], line["channel"]) == ("?\r\n\0", "?", "é\u2029")


class Disk:
    """A disk that takes no line until it may."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.taken: list[logging.LogRecord] = []

    def write(self, record: logging.LogRecord) -> None:
        self.may.wait()
        self.taken.append(record)

    def close(self) -> None:
        pass


def test_a_disk_that_stands_still_holds_up_nobody() -> None:
    disk = Disk()
    log = Audit(disk, "n")
    for number in range(MOST + 500):
        log.done({"number": number})  # it returns, or this test never ends
    log.close(0.0)
    disk.may.set()
    log.close(daemons.PATIENCE)
    assert MOST <= len(disk.taken) <= MOST + 3
    assert vars(disk.taken[-1])["count"] == MOST + 500 - (len(disk.taken) - 1)


def test_what_can_t_be_written_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "folder" / "audit"
    path.parent.mkdir()
    audit.setup(str(path), "test", "n", waits=True)
    try:
        path.unlink()
        path.parent.rmdir()
        for _ in range(3):
            audit.done("reload")
        assert [record.message for record in caplog.records] == ["the audit log can't be written"], "once a minute"
        path.parent.mkdir()
        audit.done("reload")
        assert [line["event"] for line in lines(path)] == ["done"]
    finally:
        audit.close()
