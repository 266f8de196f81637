"""examples/answer in Chromium: an answer that is read while it comes, reloaded amid it, and read to its end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import test_clients
from tests.daemons import ROOT, Daemon, wait_for
from tests.test_clients import Browser
from tests.test_daemon import free_port
from tests.test_page import tab

browser = test_clients.browser
EXAMPLE = ROOT / "examples" / "answer"
TEXT = "document.getElementById('answer')?.textContent ?? ''"
STATE = "document.getElementById('state')?.value ?? ''"


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[str]:
    """The example, at its address."""
    port = free_port()
    node = Daemon(tmp_path / "node", allowed_origins=[f"http://127.0.0.1:{port}"], allowed_hosts=None)
    example = subprocess.Popen(
        [sys.executable, str(EXAMPLE / "answer.py"), "--raiden", node.url, "--port", str(port), "--pause", "0.05"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert example.stdout is not None
    try:
        yield example.stdout.readline().strip()
    finally:
        example.terminate()
        example.wait(20)
        example.stdout.close()
        assert node.stop() == 0
    assert "Traceback" not in node.log(), node.log()


def test_an_answer_survives_reloads(browser: Browser, origin: str) -> None:
    with tab(browser, origin) as evaluate:
        ask = "document.querySelector('input').value = 'why?'; document.querySelector('form').requestSubmit()"
        wait_for(lambda: evaluate("document.readyState") == "complete", "the page is there", every=0.05)
        evaluate(ask)
        for least in (20, 60):
            wait_for(lambda least=least: len(evaluate(TEXT)) > least, "words come", every=0.02)  # type: ignore[misc]
            assert evaluate(STATE) == "..."
            evaluate("location.reload()")
        wait_for(lambda: evaluate(STATE) == "That was all.", "it is over", every=0.05)
        whole = evaluate(TEXT)
        assert whole.startswith("You ask: why? ... Nobody knows") and whole.endswith("as you like. ")
        evaluate("document.getElementById('state').value = ''; location.reload()")
        wait_for(lambda: evaluate(STATE) == "That was all.", "it is over at once", every=0.05)
        assert evaluate(TEXT) == whole
