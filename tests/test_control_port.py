"""The port for those who look after a node, and the one that leads to https."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raiden.http.control import is_control
from raiden.node import config
from raiden.node.config import ConfigError
from tests.certificates import NAME, Authority
from tests.daemons import Daemon, Stream, command, run
from tests.tokens import API_KEYS, JWT_KEYS, KEY, bearer, token

JSON = {"Content-Type": "application/json"}
PAGES = ("/-/metrics", "/-/nodes", "/-/channels", "/-/durables", "/-/channels/a")


class At(Daemon):
    """Another port of a node."""

    def __init__(self, node: Daemon, name: str) -> None:
        found = re.search(rf"\b{name}='?[\d.]+:(\d+)", node.log())
        assert found, node.log()
        self.port = int(found[1])


def pages(node: Daemon, path: str) -> int:
    return node.request("GET", path)[0]


def test_pages_for_those_who_look_after_the_node(start: Callable[..., Daemon]) -> None:
    node = start(control_port=0, workers=2)
    control = At(node, "control")
    assert node.post_json("/a", 1)[0] == 200
    for path in PAGES:
        assert pages(control, path) == 200, path
        status, _, body = node.request("GET", path)
        assert status == 404 and b"control_port" in body, path
    for path in ("/-/health", "/-/ready"):
        assert pages(control, path) == pages(node, path) == 200
    assert pages(node, "/-/channels/a/history") == 200  # it is for clients
    for method, path in (("GET", "/a?_wait=0"), ("POST", "/a"), ("GET", "/-/subscribe?channel=a&_wait=0")):
        for _ in range(3):  # what one port remembers of a request is not the other's
            assert node.request(method, path, "1", JSON)[0] != 404
            assert control.request(method, path, "1", JSON)[0] == 404, path
    assert control.request("GET", "/-/metrics", headers={"Host": "evil.example"})[0] == 421
    words = command("nodes", data_dir=node.folder, control_port=control.port, http_port=1)
    done = run(words)
    assert done.stdout.startswith("ADDRESS")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/-/metrics", True), ("/-/channels/a/b", True), ("/-/revoke", True), ("/-/disconnect", True),
        ("/-/webhooks/dead", True),
        ("/-/channels/a/history", False), ("/-/channels/a/presence", False), ("/-/publish", False), ("/metrics", False),
        ("/-/websocket", False), ("/-/answer/1", False), ("/-/metric", False), ("/", False),
    ],
)  # fmt: skip
def test_which_paths_are_theirs(path: str, expected: bool) -> None:
    assert is_control(path) is expected


def test_permissions_are_needed_there_too(start: Callable[..., Daemon]) -> None:
    """And what is revoked there ends at the public port."""
    node = start(control_port=0, workers=2, jwt_keys=JWT_KEYS, api_keys=API_KEYS, store="none")
    control, gone = At(node, "control"), bearer(token("gone"))
    assert pages(control, "/-/metrics") == 401
    assert control.request("GET", "/-/metrics", headers=bearer(KEY))[0] == 200
    with Stream(node, "/a", gone) as stream:
        order = ("POST", "/-/revoke", '{"sub": "gone"}')
        assert node.request(*order, {**JSON, **bearer(KEY)})[0] == 404
        assert control.request(*order, {**JSON, **bearer(KEY)})[0] == 200
        assert stream.line() == b""
    assert node.request("GET", "/a?_wait=0", headers=gone)[0] == 401


def test_settings(tmp_path: Path) -> None:
    for settings, why in (
        (["control_port = 1", "control_host = '0.0.0.0'"], "control_host = '0.0.0.0' lets anyone"),
        (["control_port = 65536"], "control_port must be"),
        (["control_port = 8088"], "control_port = 8088 is the http_port, too"),
        (["http_redirect_port = 80"], "set tls_cert"),
        (["proxy_protocol = ['http_port']"], "set trusted_proxies"),
        (["proxy_protocol = ['control_port']", "trusted_proxies = ['::1']"], "'control_port' is no port"),
    ):
        with pytest.raises(ConfigError, match=re.escape(why)):
            config.load(None, settings, {})
    assert config.load(None, ["control_host = '0.0.0.0'"], {})[0].control_port is None


# The port that leads to https.


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("node")
    cert, key = Authority(folder).issue(NAME)

    class Plain(Daemon):
        def open(self) -> Any:  # nothing is published here
            return None

        def hang_up(self) -> None:
            pass

    node = Plain(folder, tls_cert=cert, tls_key=key, http_redirect_port=0, store="none", allowed_hosts=["chat.example"])
    yield node
    assert node.stop() == 0
    assert "Traceback" not in node.log(), node.log()


@pytest.mark.parametrize(
    ("method", "host", "target"),
    [
        ("GET", "chat.example", "/a?x=1&_token=t"),
        ("POST", "chat.example:8080", "/a"),
        ("DELETE", "CHAT.example", "/a%2Fb"),
        ("GET", "[::1]:80", "/"),
        ("GET", "chat.example", "//evil.example/"),
        ("GET", "chat.example", "/-/metrics"),
    ],
)
def test_http_leads_to_https(node: Daemon, method: str, host: str, target: str) -> None:
    for _ in range(2):
        status, fields, body = At(node, "http_redirect").request(method, target, "1", {"Host": host, **JSON})
        name = re.sub(r":\d+$", "", host).lower()
        assert (status, fields["location"], body) == (308, f"https://{name}:{node.port}{target}", b"")


@pytest.mark.parametrize(
    ("host", "status"), [("evil.example", 421), ("", 400), ("a b", 400), ("chat.example@evil.example", 400)]
)
def test_it_leads_nowhere_else(node: Daemon, host: str, status: int) -> None:
    found, fields, _ = At(node, "http_redirect").request("GET", "/a", headers={"Host": host})
    assert found == status and "location" not in fields
