"""The callers of doors, and doors by HTTP: who may do what is told by tables of both."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import quote

from tests.daemons import Daemon, Stream
from tests.tokens import KEY, OTHER, SMALL_KEY, bearer, on, token

ALL, ONLY_ELSEWHERE = on("*"), on("elsewhere")
RED = [{"channel": "*", "filters": {"team": "red"}}]

# The callers: what each shows, and the answer it gets.

CALLERS: dict[str, tuple[str | None, int]] = {
    "nothing": (None, 401),
    "nonsense": ("nonsense", 401),
    "no token": ("a.b.c", 401),
    "expired": (token(lasts=-60), 401),
    "not yet": (token(nbf=4e9, **ALL), 401),
    "another secret": (token(secret=OTHER), 401),
    "revoked": (token("gone"), 401),
    "another channel": (token(**ONLY_ELSEWHERE), 403),
    "no permission": (token(sub="ann", info=1), 403),
    "another API key": (SMALL_KEY, 403),
    "right": (token(), 200),
    "right by name": (token(**on("CHANNEL")), 200),
    "right with filters": (token(**{**ALL, "subscribe": RED, "history": RED}), 200),
    "API key": (KEY, 200),
}

CALLERS_BY = {credential: (name, status) for name, (credential, status) in CALLERS.items() if credential}
GOOD = (200, 101, 201, 202, 204)


# The doors: each does one thing to a channel with a credential, and returns the status.

Door = Callable[[Daemon, str, "str | None"], int]
JSON = {"Content-Type": "application/json"}


def by_http(method: str, path: str, body: str | None = None, **headers: str) -> Door:
    def door(node: Daemon, channel: str, credential: str | None) -> int:
        target = path.replace("CHANNEL", quote(channel, safe=""))
        sent = None if body is None else body.replace("CHANNEL", channel)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        status, told, answer = node.request(method, target, sent, {**named, **bearer(credential)})
        if status == 401:
            assert told["www-authenticate"].startswith("Bearer")
        if status in (401, 403):
            assert json.loads(answer)["detail"]
        return status

    return door


def stream(path: str, **headers: str) -> Door:
    def door(node: Daemon, channel: str, credential: str | None) -> int:
        with Stream(node, path.replace("CHANNEL", channel), {**headers, **bearer(credential)}) as found:
            return found.status

    return door


def shown(caller: str, channel: str) -> tuple[str | None, int]:
    """What the caller shows for this channel, and the status that it should get."""
    credential, status = CALLERS[caller]
    if caller == "right by name":
        credential = token(**on(channel))
        CALLERS_BY[credential] = caller, status
    return credential, status


def revoke(node: Daemon) -> None:
    """Revoke the token of the caller who is called so."""
    assert node.request("POST", "/-/revoke", '{"sub": "gone"}', {**JSON, **bearer(KEY)})[0] == 200


def judge(got: int, wanted: int) -> None:
    assert got == wanted if wanted != 200 else got in GOOD, got
