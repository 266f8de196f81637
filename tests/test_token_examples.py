"""The examples of docs/tokens.md that make tokens, each run as it stands there: a node accepts their tokens. And the
ways in which a page brings its token, in Chromium. A language whose tools are not there is skipped by name."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests import test_clients
from tests.daemons import ROOT, Daemon, wait_for
from tests.test_clients import Browser
from tests.test_daemon import free_port
from tests.test_page import tab
from tests.tokens import JWT_KEYS, SECRET, bearer, token

browser = test_clients.browser

DOCUMENT = (ROOT / "docs" / "tokens.md").read_text()
# The other secrets let each character of Base64 come up, whatever the time.
SECRETS = [SECRET, "grüße" * 8, "7" * 64]


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## )", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found, title
    return found.group(1)


def blocks(title: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", section(title), re.MULTILINE | re.DOTALL)


# Languages: the suffix of a program's file, and how it is run, once it is made.


def interpreted(*command: str) -> Callable[[Path], list[str]]:
    return lambda program: [*command, str(program)]


def compiled_go(program: Path) -> list[str]:
    made = program.with_suffix("")
    subprocess.run(["go", "build", "-o", str(made), str(program)], check=True, timeout=600)
    return [str(made)]


LANGUAGES: dict[str, tuple[str, str, Callable[[Path], list[str]]]] = {
    "python": ("py", sys.executable, interpreted(sys.executable)),
    "javascript": ("js", "node", interpreted("node")),
    "go": ("go", "go", compiled_go),
    "php": ("php", "php", interpreted("php")),
    "ruby": ("rb", "ruby", interpreted("ruby")),
}


def test_each_language_is_tested() -> None:
    assert re.findall(r"^```(\w+)", section("Making tokens"), re.MULTILINE) == list(LANGUAGES)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    keys = [{"alg": "HS256", "key": secret} for secret in SECRETS]
    node = Daemon(tmp_path_factory.mktemp("node"), jwt_keys=keys, jwt_leeway=0.0)
    yield node
    assert node.stop() == 0


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_token_is_made_and_accepted(language: str, node: Daemon, tmp_path: Path) -> None:
    suffix, needed, prepare = LANGUAGES[language]
    if shutil.which(needed) is None:
        pytest.skip(f"{language}: needs {needed}")
    (program,) = blocks("Making tokens", language)
    path = tmp_path / f"make_token.{suffix}"
    path.write_text(program)
    argv = prepare(path)
    json_type = {"Content-Type": "application/json"}
    for secret in SECRETS:
        done = subprocess.run(
            argv, env={**os.environ, "SECRET": secret}, capture_output=True, text=True, timeout=60, check=True
        )
        made = done.stdout.strip()
        assert made.isprintable() and made.count(".") == 2 and "=" not in made, made
        claims = jwt.decode(made, secret, ["HS256"])
        assert claims["exp"] - claims["iat"] == 300
        head = bearer(made)
        for channel, status in (("news", 204), ("inbox.ann", 204), ("inbox.bob", 403), ("chat.1", 403)):
            assert node.request("GET", f"/{channel}?_wait=0", None, head)[0] == status
        for channel, status in (("chat.1", 200), ("news", 403)):
            assert node.request("POST", f"/{channel}", "1", {**json_type, **head})[0] == status


# Browsers.


class Application(BaseHTTPRequestHandler):
    """An application that gives tokens, as JSON, and in the document's cookie; for so many seconds."""

    lasts = 600.0
    cookie = ""
    asked = 0

    def do_GET(self) -> None:
        self._answer(b"<!doctype html><title>page</title>", "text/html")

    def do_POST(self) -> None:
        type(self).asked += 1
        made = token("ann", lasts=self.lasts, subscribe=["news"])
        self._answer(json.dumps({"token": made}).encode(), "application/json", self.cookie.replace("TOKEN", made))

    def _answer(self, body: bytes, kind: str, cookie: str = "") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if cookie:
            self.send_header("Set-Cookie", cookie)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def application(port: int, **options: Any) -> Iterator[type[Application]]:
    handler = type("Handler", (Application,), options)
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield handler
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Daemon]]:
    """The port for an application, and a node that its page may use."""
    port = free_port()
    node = Daemon(
        tmp_path_factory.mktemp("page"), jwt_keys=JWT_KEYS, jwt_leeway=0.0, token_cookie="raiden", allowed_hosts=None,
        allowed_origins=[f"http://127.0.0.1:{port}"],
    )  # fmt: skip
    yield port, node
    assert node.stop() == 0


def scripts(node: Daemon) -> list[str]:
    """The document's scripts, for this node in the place of its example."""
    host = node.url.removeprefix("http://")
    found = blocks("From a browser", "js")
    return [each.replace("s://raiden.example.com", f"://{host}") for each in found]


def publish(node: Daemon, value: Any) -> None:
    head = {"Content-Type": "application/json", **bearer(token("server"))}
    assert node.request("POST", "/news", json.dumps(value), head)[0] == 200


def test_a_page_by_a_subprotocol(browser: Browser, page: tuple[int, Daemon]) -> None:
    port, node = page
    with application(port), tab(browser, f"http://127.0.0.1:{port}/") as evaluate:
        wait_for(lambda: evaluate("document.title") == "page", "the page is there")
        evaluate(f"{scripts(node)[0]}; const got = []; connect((frame) => got.push(frame))")
        wait_for(lambda: evaluate("got.length") == 1, "it has subscribed")
        publish(node, "by socket")
        wait_for(lambda: evaluate("got[1]?.data") == "by socket", "it gets what is published")


def test_a_page_by_an_event_source(browser: Browser, page: tuple[int, Daemon]) -> None:
    """Its token expires twice: before a message has come, and after."""
    port, node = page
    with application(port, lasts=3.0) as handler, tab(browser, f"http://127.0.0.1:{port}/") as evaluate:
        wait_for(lambda: evaluate("document.title") == "page", "the page is there")
        evaluate(f"""const got = [], sources = [];
            console.log = (value) => got.push(value);
            EventSource = class extends EventSource {{
                constructor(...given) {{ super(...given); sources.push(this); }}
            }};
            {scripts(node)[1]}""")
        wait_for(lambda: evaluate("sources[0]?.readyState") == 1, "it is open")

        def expires_and_goes_on(number: int, shown: str) -> None:
            opened = evaluate("sources.length")
            wait_for(lambda: evaluate("sources.at(-1).readyState") == 2, "it has expired")
            publish(node, number)
            wait_for(lambda: evaluate("got.join()") == shown, "it gets what was published meanwhile")
            assert evaluate("sources.length") > opened and handler.asked > opened

        expires_and_goes_on(1, "1")
        expires_and_goes_on(2, "1,2")


def test_a_page_by_a_cookie(browser: Browser, page: tuple[int, Daemon]) -> None:
    port, node = page
    found = re.search(r"^Set-Cookie: (.*)$", section("From a browser"), re.MULTILINE)
    assert found
    cookie = found.group(1).replace("Domain=example.com; ", "")
    context = browser.call("Target.createBrowserContext")["browserContextId"]
    script = scripts(node)[2].replace("const ", "")
    publish(node, "the last")
    with (
        application(port, cookie=cookie),
        tab(browser, f"http://127.0.0.1:{port}/", browserContextId=context) as evaluate,
    ):
        wait_for(lambda: evaluate("document.title") == "page", "the page is there")
        evaluate(f"""const got = {{}};
            fetch("/token", {{ method: "POST" }}).then(async () => {{
                {script}
                socket.onmessage = (event) => {{ got.socket = event.data; }};
                events.onmessage = (event) => {{ got.events = event.data; }};
                got.fetch = (await answer.json()).messages[0].data;
            }});""")
        wait_for(lambda: evaluate("got.fetch") == "the last", "fetch is let in")
        wait_for(lambda: evaluate("[socket.readyState, events.readyState].join()") == "1,1", "both are open")
        publish(node, "by cookie")
        wait_for(lambda: evaluate("[got.socket, got.events].join()") == '"by cookie","by cookie"', "it comes")
        assert evaluate("document.cookie") == ""
    browser.call("Target.disposeBrowserContext", browserContextId=context)
