"""Events that servers publish by the HTTP API: read, checked, and made messages. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from msgspec import Raw

from raiden.dialects.pusher import frames, names
from raiden.dialects.pusher.apps import App
from raiden.dialects.pusher.socket_ids import connection_id
from raiden.model.attributes import Attributes
from raiden.model.encoding import dumps
from raiden.model.message import Kind, Message
from raiden.model.names import has_controls
from raiden.model.refusals import Invalid, TooLarge
from raiden.model.strict_json import InvalidPayload, is_unicode, json_payload

# Characters of an event's name.
MAX_EVENT: Final = 200
# What may be asked about channels, besides.
INFO: Final = ("user_count", "subscription_count", "cache")


class Event(NamedTuple):
    """An event for some channels. ``excluded`` is the id of a connection that is not to get it ("": all get it), and
    ``info`` names what is asked about the channels."""

    name: str
    data: str
    channels: tuple[str, ...]
    excluded: str
    info: tuple[str, ...]

    def messages(self, prefix: str) -> list[Message]:
        """A message for each channel."""
        kind, payload = payload_of(self.name, self.data)
        attributes = Attributes(event=self.name, excluded=self.excluded)
        return [Message(prefix + name, kind, payload, attributes=attributes) for name in self.channels]


def payload_of(name: str, data: str) -> tuple[int, bytes]:
    """The kind and the payload of an event's data, which is kept as it is: as JSON where it is JSON on one line, else
    as a text. What bears the name of a client's event is a JSON value, which is passed on as that."""
    if name.startswith(frames.OF_CLIENTS):
        return Kind.JSON, dumps(data)
    written = data.encode()
    try:
        if json_payload(written) == written:
            return Kind.JSON, written
    except InvalidPayload:
        pass  # then it is a text
    return Kind.TEXT, written


def read(value: Any, app: App) -> Event:
    """Read an event; raises Invalid and TooLarge."""
    if not isinstance(value, Mapping):
        raise Invalid("the body must be a JSON object")
    channels = value.get("channels")
    if channels is None:
        channels = [value.get("channel")]
    elif "channel" in value:
        raise Invalid("send channel or channels, not both")
    if not isinstance(channels, list) or not channels:
        raise Invalid("channels is a list of names")
    if len(channels) > app.max_channels:
        raise Invalid(f"an event is for at most {app.max_channels} channels; these are {len(channels)}")
    found = tuple(dict.fromkeys([names.check(name, app.prefix) for name in channels]))
    name, data = check_name(value.get("name")), value.get("data")
    if not isinstance(data, str) or not is_unicode(data):
        raise Invalid("data must be a string: send other values as JSON in a string")
    if len(data.encode()) > app.max_data:
        raise TooLarge(f"the data of an event has at most {app.max_data} bytes; this has {len(data.encode())}")
    socket_id = value.get("socket_id")
    excluded = "" if socket_id is None else connection_id(socket_id)
    return Event(name, data, found, excluded, read_info(value.get("info")))


def read_batch(value: Any, app: App) -> list[Event]:
    """Read a batch of events, each for one channel; raises Invalid and TooLarge."""
    batch = value.get("batch") if isinstance(value, Mapping) else None
    if not isinstance(batch, list) or not batch:
        raise Invalid("batch is a list of events")
    if len(batch) > app.max_batch:
        raise Invalid(f"a batch has at most {app.max_batch} events; this one has {len(batch)}")
    found = []
    for number, each in enumerate(batch, 1):
        try:
            event = read(each, app)
        except (Invalid, TooLarge) as refusal:
            raise type(refusal)(f"event {number} of the batch: {refusal.detail}") from None
        if len(event.channels) != 1:
            raise Invalid(f"event {number} of the batch: it is for one channel")
        found.append(event)
    return found


def check_name(name: Any) -> str:
    """Return the name of an event if it may be one; raises Invalid."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_EVENT or not is_unicode(name) or has_controls(name):
        raise Invalid(f"an event has a name of 1 to {MAX_EVENT} characters, without control characters")
    if name.startswith(frames.OWN):
        raise Invalid(f"{name[:100]!r} can't be an event's name: the protocol has such names for itself")
    return name


def read_info(text: Any, known: Sequence[str] = INFO) -> tuple[str, ...]:
    """What is asked about channels: names with commas between them (None: nothing). Raises Invalid."""
    if text is None or text == "":
        return ()
    if not isinstance(text, str):
        raise Invalid(f"info is a text of {', '.join(known)}, with commas between them")
    found = tuple(dict.fromkeys([part.strip() for part in text.split(",")]))
    for each in found:
        if each not in known:
            raise Invalid(f"info can't be {each[:100]!r}: there are {', '.join(known)}")
    return found


def sender(user: str) -> Raw:
    """The sender of an event that a member of a presence channel publishes, as messages show it."""
    return Raw(dumps({"sub": user}))
