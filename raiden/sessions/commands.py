"""Reading commands of ``/-/websocket`` into asks, or into the `Refusal` that answers them. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar, cast

from raiden.model import labels, strict_json, thinning
from raiden.model.filters import NO_FILTERS, Filters
from raiden.model.message import EARLIEST, Cursor, Kind, Message
from raiden.model.names import check_channel, check_durable, check_subscription
from raiden.model.near import did_you_mean
from raiden.model.page import MAX_LAST, PAGE, Read, Start, parse_since
from raiden.model.payload import with_end
from raiden.model.refusals import Invalid
from raiden.model.strict_json import Digits, is_unicode, json_payload
from raiden.requests.refusals import Failure
from raiden.sessions.asks import (
    ACK_WAIT,
    MAX_ACK_WAIT,
    MAX_NACK_DELAY,
    MAX_TIMEOUT,
    MAX_WINDOW,
    MIN_ACK_WAIT,
    MIN_TIMEOUT,
    TIMEOUT,
    WINDOW,
    Call,
    Command,
    Follow,
    Hello,
    Join,
    Keep,
    Leave,
    Members,
    Ping,
    PublishOne,
    Renew,
    Respond,
    Resume,
    Serve,
    Settle,
    Unfollow,
    Unserve,
)

# Bytes of a command's id, as it is written.
MAX_ID = 255
_SESSION = re.compile("[A-Za-z0-9_-]{1,64}")

Number = TypeVar("Number", int, float)


def parse(data: str | bytes) -> dict[str, Any]:
    """Return the command in a frame. Its ``data`` is bytes, as they were written, and its ``id`` a string, `Digits` or
    None."""
    if isinstance(data, bytes):
        raise Invalid("commands are JSON text frames; this frame was binary")
    members = strict_json.members(data.encode())
    if members is None:
        raise Invalid('a command is an object, like {"id": 1, "cmd": "ping"}')
    command = {
        name: raw if name == "data" else strict_json.value(raw, most=strict_json.MAX_SLOW)
        for name, raw in members.items()
    }
    if not isinstance(command.get("cmd"), str):
        raise Invalid("cmd must be a string")
    command["id"] = _id(command.get("id"), members.get("id", b""))
    return command


def _id(value: Any, raw: bytes) -> str | Digits | None:
    """The id that comes back with the reply."""
    if value is None:
        return None
    if len(raw) > MAX_ID or isinstance(value, bool) or not isinstance(value, str | int | float | Digits):
        raise Invalid(f"id is a string or a number of at most {MAX_ID} bytes")
    if not isinstance(value, str):
        return Digits(raw.decode())
    if not is_unicode(value):
        raise Invalid("id must be valid Unicode, without lone surrogates")
    return value


def read(command: dict[str, Any]) -> Command:
    """Return what a command asks for; raises Invalid for an unknown command, and for members that it doesn't have."""
    name = command["cmd"]
    known = _COMMANDS.get(name)
    if known is None:
        raise Invalid(f"unknown cmd {name[:100]!r}{did_you_mean(name, _COMMANDS)}")
    members, reader = known
    if not command.keys() <= members:
        member = min(command.keys() - members)
        raise Invalid(f"{name} has no {member[:100]!r}{did_you_mean(member, members)}")
    return reader(command)


def _subscribe(command: dict[str, Any]) -> Follow | Join:
    if "durable" in command:
        return _join(command)
    _only_durably(command, "ack", "window", "ack_wait")
    name, presence = check_subscription(_channel(command)), _flag(command, "presence")
    if presence:
        check_channel(name)
    filters = _filters(command).thinned(thinning.of(command.get("rate"), command.get("key"), command.get("slow")))
    return Follow(name, filters, _start(command), presence)


def _join(command: dict[str, Any]) -> Join:
    name, durable = check_channel(_channel(command)), _durable(command)
    if "filters" in command:
        raise Invalid("a durable subscription has no filters: its messages are shared out as they are")
    if _flag(command, "presence"):
        raise Invalid("consumers of a durable subscription are no members of the channel: subscribe to it, too")
    if thinned := min(command.keys() & {"rate", "key", "slow"}, default=None):
        raise Invalid(f"a durable subscription has no {thinned}: its messages are shared out, each to one consumer")
    if "last" in command:
        raise Invalid("a durable subscription begins since a cursor, not with the last messages")
    return Join(
        name, durable,
        window=_number(command, "window", WINDOW, 1, MAX_WINDOW),
        ack_wait=_number(command, "ack_wait", ACK_WAIT, MIN_ACK_WAIT, MAX_ACK_WAIT),
        since=EARLIEST if command.get("since") == "earliest" else _cursor(command, "since"),
        settled=not _flag(command, "ack"),
    )  # fmt: skip


def _unsubscribe(command: dict[str, Any]) -> Unfollow | Leave:
    name = _channel(command)
    if "durable" not in command:
        _only_durably(command, "forget")
        return Unfollow(name)
    return Leave(check_channel(name), _durable(command), _flag(command, "forget"))


def _publish(command: dict[str, Any]) -> PublishOne:
    name, ends = check_channel(_channel(command)), _flag(command, "end")
    if "data" in command:
        message = Message(name, Kind.JSON, json_payload(command["data"]))
    elif ends:
        message = Message(name, Kind.JSON, b"")
    else:
        raise Invalid("publish needs data: any JSON value")
    labels.of_members(command).put_on(message)
    if ends:
        with_end(message)
    return PublishOne(message, command.get("key"), _cursor(command, "if"))


def _request(command: dict[str, Any]) -> Call:
    name = check_channel(_channel(command))
    if "data" not in command:
        raise Invalid("request needs data: any JSON value")
    timeout = _number(command, "timeout", TIMEOUT, MIN_TIMEOUT, MAX_TIMEOUT)
    return Call(Message(name, Kind.JSON, json_payload(command["data"])), float(timeout), _flag(command, "again"))


def _serve(command: dict[str, Any]) -> Serve:
    return Serve(check_channel(_channel(command)), _number(command, "window", WINDOW, 1, MAX_WINDOW))


def _answer(command: dict[str, Any]) -> Respond:
    request, error = command.get("request"), command.get("error")
    if not isinstance(request, str):
        raise Invalid("request must be the id of a request, as it came")
    if ("data" in command) == (error is not None):
        raise Invalid("answer needs data, or an error, and not both")
    if error is None:
        return Respond(request, Message("", Kind.JSON, json_payload(command["data"])))
    if not isinstance(error, dict) or error.keys() != {"code", "message"}:
        raise Invalid('error is like {"code": 422, "message": "what is wrong"}')
    return Respond(request, Failure.of(error["code"], error["message"]))


def _history(command: dict[str, Any]) -> Read:
    """Read a page after ``since``, or before ``before`` (a cursor, or null for the newest)."""
    name = check_channel(_channel(command))
    limit = _number(command, "limit", PAGE, 1, MAX_LAST)
    since = None if command.get("since") == "earliest" else _cursor(command, "since")
    backwards = "before" in command
    return Read(name, _cursor(command, "before") if backwards else since, backwards, limit, _filters(command))


def _settle(command: dict[str, Any]) -> Settle:
    name, durable = _channel(command), _durable(command)
    cursors, delay = _cursors(command), _number(command, "delay", 0.0, 0.0, MAX_NACK_DELAY)
    return Settle(name, durable, cursors, command["cmd"] == "nack", delay)


def _resume(command: dict[str, Any]) -> Resume:
    session, since = command.get("session"), command.get("since")
    since = {} if since is None else since
    if not isinstance(session, str) or not _SESSION.fullmatch(session) or not isinstance(since, dict):
        raise Invalid('resume is like {"cmd": "resume", "session": "...", "since": {"a": "k3x9:41"}}')
    return Resume(session, {name: _parse_cursor(text) for name, text in since.items()})


def _only_durably(command: dict[str, Any], *members: str) -> None:
    """Raise Invalid for members that mean nothing without ``durable``."""
    if found := min(command.keys() & set(members), default=None):
        raise Invalid(f'{found} is of a durable subscription: name it, as "durable": "NAME"')


def _renew(command: dict[str, Any]) -> Renew:
    token = command.get("token")
    if not isinstance(token, str):
        raise Invalid('auth is like {"cmd": "auth", "token": "..."}')
    return Renew(token)


def _channel(command: dict[str, Any]) -> str:
    """The channel's name in a command, which is not checked yet."""
    name = command.get("channel")
    if not isinstance(name, str):
        raise Invalid("channel must be a string")
    return name


def _filters(command: dict[str, Any]) -> Filters:
    return NO_FILTERS if command.get("filters") is None else Filters.of(command["filters"])


def _durable(command: dict[str, Any]) -> str:
    """The name of a durable subscription."""
    return check_durable(command.get("durable"))


def _parse_cursor(text: Any) -> Cursor:
    if not isinstance(text, str):
        raise Invalid("a cursor is a string: pass one as it was received, like 'k3x9:41'")
    return Cursor.parse(text)


def _cursor(command: dict[str, Any], name: str) -> Cursor | None:
    """The cursor in this member; None where there is none."""
    return None if command.get(name) is None else _parse_cursor(command[name])


def _flag(command: dict[str, Any], name: str) -> bool:
    value = command.get(name, False)
    if not isinstance(value, bool):
        raise Invalid(f"{name} is true or false")
    return value


def _cursors(command: dict[str, Any]) -> list[Cursor]:
    """The messages that an ``ack`` or ``nack`` names."""
    if "cursor" in command and "cursors" in command:
        raise Invalid(f"{command['cmd']} needs cursor or cursors, not both")
    texts = command.get("cursors", [command.get("cursor")])
    if not isinstance(texts, list) or not 0 < len(texts) <= MAX_WINDOW:
        raise Invalid(f"{command['cmd']} needs the cursor of a message, or a list of cursors")
    return [_parse_cursor(text) for text in texts]


def _number(command: dict[str, Any], name: str, default: Number, least: Number, most: Number) -> Number:
    """A number from ``least`` to ``most``; a whole one, if ``least`` is an int."""
    value = command.get(name, default)
    kind = int if isinstance(least, int) else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
        raise Invalid(f"{name} is a number from {least:g} to {most:g}")
    return cast(Number, value)


def _start(command: dict[str, Any]) -> Start | None:
    """The start of a subscription, if the command gives one."""
    if command.get("last") is not None:
        return Start(last=_number(command, "last", 0, 1, MAX_LAST))
    since = command.get("since")
    if since is None:
        return None
    if since == "earliest":
        return Start()
    return Start(parse_since(since) if isinstance(since, str) else _parse_cursor(since))


_ANY = frozenset({"id", "cmd"})
# The members that each command may have, and the function that reads it.
_COMMANDS: dict[str, tuple[frozenset[str], Callable[[dict[str, Any]], Command]]] = {
    "subscribe": (
        _ANY | {
            "channel", "filters", "rate", "key", "slow", "since", "last", "presence", "durable", "ack", "window",
            "ack_wait",
        }, _subscribe,
    ),
    "unsubscribe": (_ANY | {"channel", "durable", "forget"}, _unsubscribe),
    "publish": (_ANY | {"channel", "data", "key", "if", "end"} | labels.MEMBERS, _publish),
    "history": (_ANY | {"channel", "filters", "since", "before", "limit"}, _history),
    "presence": (_ANY | {"channel"}, lambda command: Members(check_channel(_channel(command)))),
    "request": (_ANY | {"channel", "data", "timeout", "again"}, _request),
    "serve": (_ANY | {"channel", "window"}, _serve),
    "unserve": (_ANY | {"channel"}, lambda command: Unserve(_channel(command))),
    "answer": (_ANY | {"request", "data", "error"}, _answer),
    "ack": (_ANY | {"channel", "durable", "cursor", "cursors"}, _settle),
    "nack": (_ANY | {"channel", "durable", "cursor", "cursors", "delay"}, _settle),
    "session": (_ANY, lambda command: Keep()),
    "resume": (_ANY | {"session", "since"}, _resume),
    "auth": (_ANY | {"token"}, _renew),
    "ping": (_ANY, lambda command: Ping()),
    "hello": (_ANY, lambda command: Hello()),
}  # fmt: skip
