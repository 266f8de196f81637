"""Trusted proxies tell the client's address and scheme; what others send counts for nothing."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raiden.node import config
from raiden.node.config import ConfigError
from raiden.protocols.proxies import Proxies, Source
from tests.daemons import Daemon, Stream, running, wait_for
from tests.test_access_log import entries

JSON = {"Content-Type": "application/json"}
PROXIES = ["10.0.0.0/8", "192.0.2.1", "2001:db8:1::/48"]


def source(remote: str, told: str, scheme: str = "", header: str = "X-Forwarded-For") -> Source | None:
    name = "HTTP_" + header.upper().replace("-", "_")
    return Proxies(PROXIES, header).source(remote, {name: told, "HTTP_X_FORWARDED_PROTO": scheme})


@pytest.mark.parametrize(
    ("remote", "told", "address"),
    [
        ("10.1.1.1", "203.0.113.9", "203.0.113.9"),
        ("10.1.1.1", "1.1.1.1, 203.0.113.9", "203.0.113.9"),  # 1.1.1.1 was written by the client
        ("10.1.1.1", "1.1.1.1,203.0.113.9,10.2.2.2, 192.0.2.1", "203.0.113.9"),
        ("10.1.1.1", "10.3.3.3, 10.2.2.2", "10.3.3.3"),  # the client is in a trusted network
        ("10.1.1.1", "203.0.113.9:4711", "203.0.113.9"),
        ("10.1.1.1", "[2001:DB8::0:9]:443", "2001:db8::9"),
        ("10.1.1.1", "2001:db8::9", "2001:db8::9"),
        ("10.1.1.1", "203.0.113.9, 2001:db8:1::5", "203.0.113.9"),
        ("::ffff:10.1.1.1", "::ffff:203.0.113.9", "203.0.113.9"),
        ("10.1.1.1", "203.0.113.9, unknown", "10.1.1.1"),
        ("10.1.1.1", "203.0.113.9, 10.2.2.2 evil", "10.1.1.1"),
        ("10.1.1.1", "", "10.1.1.1"),
        ("10.1.1.1", ",", "10.1.1.1"),
        ("10.1.1.1", "203.0.113.300", "10.1.1.1"),
        ("10.1.1.1", "203.0.113.9," + ",".join(["10.2.2.2"] * 31), "203.0.113.9"),
        ("10.1.1.1", "203.0.113.9," + ",".join(["10.2.2.2"] * 5000), "10.2.2.2"),  # no more than 32 are looked at
    ],
)
def test_the_rightmost_address_that_is_no_proxys_is_the_clients(remote: str, told: str, address: str) -> None:
    found = source(remote, told)
    assert found is not None and found.address == address


@pytest.mark.parametrize("remote", ["203.0.113.5", "11.0.0.1", "2001:db8:2::1", "", "garbage"])
def test_what_others_tell_is_not_believed(remote: str) -> None:
    assert source(remote, "203.0.113.9", "https") is None
    assert source(remote, "for=203.0.113.9;proto=https", header="Forwarded") is None


@pytest.mark.parametrize(
    ("told", "schemes", "scheme"),
    [
        ("203.0.113.9", "https", "https"),
        ("203.0.113.9", "HTTP", "http"),
        ("203.0.113.9", "", None),
        ("203.0.113.9", "gopher", None),
        ("", "https", "https"),
        ("203.0.113.9, 10.2.2.2", "https", "https"),
        ("203.0.113.9, 10.2.2.2", "https, http", "https"),
        ("1.1.1.1, 203.0.113.9", "https, http", "http"),  # https was written by the client
        ("203.0.113.9", "https, http", "http"),
    ],
)
def test_the_scheme_is_that_of_the_clients_hop(told: str, schemes: str, scheme: str | None) -> None:
    found = source("10.1.1.1", told, schemes)
    assert found is not None and found.scheme == scheme


@pytest.mark.parametrize(
    ("told", "address", "scheme"),
    [
        ("for=203.0.113.9;proto=https;by=10.1.1.1", "203.0.113.9", "https"),
        ('For="203.0.113.9:80"; Proto=HTTPS', "203.0.113.9", "https"),
        ('for="[2001:db8::9]:4711";proto=http', "2001:db8::9", "http"),
        ('for=1.1.1.1;proto=https, for=203.0.113.9;proto=http, for="10.2.2.2";proto=http', "203.0.113.9", "http"),
        ("for=203.0.113.9, for=_hidden;proto=https", "10.1.1.1", "https"),
        ("for=203.0.113.9, for=unknown", "10.1.1.1", None),
        ('for=203.0.113.9, for="10.2.2.2', "10.1.1.1", None),  # a quoted string without an end
        ('for=203.0.113.9;ext="a,for=1.1.1.1"', "203.0.113.9", None),
        ("for=203.0.113.9;for=1.1.1.1", "10.1.1.1", None),
        ("", "10.1.1.1", None),
    ],
)
def test_forwarded(told: str, address: str, scheme: str | None) -> None:
    assert source("10.1.1.1", told, "gopher", "Forwarded") == (address, scheme)


@pytest.mark.parametrize(
    "setting",
    [
        "trusted_proxies = ['10.0.0.1/8']", "trusted_proxies = ['proxy.example']", "trusted_proxies = ['*']",
        "proxy_header = 'X-Real-IP'",
    ],
)  # fmt: skip
def test_bad_settings_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match="write") as failure:
        config.load(None, [setting], {})
    assert setting.partition(" ")[0] in str(failure.value)


def remotes(node: Daemon, count: int) -> list[str]:
    return [
        entry["remote"] for entry in wait_for(lambda: entries(node)[count - 1 :] and entries(node), "all are logged")
    ]


def test_the_log_tells_the_clients_address(start: Callable[..., Daemon]) -> None:
    """Also of requests whose head is known; and each request of a connection has its own."""
    node = start(access_log=True, log_format="json", trusted_proxies=["127.0.0.0/8"])
    connection = node.open()
    told = ["203.0.113.1", "203.0.113.1", "203.0.113.1", "203.0.113.2", None, "203.0.113.1"]
    for address in told:
        connection.request("POST", "/a", "1", {**JSON, **({"X-Forwarded-For": address} if address else {})})
        assert connection.getresponse().read()
    assert remotes(node, len(told)) == [address or "127.0.0.1" for address in told]
    connection.close()


def test_what_is_not_configured_is_ignored(start: Callable[..., Daemon]) -> None:
    node = start(access_log=True, log_format="json", trusted_proxies=["10.0.0.0/8"], proxy_header="Forwarded")
    forged = {"X-Forwarded-For": "203.0.113.1", "Forwarded": "for=203.0.113.1;proto=https"}
    for _ in range(3):
        assert node.request("POST", "/a", "1", {**JSON, **forged})[0] == 200
    assert remotes(node, 3) == ["127.0.0.1"] * 3


def test_only_the_configured_field_counts(start: Callable[..., Daemon]) -> None:
    """A proxy that sets one field passes the client's own other one on."""
    node = start(access_log=True, log_format="json", trusted_proxies=["127.0.0.1"])
    fields = {"X-Forwarded-For": "203.0.113.1", "Forwarded": "for=198.51.100.1"}
    assert node.request("POST", "/a", "1", {**JSON, **fields})[0] == 200
    assert remotes(node, 1) == ["203.0.113.1"]


def test_repeated_fields_are_one_list(start: Callable[..., Daemon]) -> None:
    node = start(access_log=True, log_format="json", trusted_proxies=["127.0.0.1"])
    head = "GET /a?_wait=0 HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.1\r\nX-Forwarded-For: 127.0.0.9\r\n"
    with node.connect() as sock:
        sock.sendall(head.encode() + b"X-Forwarded-For: 203.0.113.7, 127.0.0.1\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 204")
    assert remotes(node, 1) == ["203.0.113.7"]


def test_a_field_with_underscores_is_another_one(start: Callable[..., Daemon]) -> None:
    """A client writes it, and proxies pass it on, some of them behind their own field."""
    node = start(access_log=True, log_format="json", trusted_proxies=["127.0.0.1"])
    head = b"GET /a?_wait=0 HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.1\r\nX_Forwarded_For: 198.51.100.1\r\n"
    with node.connect() as sock:
        for _ in range(3):
            sock.sendall(head + b"X_Forwarded-Proto: https\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 204")
    assert remotes(node, 3) == ["203.0.113.1"] * 3


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    yield from running(tmp_path_factory.mktemp("node"), trusted_proxies=["127.0.0.1"], allowed_hosts=["chat.example"])


@pytest.mark.parametrize("page", ["http://chat.example", "https://chat.example"])
@pytest.mark.parametrize("told", ["http", "https", None])
def test_a_page_is_of_the_same_origin_by_its_scheme_too(node: Daemon, page: str, told: str | None) -> None:
    """Where a trusted proxy tells the scheme, a page by http is another origin than the server by https. Equal heads
    that come from the proxy and from somebody else are judged each by itself."""
    fields = {"Host": "chat.example", "Origin": page, "X-Forwarded-For": "203.0.113.1"}
    if told is not None:
        fields["X-Forwarded-Proto"] = told
    expected = 200 if told is None or page.startswith(f"{told}:") else 403
    for _ in range(3):
        assert status_from("127.0.0.2", node, fields) == 200
        assert status_from("127.0.0.1", node, fields) == expected


def status_from(address: str, node: Daemon, fields: dict[str, str]) -> int:
    """The status of a subscription from this address."""
    connection = http.client.HTTPConnection(node.host, node.port, timeout=60, source_address=(address, 0))
    connection.request("GET", "/a", headers=fields)
    response = connection.getresponse()
    response.close()
    connection.close()
    return response.status


def test_clients_of_a_proxy_are_not_bounded_together(start: Callable[..., Daemon]) -> None:
    """Which of its connections are a client's changes with each request; others are bounded by their address."""
    node = start(trusted_proxies=["127.0.0.1"], max_connections_per_address=2, store="none")
    streams = [Stream(node, "/a", {"X-Forwarded-For": f"203.0.113.{number}"}) for number in (1, 1, 1, 2)]
    assert all(stream.status == 200 for stream in streams)
    with contextlib.ExitStack() as stack:
        others = [
            stack.enter_context(socket.create_connection((node.host, node.port), 60, ("127.0.0.2", 0)))
            for _ in range(3)
        ]
        assert others[-1].recv(100).startswith(b"HTTP/1.1 503")
    for stream in streams:
        stream.close()


def test_a_reload_changes_who_is_trusted(tmp_path: Path, start: Callable[..., Daemon]) -> None:
    file = tmp_path / "conf.py"
    file.write_text("trusted_proxies = ['10.0.0.0/8']\n")
    node = start(config=file, access_log=True, log_format="json")
    fields = {**JSON, "X-Forwarded-For": "203.0.113.1"}
    assert node.request("POST", "/a", "1", fields)[0] == 200
    file.write_text("trusted_proxies = ['127.0.0.1']\n")
    os.kill(node.pid, signal.SIGHUP)
    wait_for(lambda: '"reloaded"' in node.log(), "the settings are read again")

    def believed() -> bool:
        assert node.request("POST", "/a", "1", fields)[0] == 200
        return json.loads(node.log().splitlines()[-1]).get("remote") == "203.0.113.1"

    wait_for(believed, "the worker trusts its proxy")
