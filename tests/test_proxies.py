"""The proxies' configurations in docs/proxies.md, each with its program."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.daemons import ROOT, Daemon, environment, wait_for
from tests.test_access_log import entries
from tests.test_clients import running, tool
from tests.test_daemon import free_port

NAME = "chat.example.com"
JSON = "application/json"
# The client's address, which is not the proxy's.
CLIENT = "127.0.0.2"
VITE = ROOT / "build/node/node_modules/vite/bin/vite.js"


def documented(language: str) -> str:
    """The configuration that the document has in this language."""
    found = re.search(rf"^```{language}\n(.*?)^```", (ROOT / "docs/proxies.md").read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


class Proxy:
    """A proxy that runs; ``host`` is the public name and port, ``prefix`` comes before the node's paths."""

    def __init__(self, node: Daemon, port: int, host: str, prefix: str = "") -> None:
        self.node = node
        self.port = port
        self.host = host
        self.prefix = prefix

    def socket(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 20)

    @contextmanager
    def get(self, path: str, method: str = "GET", body: str | None = None, **fields: str) -> Iterator[Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20, source_address=(CLIENT, 0))
        fields = {name.replace("_", "-"): value for name, value in fields.items()}
        try:
            connection.request(method, self.prefix + path, body, {"Host": self.host, **fields})
            response = connection.getresponse()
            try:
                yield response
            finally:
                response.close()
        finally:
            connection.close()

    def is_up(self) -> bool:
        try:
            with self.get("/-/publish") as response:
                return bool(response.status == 405)  # the node's answer
        except OSError:
            return False


@contextmanager
def nginx(node: Daemon, folder: Path) -> Iterator[Proxy]:
    program, port = tool("nginx"), free_port()
    temporary = "".join(f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy"))
    server = replaced(
        documented("nginx"), ("listen 80;", f"listen 127.0.0.1:{port};"), ("127.0.0.1:8088", f"127.0.0.1:{node.port}")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; pid {folder}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {temporary} {server} }}\n"
    )
    with running(program, "-p", str(folder), "-c", str(config), stderr=subprocess.DEVNULL):
        yield Proxy(node, port, NAME)


@contextmanager
def haproxy(node: Daemon, folder: Path) -> Iterator[Proxy]:
    program, port = tool("haproxy"), free_port()
    config = folder / "haproxy.cfg"
    config.write_text(
        replaced(documented("haproxy"), ("bind :80 ", f"bind 127.0.0.1:{port} "), (":8088", f":{node.port}"))
    )
    with running(program, "-db", "-f", str(config), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        yield Proxy(node, port, NAME)


@contextmanager
def caddy(node: Daemon, folder: Path) -> Iterator[Proxy]:
    program, port = tool("caddy"), free_port()
    config = folder / "Caddyfile"
    site = replaced(documented("caddy"), (f"{NAME} {{", f"http://{NAME}:{port} {{\n    bind 127.0.0.1"),
                    (":8088", f":{node.port}"))  # fmt: skip
    config.write_text(f"{{\n    admin off\n}}\n{site}")
    environ = {**environment(), "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    words = (program, "run", "--config", str(config), "--adapter", "caddyfile")
    with running(*words, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        yield Proxy(node, port, f"{NAME}:{port}")


@contextmanager
def vite(node: Daemon, folder: Path) -> Iterator[Proxy]:
    program, port = tool("node", "nodejs"), free_port()
    if not VITE.exists():
        pytest.skip("the npm package vite is not installed")
    config = folder / "vite.config.mjs"
    config.write_text(replaced(documented("js"), (":8088", f":{node.port}")))
    words = (str(VITE), str(folder), "--config", str(config), "--host", "127.0.0.1", "--port", str(port))
    with running(program, *words, "--strictPort", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        yield Proxy(node, port, f"localhost:{port}", "/raiden")


@pytest.mark.parametrize("program", [nginx, haproxy, caddy, vite])
def test_what_the_documents_tell_to_configure(
    start: Callable[..., Daemon], tmp_path: Path, program: Callable[[Daemon, Path], Any]
) -> None:
    """A page of the public name subscribes and publishes, each message comes when it is published, strangers don't see
    the node's own pages, and the node knows the client's address."""
    node = start(allowed_hosts=[NAME], trusted_proxies=["127.0.0.1"], access_log=True, log_format="json")
    with program(node, tmp_path) as proxy:
        wait_for(proxy.is_up, "the proxy passes requests on", 60)
        origin: Any = f"http://{proxy.host}"
        with (
            proxy.get("/a/b%2Fc", Accept="text/event-stream", Origin=origin) as events,
            proxy.get("/a/b%2Fc", Origin=origin) as lines,
            connect(f"ws://{proxy.host}{proxy.prefix}/a/b/c", sock=proxy.socket(), origin=origin) as ws,
        ):
            assert (events.status, lines.status) == (200, 200)
            for number in range(3):  # each of them at once, not when there is enough to send
                with proxy.get("/a/b/c", "POST", str(number), Origin=origin, Content_Type=JSON) as response:
                    assert response.status == 200, response.read()
                assert ws.recv(timeout=20) == str(number)
                assert next(line for line in events if line.startswith(b"data: ")) == b"data: %d\n" % number
                assert next(line for line in lines if line.strip()) == b"%d\n" % number
            ws.send('"by a socket"')
            assert ws.recv(timeout=20) == '"by a socket"'
        with proxy.get("/a/b/c?_wait=5&_last=1") as response:
            assert json.loads(response.read())["messages"][0]["data"] == "by a socket"
        with proxy.get("/-/subscribe?channel=a/b/c&_wait=0") as response:
            assert response.status == 204
        with proxy.get("/", Accept="text/html") as response:
            assert response.status == 200 and b"Raiden" in response.read()
        with proxy.get("/a", "POST", "1", Origin="http://evil.example", Content_Type=JSON) as response:
            assert response.status == 403
        if not proxy.prefix:
            with proxy.get("/forged?_wait=0", X_Forwarded_For="203.0.113.9"):
                pass
            told = wait_for(lambda: [each["remote"] for each in entries(node) if "forged" in each["target"]], "logged")
            assert told == [CLIENT]
            for path in ("/-/metrics", "/-%2Fmetrics", "/%2D/metrics", "/-/channels", "/-/nodes", "/-/ready"):
                with proxy.get(f"{path}?_wait=0") as response:
                    assert response.status == 404, path
