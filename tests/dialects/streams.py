"""A client of Durable Streams for tests."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from tests.daemons import Daemon, Stream

TEXT, JSON = "text/plain", "application/json"
START = "0000000000000000_0000000000000000"


class Answer(NamedTuple):
    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def next(self) -> str:
        return self.fields["stream-next-offset"]

    @property
    def closed(self) -> bool:
        return self.fields.get("stream-closed") == "true"


def ask(node: Daemon, method: str, name: str, body: bytes | str | None = None, **fields: str) -> Answer:
    """A request for a stream; ``Content_Type`` is the field Content-Type."""
    headers = {field.replace("_", "-"): value for field, value in fields.items()}
    return Answer(*node.request(method, f"/v1/stream/{name}", body, headers))


def put(node: Daemon, name: str, body: bytes | str | None = None, content_type: str = TEXT, **fields: str) -> Answer:
    made = ask(node, "PUT", name, body, Content_Type=content_type, **fields)
    assert made.status == 201, made
    return made


def add(node: Daemon, name: str, body: bytes | str | None, content_type: str = TEXT, **fields: str) -> Answer:
    return ask(node, "POST", name, body, Content_Type=content_type, **fields)


def close(node: Daemon, name: str) -> Answer:
    return ask(node, "POST", name, Stream_Closed="true")


def read(node: Daemon, name: str, offset: str = "-1", **fields: str) -> Answer:
    return ask(node, "GET", f"{name}?offset={offset}", **fields)


class Events(Stream):
    """A stream read as server-sent events."""

    def __init__(self, node: Daemon, name: str, offset: str = "-1", headers: dict[str, str] | None = None) -> None:
        super().__init__(node, f"/v1/stream/{name}?offset={offset}&live=sse", headers)

    def __enter__(self) -> Events:
        return self

    def event(self) -> tuple[str, str] | None:
        """The name and the data of the next event; None: the answer is over."""
        name, lines = "", []
        while line := self.response.readline().decode():
            field, _, value = line.rstrip("\n").partition(":")
            if field == "event":
                name = value.strip()
            elif field == "data":
                lines.append(value.removeprefix(" "))
            elif not field and not value and name:
                return name, "\n".join(lines)
        return None

    def pair(self) -> tuple[Any, dict[str, Any]]:
        """The data of the next event, None where there is none, and what the event tells that belongs to it."""
        found = self.event()
        data = None
        if found is not None and found[0] == "data":
            data, found = found[1], self.event()
        assert found is not None and found[0] == "control", found
        return data, json.loads(found[1])
