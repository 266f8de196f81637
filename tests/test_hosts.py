"""Which hosts a node answers for, and how hosts are compared."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from raiden.node import config
from raiden.node.config import ConfigError
from raiden.protocols import hosts
from raiden.protocols.hosts import Host, Hosts, is_loopback
from raiden.protocols.http import HttpError
from tests.daemons import Daemon, wait_for
from tests.test_gateway import raw

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("a.example", Host("a.example")),
        ("A.Example:80", Host("a.example", 80)),
        ("a.example:", Host("a.example")),
        ("[::1]", Host("[::1]")),
        ("[0:0:0:0:0:0:0:1]:8088", Host("[::1]", 8088)),
        ("[2001:DB8::1]", Host("[2001:db8::1]")),
        ("a.example.", Host("a.example.")),
    ],
)
def test_what_is_a_host(text: str, host: Host) -> None:
    assert Host.parse(text) == host


@pytest.mark.parametrize(
    "text", ["", ":80", "a:b", "a:1:2", "::1", "[::1", "[x]", "[::1]x", "a/b", "a@b", "a b", "a:65536"]
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="no host"):
        Host.parse(text)


@pytest.mark.parametrize(
    ("entry", "covered", "others"),
    [
        ("a.example", ["a.example", "A.EXAMPLE:1"], ["b.a.example", "a.example."]),
        ("a.example:80", ["a.example:80"], ["a.example", "a.example:81"]),
        ("*.a.example", ["b.a.example", "c.b.a.example:1"], ["a.example", "xa.example"]),
    ],
)
def test_what_an_entry_covers(entry: str, covered: list[str], others: list[str]) -> None:
    assert all(Host.parse(entry).covers(Host.parse(text)) for text in covered)
    assert not any(Host.parse(entry).covers(Host.parse(text)) for text in others)


def test_loopback() -> None:
    assert all(map(is_loopback, ["localhost", "a.localhost", "localhost.", "127.0.0.1", "127.9.9.9", "::1", "[::1]"]))
    assert not any(map(is_loopback, ["", "localhost.example", "128.0.0.1", "[::2]", "0.0.0.0", "notlocalhost"]))


def answers(found: Hosts, host: str) -> bool:
    try:
        found.check({"host": host})
    except HttpError as error:
        assert error.status == 421 and "allowed_hosts" in error.detail
        return False
    return True


def test_who_is_answered() -> None:
    guarded = Hosts(["a.example"], guarded=True)
    assert all(
        answers(guarded, host) for host in ("a.example", "A.example:1", "localhost:8088", "[::1]:1", "127.0.0.2")
    )
    assert not any(answers(guarded, host) for host in ("b.example", "a.example.evil", "10.0.0.1", "a:b:c", "::1"))
    assert not answers(guarded, "a" * 300 + ".localhost"), "no name is so long"
    guarded.check({})  # an HTTP/1.0 client without Host is no browser
    assert answers(Hosts(["*"], guarded=True), "b.example") and answers(Hosts(), "b.example")
    assert not answers(Hosts(["a.example"]), "b.example"), "a list holds wherever the node listens"


@pytest.mark.parametrize("entry", ["https://a.example", "a.example/", "", "*a.example", "a.*", "a:b:c"])
def test_entries_that_stand_for_nothing_are_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        hosts.check_allowed(entry)
    with pytest.raises(ConfigError, match="allowed_hosts: "):
        config.load(None, [f"allowed_hosts = {[entry]!r}"], {})


def test_a_name_that_was_made_to_point_here(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """By each way to be served, also behind a request whose head is remembered; a reload lets it in and out again."""
    file = tmp_path / "raiden.conf.py"
    file.write_text("allowed_hosts = []\n")
    node = start(config=file, allowed_hosts=None)
    evil = {"Host": "evil.example"}
    handshake = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
                 "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
    requests: list[tuple[str, str, str | None, dict[str, str]]] = [
        ("POST", "/a", "1", JSON), ("GET", "/a?_wait=0", None, {}), ("GET", "/-/health", None, {}),
        ("GET", "/a", None, {"Accept": "text/event-stream"}), ("GET", "/a", None, handshake),
        ("DELETE", "/a", None, {}), ("POST", "/-/publish", '{"channels":["a"],"data":1}', JSON),
        ("OPTIONS", "/a", None, {}),
    ]  # fmt: skip

    def statuses(fields: dict[str, str]) -> set[int]:
        found = set()
        for method, path, body, more in requests:
            for _ in range(3):
                status, _, answer = node.request(method, path, body, {**more, **fields})
                assert (status == 421) == (b"allowed_hosts" in answer)
                found.add(status)
        return found

    assert statuses(evil) == {421}
    lines = [line for line in node.log().splitlines() if "allowed_hosts" in line]
    assert len(lines) == 1 and "WARNING" in lines[0] and "evil.example" in lines[0], "it is told once"
    assert statuses({**evil, "Origin": "http://evil.example"}) == {421}
    for host in ("localhost", f"localhost:{node.port}", "[::1]:8088", "127.0.0.1", "a.localhost"):
        assert node.request("POST", "/a", "1", {**JSON, "Host": host})[0] == 200
    # Other than Host, the host in the target counts.
    line = b"GET http://%b/-/health HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n"
    assert raw(node, line % (b"evil.example", b"localhost")).startswith(b"HTTP/1.1 421 ")
    assert raw(node, line % (b"localhost", b"evil.example")).startswith(b"HTTP/1.1 200 ")
    assert raw(node, b"GET /-/health HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    for allowed, status in (("evil.example", 200), ("b.example", 421)):
        file.write_text(f"allowed_hosts = [{allowed!r}]\n")
        before = node.log().count("reloaded")
        node.signal(signal.SIGHUP)
        wait_for(lambda: node.log().count("reloaded") > before, "it has reloaded")  # noqa: B023
        wait_for(lambda: node.request("POST", "/a", "1", {**JSON, **evil})[0] == status, "by the new list")  # noqa: B023
        for _ in range(3):
            assert node.request("POST", "/a", "1", {**JSON, **evil})[0] == status


def test_a_node_for_all_has_no_list(start: Callable[..., Daemon]) -> None:
    node = start(http_host="0.0.0.0", open_to_the_world=True, allowed_hosts=[])
    assert node.request("GET", "/-/health", headers={"Host": "any.example"})[0] == 200


def test_channels_of_virtual_hosts(start: Callable[..., Daemon]) -> None:
    """Capitals, a port and the way an address is written make no other channel (RFC 3986 section 6.2.2.1); a host in
    the target is the one that counts (RFC 9112 section 3.2.2). A dot at the end does (RFC 3986 knows no such rule)."""
    node = start(channel_builder="host_path", allowed_hosts=["*"])
    for host, channel in (
        ("Example.Com", "example.com/news"),
        ("example.com:80", "example.com/news"),
        ("example.com.", "example.com./news"),
        ("[::1]:18100", "[::1]/news"),
        ("[0:0::1]", "[::1]/news"),
        ("127.0.0.1", "127.0.0.1/news"),
    ):
        for _ in range(3):  # also by a head that is remembered
            status, _, body = node.request("GET", "/news?_wait=0&_wrap=1", headers={"Host": host})
            assert status == 204, body
            status, _, body = node.request("POST", "/news", f'"{host}"', {**JSON, "Host": host})
            assert status == 200, body
        messages = node.json(f"/-/channels/{quote(channel, safe='')}/history?_last=1")["messages"]
        assert [message["data"] for message in messages] == [host]
    line = b"GET http://A.example:80/news?_wait=0&_last=1 HTTP/1.1\r\nHost: b.example\r\nConnection: close\r\n\r\n"
    node.request("POST", "/news", "1", {**JSON, "Host": "a.example"})
    assert b'"data":1' in raw(node, line)
    status, _, body = node.request("POST", "/news", "1", {**JSON, "Host": "a:b:c"})
    assert status == 400 and b"valid Host" in body
