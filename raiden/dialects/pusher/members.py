"""Members of presence channels: who a client says it is, and what the others are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from raiden.delivery.table import Subscription
from raiden.dialects.pusher import frames
from raiden.model import strict_json
from raiden.model.encoding import dumps
from raiden.model.refusals import Invalid, TooLarge
from raiden.presence.here import Names, Subject

# Characters of a user's id, and bytes of the info that the others see, as JSON.
MAX_USER: Final = 128
MAX_INFO: Final = 4096


def of_channel_data(text: str) -> Subject:
    """The member that a subscription's ``channel_data`` names; raises Invalid and TooLarge."""
    value = strict_json.value(text.encode("utf-8", "surrogatepass"), most=strict_json.MAX_SLOW)
    if not isinstance(value, dict):
        raise Invalid("channel_data is a JSON object with a user_id")
    return member(value.get("user_id"), value.get("user_info"))


def member(user: Any, info: Any) -> Subject:
    """A member by its id, a string or a number, and the info that the others see. Raises Invalid and TooLarge."""
    if isinstance(user, int | float) and not isinstance(user, bool):
        user = dumps(user).decode()
    if not isinstance(user, str) or not user or not strict_json.is_unicode(user):
        raise Invalid("user_id is a string, or a number")
    if len(user) > MAX_USER:
        raise TooLarge(f"a user_id has at most {MAX_USER} characters")
    if strict_json.has_digits(info):
        raise Invalid("user_info has a number that is too large for other readers of JSON")
    if info is not None and len(dumps(info)) > MAX_INFO:
        raise TooLarge(f"user_info has at most {MAX_INFO} bytes as JSON")
    return Subject(user, info)


def named(subscription: Subscription, names: Names) -> dict[str, Any]:
    """The info of members by user: of those that have subscribed on this worker to the channel of a subscription."""
    others = () if subscription.topic is None else subscription.topic.subscriptions()
    return {name.sub: name.info for each in others if (name := names.get(each)) is not None and name.sub}


def listing(listed: Mapping[str, Any], own: Subject) -> dict[str, Any] | None:
    """The info of a channel's members by user, ``own`` among them, from a list of `Watch.listing`. None: they are too
    many to be listed. Who was there already keeps its info."""
    if listed["members"] is None:
        return None
    found = {row["sub"]: row["info"] for row in listed["members"]}
    found.setdefault(own.sub, own.info)
    return found


def encoded(name: str, what: dict[str, Any]) -> bytes:
    """The frame of a join or a leave, for all that watch; b"": there is none for this. ``what`` names the channel as
    the protocol does."""
    channel, row = what["channel"], what[name]
    if name == "join":
        told = {"user_id": row["sub"], "user_info": row["info"]}
        return frames.told("pusher_internal:member_added", told, channel)
    if name == "leave":
        return frames.told("pusher_internal:member_removed", {"user_id": row["sub"]}, channel)
    return b""


def concerns(events: Sequence[tuple[str, dict[str, Any]]], user: str) -> bool:
    """Whether some of the events are of this user, who is not told of its own coming and going, or list all members."""
    return any([name == "presence" or what["sub"] == user for name, what in events])
