"""Paths that dialects take from the channels' names, and the setting that opens them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raiden.http.routes import Routes
from raiden.node import config
from tests.daemons import DEFAULTS, ROOT, Daemon, command


class Served:
    """An application for some paths."""

    judges_origins = False

    def dispatch(self, connection: Any, request: Any) -> Any:
        return None


def test_a_path_leads_to_the_one_that_took_it() -> None:
    routes, api, app, push = Routes(), Served(), Served(), Served()
    routes.add("/api/", api)
    routes.add("/app/", app)
    routes.add("/push", push)
    assert routes.of("/api/publish") is api and routes.of("/app/key") is app and routes.of("/push") is push
    for path in ("/", "/api", "/apis/x", "/push/", "/pushes", "/-/api/"):
        assert routes.of(path) is None
    assert sorted(routes.names()) == ["api/*", "app/*", "push"]


def test_a_path_is_taken_once() -> None:
    routes = Routes()
    routes.add("/api/", Served())
    routes.add("/api", Served())
    for path in ("/api/", "/api"):
        with pytest.raises(ValueError, match="served already"):
            routes.add(path, Served())


def test_an_unknown_dialect_is_refused() -> None:
    for name, told in (
        ("klingon", "there is no dialect 'klingon'; there are cable, centrifuge, pusher, streams"),
        ("centrifugo", "there is no dialect 'centrifugo'; did you mean centrifuge?"),
    ):
        with pytest.raises(config.ConfigError, match=re.escape(f"dialects: {told}")):
            config.load(None, [f"dialects=[{name!r}]"], {})


def test_what_a_dialect_lacks_is_told() -> None:
    for values, told in (
        (["dialects=centrifuge"], ["centrifuge lets no client connect"]),
        (["dialects=centrifuge", "centrifuge_anonymous=True"], []),
        (["dialects=centrifuge", "delegate={'url': 'http://127.0.0.1:1/'}"], []),
        (
            ["dialects=centrifuge", "delegate={'url': 'http://127.0.0.1:1/', 'events': ['subscribe']}"],
            ["centrifuge lets no client connect"],
        ),
        (["centrifuge_anonymous=True", "streams_poll=5"], ["centrifuge_anonymous counts", "streams_poll counts"]),
        (["dialects=streams", "streams_poll=5"], []),
    ):
        settings, _ = config.load(None, values, {})
        found = config.warnings(settings)
        assert len(found) == len(told) and all(map(str.startswith, found, told)), found


def test_the_banner_names_the_dialects(start: Callable[..., Daemon]) -> None:
    node = start(dialects=["streams", "pusher"], pusher_apps=[{"id": "1", "key": "k", "secret": "s"}])
    assert "  dialects:   streams, pusher" in node.banner().splitlines()


def test_two_dialects_of_one_path_are_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        command(data_dir=tmp_path, dialects=["cable", "centrifuge"], cable_path="/connection/websocket", **DEFAULTS),
        capture_output=True, text=True, timeout=60, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 1
    assert "'centrifuge' and one before it have the path /connection/websocket" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
