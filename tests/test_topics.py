"""What a SUB client's topics come to, against a model that looks at each channel."""

from __future__ import annotations

import itertools
import random

import pytest

from raiden.access.clients import ALL, NONE, Patterns
from raiden.zeromq.topics import Change, Topics

# Short names of few letters, so that prefixes and permissions meet often.
CHANNELS = ["".join(letters) for size in range(1, 5) for letters in itertools.product("ab", repeat=size)]
SEEDS = 400


class Model:
    """A client's names and patterns as the changes leave them."""

    def __init__(self, topics: Topics) -> None:
        self.topics = topics
        self.names: set[str] = set()

    def apply(self, change: Change) -> None:
        assert not set(change.added) & self.names, "what is there is not added again"
        assert set(change.dropped) <= self.names, "only what is there is dropped"
        assert len(set(change.added)) == len(change.added) and not set(change.added) & set(change.dropped)
        self.names |= set(change.added)
        self.names -= set(change.dropped)

    def covering(self, channel: str) -> list[str]:
        return [
            name for name in self.names if (channel.startswith(name[:-1]) if name.endswith("*") else channel == name)
        ]


def names(allowed: Patterns, *topics: str) -> set[str]:
    """What topics come to that are added one after the other."""
    model = Model(Topics(allowed.within))
    for topic in topics:
        model.apply(model.topics.add(topic))
    return model.names


def test_a_topic_is_a_pattern() -> None:
    assert names(ALL, "news") == {"news*"}
    assert names(ALL, "") == {"*"}


def test_a_longer_topic_is_within_a_shorter_one() -> None:
    assert names(ALL, "news", "news.de") == names(ALL, "news.de", "news") == {"news*"}
    assert names(ALL, "a", "b", "") == {"*"}


def test_a_topic_brings_what_of_it_is_allowed() -> None:
    assert names(Patterns.of(["news.*", "chat"]), "") == {"news.*", "chat"}
    assert names(Patterns.of(["news.*", "chat"]), "news.de") == {"news.de*"}
    assert names(Patterns.of(["news.*", "chat"]), "news", "ch") == {"news.*", "chat"}
    assert names(NONE, "", "news") == set()


def test_a_name_that_is_allowed_brings_no_longer_one() -> None:
    assert names(Patterns.of(["news"]), "news") == {"news"}
    assert names(Patterns.of(["news"]), "newsletter") == set()


def test_the_same_topic_again_changes_nothing() -> None:
    topics = Topics(ALL.within)
    topics.add("a")
    assert topics.add("a") == Change([], []) and len(topics) == 1
    assert topics.remove("b") == Change([], [])
    assert topics.remove("a") == Change([], ["a*"]) and len(topics) == 0


def test_what_a_shorter_topic_stood_for_is_taken_up_by_longer_ones() -> None:
    topics = Topics(ALL.within)
    for topic in ("a", "ab", "ac", "acd"):
        topics.add(topic)
    added, dropped = topics.remove("a")
    assert set(added) == {"ab*", "ac*"} and dropped == ["a*"]


@pytest.mark.parametrize("part", range(4))
def test_each_channel_is_covered_once_after_any_changes(part: int) -> None:
    for seed in range(part, SEEDS, 4):
        rng = random.Random(seed)
        permitted = rng.choice(
            [["*"], [], rng.sample([*CHANNELS, *[f"{name}*" for name in CHANNELS]], rng.randint(1, 6))]
        )
        allowed = Patterns.of(permitted)
        model, wanted = Model(Topics(allowed.within)), set[str]()
        for _ in range(25):
            topic = rng.choice(["", *CHANNELS[:14]])
            if rng.random() < 0.6:
                wanted.add(topic)
                model.apply(model.topics.add(topic))
            else:
                wanted.discard(topic)
                model.apply(model.topics.remove(topic))
            assert len(model.topics) == len(wanted)
            for channel in CHANNELS:
                brings = channel.startswith(tuple(wanted)) and allowed.allows(channel)
                assert len(model.covering(channel)) == brings, (seed, permitted, wanted, model.names, channel)
