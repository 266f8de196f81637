"""examples/cursors in Chromium: two people with browsers of their own, who see each other's cursors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests import test_clients
from tests.daemons import ROOT, Daemon, wait_for
from tests.test_clients import Browser
from tests.test_daemon import free_port
from tests.test_page import tab
from tests.tokens import SECRET

browser = test_clients.browser
EXAMPLE = ROOT / "examples" / "cursors"
MEMBERS = "[...document.querySelectorAll('#members li')].map((each) => each.textContent).sort()"
CURSORS = "[...document.querySelectorAll('.cursor')].map((each) => [each.textContent, each.style.translate])"


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[str]:
    """The example's application, at its address."""
    port = free_port()
    variables = {"BOARD_SECRET": SECRET, "BOARD_ORIGIN": f"http://127.0.0.1:{port}"}
    node = Daemon(
        tmp_path / "node", config=EXAMPLE / "raiden.conf.py", variables=variables, workers=2, allowed_hosts=None,
        presence_linger=1,
    )  # fmt: skip
    more = {"BOARD_PORT": str(port), "BOARD_RAIDEN": f"ws://127.0.0.1:{node.port}"}
    application = subprocess.Popen(
        [sys.executable, str(EXAMPLE / "board.py")], env={**os.environ, **variables, **more}, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert application.stdout is not None
    try:
        yield application.stdout.readline().strip()
    finally:
        application.terminate()
        application.wait(20)
        application.stdout.close()
        assert node.stop() == 0
    assert "Traceback" not in node.log(), node.log()


Evaluate = Callable[[str], Any]


def come(browser: Browser, origin: str, name: str, stack: ExitStack) -> Evaluate:
    """Somebody enters, with a browser of their own that is closed with the stack."""
    context = browser.call("Target.createBrowserContext")["browserContextId"]
    stack.callback(browser.call, "Target.disposeBrowserContext", browserContextId=context)
    evaluate = stack.enter_context(tab(browser, origin, browserContextId=context))
    wait_for(lambda: evaluate("document.forms[0]?.hidden") is False, "the page is there")
    evaluate(f"document.forms[0].elements.name.value = '{name}'; document.forms[0].requestSubmit()")
    return evaluate


def sees(evaluate: Evaluate, *names: str) -> None:
    wait_for(lambda: evaluate(MEMBERS) == list(names), f"{names} are there", every=0.05)


def move(evaluate: Evaluate, part: float) -> None:
    """Move the pointer to this part of the page's width and height."""
    place = f"{{clientX: innerWidth * {part}, clientY: innerHeight * {part}}}"
    evaluate(f"dispatchEvent(new PointerEvent('pointermove', {place}))")


def names(evaluate: Evaluate) -> list[str]:
    return [name for name, _ in evaluate(CURSORS)]


def test_two_cursors(browser: Browser, origin: str) -> None:
    with ExitStack() as stack, ExitStack() as bobs:
        ann = come(browser, origin, "ann", stack)
        sees(ann, "ann")
        bob, again = (come(browser, origin, "bob", bobs) for _ in range(2))
        for each in (ann, bob, again):
            sees(each, "ann", "bob")
        move(bob, 0.5)
        wait_for(lambda: names(ann) == ["bob"], "ann sees bob's cursor", every=0.05)
        before = ann(CURSORS)
        move(bob, 0.25)
        wait_for(lambda: ann(CURSORS) != before, "it moves", every=0.05)
        move(ann, 0.5)
        wait_for(lambda: names(bob) == ["ann"], "and bob sees hers", every=0.05)
        assert names(ann) == ["bob"], "nobody sees their own"
        bobs.close()
        sees(ann, "ann")
        assert names(ann) == []
