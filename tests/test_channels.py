"""Options of channels: which pattern counts, which options are refused and how, and what does not go together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from raiden.model import options
from raiden.model.options import Channels, Durability, Options
from raiden.node.config import ConfigError, load


def settings(**values: Any) -> Any:
    return load(overrides=[f"{name} = {value!r}" for name, value in values.items()], environ={})[0]


# Which pattern counts.


@pytest.mark.parametrize(
    ("channel", "size"),
    [
        ("a", 1), ("news", 1), ("news.", 2), ("news.de", 2), ("news.de.x", 3), ("news.de.x.y", 3), ("news.de.x*", 3),
        ("news.de.y", 4), ("news.de.y.z", 2), ("*", 1),
    ],
)  # fmt: skip
def test_the_longest_match_wins(channel: str, size: int) -> None:
    sizes = {"news.*": 2, "*": 1, "news.de.x*": 3, "news.de.y": 4}
    found = Channels({pattern: {"history_size": size} for pattern, size in sizes.items()})
    assert found.of(channel).history_size == size
    assert found.of(channel) is found.of(channel), "it is remembered"


def test_the_rest_has_the_defaults() -> None:
    found = Channels({"*": {"history_size": 5, "retain": 9}, "a.*": {"history_ttl": 1}})
    assert found.of("a.x") == Options(history_ttl=1), "whatever shorter patterns say"
    assert Channels().of("a") == Channels({"b": {}}).of("a") == Options(100, 300.0, 0.0, "stored")


def test_a_dead_letter_channel_has_options_of_its_own() -> None:
    channels = Channels({"*": {"max_attempts": 3, "dead_letter": "dead"}, "dead": {"history_size": 10_000}})
    assert channels.of("jobs").dead_letter == "dead" and not channels.of("dead").dead_letter


def test_all_options_that_there_may_be() -> None:
    other = Options(history_size=0)
    assert Channels({"a": {"history_size": 0}}).all() == [other, Options()]
    assert Channels({"*": {"history_size": 0}}).all() == [other]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "REMEMBERED", 3)
    found = Channels({"a*": {"history_size": 1}})
    assert {found.of(f"a{n}").history_size for n in range(10)} == {1}
    assert len(found._found) <= 3


@pytest.mark.parametrize(
    ("options", "keeps"),
    [
        ({}, True), ({"history_size": 0}, False), ({"history_ttl": 0}, False), ({"history_size": 0, "retain": 1}, True),
        ({"history_size": 1, "history_ttl": 0.5}, True),
    ],
)  # fmt: skip
def test_whether_there_is_a_history(options: dict[str, Any], keeps: bool) -> None:
    assert Channels({"*": options}).of("a").keeps is keeps
    assert settings(channels={"*": options}).keeps_history is keeps


def test_durability() -> None:
    for durability in Durability:
        assert Channels({"*": {"ack": durability.name.lower()}}).of("a").durability is durability


# What is refused.


@pytest.mark.parametrize(
    ("patterns", "says"),
    [
        ({"": {}}, "'' is no channel and no pattern"),
        ({1: {}}, "1 is no channel and no pattern"),
        ({"-/x": {}}, "'-/x' is no channel and no pattern"),
        ({"a\n": {}}, "is no channel and no pattern"),
        ({"a": 1}, "the options of 'a' must be a dict, like {'history_size': 100}"),
        ({"a": None}, "the options of 'a' must be a dict"),
        ({"a": {"histroy_size": 1}}, "'a' has an unknown option 'histroy_size'; did you mean history_size?"),
        ({"a": {"zzz": 1}}, "'a' has an unknown option 'zzz'; there are history_size, history_ttl, retain, ack"),
        ({"a": {1: 1}}, "'a' has an unknown option 1; there are"),
        ({"a": {"history_size": "1"}}, "history_size of 'a' must be a number, not '1'"),
        ({"a": {"history_size": 1.5}}, "history_size of 'a' must be a number, not 1.5"),
        ({"a": {"history_size": True}}, "history_size of 'a' must be a number, not True"),
        ({"a": {"history_ttl": None}}, "history_ttl of 'a' must be a number, not None"),
        ({"a": {"history_size": -1}}, "history_size of 'a' must be from 0 to 10,000,000,000, not -1"),
        ({"a": {"retain": float("nan")}}, "retain of 'a' must be from 0 to 10,000,000,000, not nan"),
        ({"a": {"history_ttl": float("inf")}}, "history_ttl of 'a' must be from 0 to 10,000,000,000, not inf"),
        ({"a": {"ack": "safe"}}, "ack of 'a' must be one of stored, synced, shared, not 'safe'"),
        ({"a": {"ack": ["stored"]}}, "ack of 'a' must be one of stored, synced, shared"),
        ({"a": {"max_attempts": 1.5}}, "max_attempts of 'a' must be a number, not 1.5"),
        ({"a": {"dead_letter": "d"}}, "'a' has a dead_letter: say after how many attempts, by max_attempts"),
        ({"a": {"max_attempts": 1, "dead_letter": "d*"}}, "dead_letter of 'a' must be a channel, not 'd*'"),
        ({"a": {"max_attempts": 1, "dead_letter": 5}}, "dead_letter of 'a' must be a channel, not 5"),
        ({"a": {"max_attempts": 1, "dead_letter": "a"}}, "'a', the dead_letter of 'a', must have no dead_letter of"),
        (
            {"*": {"max_attempts": 1, "dead_letter": "d"}},
            "'d', the dead_letter of '*', must have no dead_letter of",
        ),
        (
            {"a": {"max_attempts": 1, "dead_letter": "d"}, "d": {"history_size": 0}},
            "must keep history: set its",
        ),
        ({"a": {"max_attempts": 1, "dead_letter": "d"}, "d": {"discard": "new"}}, "can't refuse what is given up: set"),
        ({"a": {"discard": "oldest"}}, "discard of 'a' must be one of old, new, not 'oldest'"),
        ({"a": {"discard": "new", "history_size": 0}}, "discard of 'a' is 'new', which needs a history"),
    ],
)
def test_refused(patterns: dict[Any, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        Channels(patterns)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"channels": {"*": {"histroy": 1}}}, "did you mean history"),
        ({"channels": []}, "channels must be dict, not []"),
        ({"peers": ["127.0.0.1:9989"]}, "set store = 'redis://host:port/0', or store = 'none'"),
        ({"discovery": ["dns:nodes.internal:9989"]}, "keep history only in a store that its nodes share"),
        ({"channels": {"a": {"ack": "shared"}}}, "ack = 'shared' needs a store that nodes share: set store = 'redis:"),
        ({"store": "redis://h/0", "channels": {"a": {"ack": "synced"}}}, "'synced' is the promise of store = 'sqlite'"),
        ({"store": "sqlight"}, "store must be 'sqlite', 'none' or a URL: this text is no URL of a Redis server: write"),
        ({"store": "redis://h:x/0"}, "store must be 'sqlite', 'none' or a URL: this redis is no URL of a Redis server"),
        ({"store": "http://h/0"}, "store must be 'sqlite', 'none' or a URL: this http is no URL of a Redis server"),
        ({"store": "redis://h/0?passwort=x"}, "redis://HOST:PORT/DB"),
        ({"store": "unix://"}, "unix:///PATH?db=DB"),
        ({"store": 1.5}, "store must be 'sqlite', 'none' or a URL"),
        ({"max_data": -1}, "max_data must be at least 0"),
        ({"position_check": 0}, "position_check must be at least 0.1"),
    ],
)
def test_refused_settings(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settings(**values)
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_a_password_is_not_told() -> None:
    with pytest.raises(ConfigError) as refused:
        settings(store="redis://:hunter2@h:x/0")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [
        {"peers": ["127.0.0.1:9989"], "store": "none"},
        {"peers": ["127.0.0.1:9989"], "channels": {"*": {"history_size": 0}}},
        {"peers": ["127.0.0.1:9989"], "store": "redis://127.0.0.1:6379/0"},
        {"store": "unix:///run/redis.sock", "channels": {"*": {"ack": "shared"}}},
        {"channels": {"*": {"ack": "synced"}, "b": {"ack": "shared", "history_size": 0}}},
        {"store": "none", "channels": {"*": {"ack": "shared"}}},
    ],
)
def test_what_goes_together(values: dict[str, Any]) -> None:
    settings(**values)


def test_options_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "conf.py"
    file.write_text("channels = {'*': {}, 'a.*': {'history_size': 7, 'ack': 'synced'}}\n")
    assert Channels(load(str(file), environ={})[0].channels).of("a.b") == Options(history_size=7, ack="synced")
