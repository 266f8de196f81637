"""Turbo's own element in a browser: a stream of a page, and what the application broadcasts to it."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.daemons import ROOT, Daemon, wait_for
from tests.dialects.cable import SECRET, publish, signed
from tests.test_clients import Browser, Files, browser  # noqa: F401

TURBO = ROOT / "build/node/node_modules/@hotwired/turbo-rails/app/assets/javascripts/turbo.js"


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[int]:
    """The port of a web server with the page and Turbo."""
    if not TURBO.is_file():
        pytest.skip("needs Turbo: npm install --prefix build/node @hotwired/turbo-rails@8")
    folder = tmp_path / "pages"
    folder.mkdir()
    shutil.copy(TURBO, folder)
    shutil.copy(ROOT / "tests/clients/turbo.html", folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_turbo(browser: Browser, pages: int, start: Callable[..., Daemon]) -> None:  # noqa: F811
    origin = f"http://127.0.0.1:{pages}"
    node = start(dialects=["cable"], cable_secret=SECRET, allowed_origins=[origin])
    asked = urlencode({"url": f"ws://{node.host}:{node.port}/cable", "signed": signed("board")})
    with browser.page(f"{origin}/turbo.html?{asked}") as report:
        wait_for(lambda: "connected" in report(), "the element is connected")
        for item in ("one", "zwei ü"):
            html = f'<turbo-stream action="append" target="list"><template><li>{item}</li></template></turbo-stream>'
            publish(node, "board", html)
        wait_for(lambda: json.loads(report().get("items", "[]")) == ["one", "zwei ü"], "the page has both")
