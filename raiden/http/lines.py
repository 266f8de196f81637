"""The body of a streaming publish: a message a line, read as it comes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raiden.http import headers, parameters
from raiden.model import charsets, payload
from raiden.model.message import Kind, Message
from raiden.model.options import Channels
from raiden.model.refusals import Invalid, TooLarge
from raiden.model.strict_json import InvalidPayload, json_payload
from raiden.protocols.http import HttpError, Request
from raiden.sessions.asks import PublishLines

# Messages that are published together, and bytes after which no more are taken.
GROUP: Final = 256
GROUP_BYTES: Final = 1 << 16


def is_streamed(pairs: Sequence[tuple[str, str]]) -> bool:
    """Whether the query of a POST says that its body is a stream of messages."""
    return any([key == "_stream" for key, _ in pairs])


def read(request: Request, channel: str, channels: Channels | None) -> PublishLines:
    """Read ``POST /{channel}?_stream=1``; raises Invalid, InvalidPayload and HttpError."""
    pairs = parameters.query_pairs(request)
    parameters.check(pairs, parameters.STREAM)
    if not parameters.flag(dict(pairs), "_stream"):
        raise Invalid("_stream is 1, like _stream=1")
    form, charset = payload.form_of(headers.one(request, "content-type") or "application/x-ndjson")
    if form not in ("json", "batch", "text"):
        raise HttpError(415, "a stream is lines of JSON (application/x-ndjson) or of text (text/plain)")
    if form == "text" and not charsets.has_lines(charset):
        raise HttpError(415, "lines of text are UTF-8, or of a charset with a byte for each character")
    if "idempotency-key" in request.fields:
        raise Invalid("a stream has no Idempotency-Key: publish its messages one by one, each under a key of its own")
    options = None if channels is None else channels.of(channel)
    at, ends = headers.condition(request), headers.flag(request, "raiden-end")
    label = headers.label(request)
    sample = Message(channel, Kind.JSON, b"")
    if label is not None:
        label.put_on(sample)
    if ends:
        payload.with_end(sample)
    payload.check_terms(sample, None, at, keeps=options is not None and options.keeps)
    most = min(GROUP, (options.most_at_once if options is not None else 0) or GROUP)
    return PublishLines(channel, charset if form == "text" else None, ends, at, most, label)


class Lines:
    """The lines of a body, as messages. ``charset`` is that of texts; None: the lines are JSON. A message has at most
    ``max_message`` bytes, as JSON and wrapped."""

    def __init__(self, ask: PublishLines, max_message: int) -> None:
        self._channel = ask.channel
        self._charset = ask.charset
        self._most = ask.most
        self._label = ask.label
        self._max_message = max_message - (0 if ask.label is None else ask.label.size)
        self._data = bytearray()
        # Bytes that are known to have no line break.
        self._looked = 0
        self._refusal: InvalidPayload | TooLarge | None = None
        # The number of the line that was read last.
        self.number = 0

    @property
    def size(self) -> int:
        """Bytes that have come and were not read."""
        return len(self._data)

    @property
    def is_short(self) -> bool:
        """Whether no whole line is known to be there."""
        return self._looked == len(self._data)

    def feed(self, data: bytes) -> None:
        self._data += data

    def finish(self) -> None:
        """The body is whole: what is behind the last line break is a line, too."""
        if self._data and not self._data.endswith(b"\n"):
            self._data += b"\n"

    def take(self) -> list[Message] | None:
        """The messages of the next lines, as many as are published together (lines may be blank); None where no line is
        whole. Raises InvalidPayload and TooLarge for a line that is no message, once those before it were taken."""
        if self._refusal is not None:
            raise self._refusal
        found: list[Message] = []
        before, size, start = self.number, 0, 0
        while self.number - before < self._most and size < GROUP_BYTES:
            end = self._data.find(b"\n", max(start, self._looked))
            if end < 0:
                self._looked = len(self._data)
                break
            line = bytes(self._data[start:end])
            start, self.number = end + 1, self.number + 1
            try:
                message = self._message(line)
            except (InvalidPayload, TooLarge) as refusal:
                self._refusal = refusal
                break
            if message is not None:
                if self._label is not None:
                    self._label.put_on(message)
                found.append(message)
                size += len(message.payload)
        del self._data[:start]
        self._looked = max(0, self._looked - start)
        if self.number > before and not (self._refusal is not None and not found):
            return found
        if self._refusal is not None:
            raise self._refusal
        if self._looked > self._max_message:
            self.number += 1
            raise TooLarge(f"the line has more than {self._max_message} bytes: send shorter ones (max_message)")
        return None

    def _message(self, line: bytes) -> Message | None:
        """The message in a line; None: a blank one among lines of JSON."""
        if self._charset is not None:
            text = payload.text(line.removesuffix(b"\r"), self._charset)
            payload.check_size(Kind.TEXT, text, self._max_message)
            return Message(self._channel, Kind.TEXT, text)
        if not line.strip(b" \t\r"):
            return None
        try:
            value = json_payload(line)
        except InvalidPayload as error:
            raise InvalidPayload(f"{error}; for lines of text send 'Content-Type: text/plain'") from None
        payload.check_size(Kind.JSON, value, self._max_message)
        return Message(self._channel, Kind.JSON, value)
