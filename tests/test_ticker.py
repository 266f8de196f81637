"""examples/ticker in Chromium: prices at the rate that is chosen, and what was skipped for them."""

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
EXAMPLE = ROOT / "examples" / "ticker"
ROWS = "[...document.querySelectorAll('tr')]"
PRICES = f"{ROWS}.map((row) => [row.cells[0].textContent, Number(row.cells[1].textContent)])"


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[str]:
    """The example, at its address."""
    port = free_port()
    node = Daemon(tmp_path / "node", allowed_origins=[f"http://127.0.0.1:{port}"], allowed_hosts=None)
    example = subprocess.Popen(
        [sys.executable, str(EXAMPLE / "ticker.py"), "--raiden", node.url, "--port", str(port), "--rate", "100"],
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


def test_prices_at_a_rate(browser: Browser, origin: str) -> None:
    with tab(browser, origin) as evaluate:

        def counts() -> list[int]:
            found = evaluate("['shown', 'skipped'].map((id) => Number(document.getElementById(id)?.value))")
            assert isinstance(found, list)
            return found

        wait_for(lambda: len(evaluate(PRICES)) == 8, "each symbol has a price", every=0.1)
        assert all(price > 0 for _, price in evaluate(PRICES))
        wait_for(lambda: counts()[1] > 50, "most are skipped", every=0.1)
        shown, skipped = counts()
        assert shown < skipped
        evaluate("document.getElementById('rate').value = ''; document.getElementById('rate').onchange()")
        wait_for(lambda: counts()[0] > 100, "all are shown", every=0.1)
        assert counts()[1] == 0
