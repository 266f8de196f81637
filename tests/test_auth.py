"""What clients may do, and how a setting says it."""

from __future__ import annotations

from typing import Any

import pytest

from raiden.access.clients import ALL, NOBODY_KNOWN, NONE, Client, Patterns, clients
from raiden.access.policy import Policy
from raiden.model.refusals import Forbidden

KEY = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"


def test_a_pattern_allows_what_begins_so_and_a_name_only_itself() -> None:
    allowed = Patterns.of(["news.*", "chat"])
    assert allowed.allows("news.de") and allowed.allows("news.") and allowed.allows("chat")
    assert not any(map(allowed.allows, ["news", "chats", "cha", "x.news.de", ""]))


def test_all_is_all_and_none_is_none() -> None:
    assert ALL.allows("a") and not NONE.allows("a")
    assert ALL.within("a") == ["a*"] and NONE.within("") == []


def test_within_a_prefix_is_what_is_allowed_of_it() -> None:
    allowed = Patterns.of(["news.*", "newsletter", "chat"])
    assert allowed.within("news.de") == ["news.de*"]
    assert sorted(allowed.within("news")) == ["news.*", "newsletter"]
    assert sorted(allowed.within("")) == ["chat", "news.*", "newsletter"]
    assert allowed.within("newsletters") == []


def test_what_a_key_does_not_list_is_not_allowed() -> None:
    client = clients({KEY: {"name": "feeder", "publish": ["news.*"]}})[KEY.encode()]
    policy = Policy({}, guarded=True)
    policy.check(client, "publish", "news.de")
    for action, channel in (("publish", "chat"), ("subscribe", "news.de"), ("history", "news.de")):
        with pytest.raises(Forbidden, match=f"feeder may not .*{channel}.*{action}"):
            policy.check(client, action, channel)


def test_without_keys_anyone_may_do_all() -> None:
    for action in ("subscribe", "publish", "history"):
        Policy({}, guarded=False).check(NOBODY_KNOWN, action, "a")


def test_clients_are_equal_where_they_may_do_the_same() -> None:
    assert (
        Client("a", {"publish": ALL}) == Client("a", {"publish": Patterns.of(["*"])}) != Client("a", {"publish": NONE})
    )
    one, other = (clients({KEY: {"name": "a", "publish": names}}) for names in (["b*", "a*", "x"], ["x", "a*", "b*"]))
    assert one == other


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (None, "a dict with a name"),
        ([], "a dict with a name"),
        ({}, "a dict with a name"),
        ({"publish": ["*"]}, "a dict with a name"),
        ({"name": 1}, "a dict with a name"),
        ({"name": "a", "publsh": ["*"]}, "unknown option 'publsh'"),
        ({"name": "a", "publish": "*"}, "publish of .* must be a list"),
        ({"name": "a", "publish": None}, "must be a list"),
        ({"name": "a", "subscribe": [1]}, "must be a list"),
        ({"name": "a", "history": [""]}, "must be a list"),
        ({"name": "a", "history": ["-/x"]}, "must be a list"),
        ({"name": "a", "history": ["a\n"]}, "must be a list"),
    ],
)
def test_what_is_wrong_with_a_setting_is_said(options: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        clients({KEY: options})
