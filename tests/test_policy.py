"""The policy: who may do what to which channel, and to which pattern."""

from __future__ import annotations

from typing import Any

import pytest

from raiden.access.clients import NOBODY_KNOWN, Client, Patterns
from raiden.access.policy import Policy
from raiden.model.refusals import Forbidden, Unauthorized

CHANNELS: dict[str, Any] = {
    "*": {}, "open.*": {"subscribe": "anyone"}, "open.secret.*": {"subscribe": "nobody"}, "open.some": {},
}  # fmt: skip


def client(*names: str) -> Client:
    return Client("ann", {"subscribe": Patterns.of(names)}, credential="token")


GUARDED, UNGUARDED = Policy(CHANNELS, guarded=True), Policy(CHANNELS, guarded=False)


@pytest.mark.parametrize(
    ("names", "name", "allowed"),
    [
        (["a"], "a", True), (["a"], "b", False), (["a*"], "abc", True), (["a*"], "a*", True), (["a*"], "ab*", True),
        (["ab*"], "a*", False), ([], "open.x", True), ([], "open.x*", True), ([], "open.*", False),
        (["*"], "open.*", False), (["*"], "open.secret.x", False), (["*"], "*", False), ([], "open.some", False),
        (["open.some"], "open.some", True), ([], "open.som*", False), (["open.som*"], "open.som*", True),
        (["*"], "closed.*", True),
    ],
)  # fmt: skip
def test_where_clients_have_tokens(names: list[str], name: str, allowed: bool) -> None:
    assert GUARDED.allows(client(*names), "subscribe", name) is allowed
    if allowed:
        GUARDED.check(client(*names), "subscribe", name)
    else:
        with pytest.raises(Forbidden):
            GUARDED.check(client(*names), "subscribe", name)


def test_a_client_without_a_token_is_asked_for_one() -> None:
    with pytest.raises(Unauthorized, match="token is needed to publish to 'a'"):
        GUARDED.check(NOBODY_KNOWN, "publish", "a")
    GUARDED.check(NOBODY_KNOWN, "subscribe", "open.x")
    with pytest.raises(Forbidden, match="nobody may"):
        GUARDED.check(NOBODY_KNOWN, "subscribe", "open.secret.x")


def test_where_nobody_has_a_token_all_is_open_but_what_is_closed() -> None:
    for action, name in (("publish", "a"), ("subscribe", "a"), ("manage", "*"), ("subscribe", "open.some")):
        UNGUARDED.check(NOBODY_KNOWN, action, name)
    for name in ("open.secret.x", "open.secret.*", "open.*", "*"):
        with pytest.raises(Forbidden):
            UNGUARDED.check(NOBODY_KNOWN, "subscribe", name)


def test_whether_all_is_open_and_whether_anything_is() -> None:
    assert Policy({}, guarded=False).is_open and Policy({"*": {}}, guarded=False).is_open
    assert not Policy({"a": {"publish": "nobody"}}, guarded=False).is_open
    assert not Policy({}, guarded=True).is_open and not Policy({}, guarded=True).has_open
    assert GUARDED.has_open
    closed = {"*": dict.fromkeys(("subscribe", "publish", "history", "presence", "request", "serve"), "token")}
    assert Policy(closed, guarded=False).has_open, "anyone may manage"


def test_what_a_prefix_brings() -> None:
    def within(policy: Policy, names: list[str], prefix: str) -> list[str]:
        return sorted(policy.within(client(*names), "subscribe", prefix))

    assert within(GUARDED, ["a*", "b"], "") == ["a*", "b"]
    assert within(GUARDED, ["*"], "") == [], "a part of it is for nobody"
    assert within(GUARDED, ["*"], "a") == ["a*"]
    assert within(GUARDED, [], "open.x") == ["open.x*"]
    assert within(GUARDED, [], "closed") == []
    assert within(Policy({}, guarded=False), [], "a") == ["a*"]
