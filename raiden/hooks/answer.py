"""Bytes to the answer of an HTTP/1.1 server, parsed by llhttp (httptools); pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import httptools

# Bytes of an answer's body; and of all else in it: heads, those of answers 1xx before it, and the framing of chunks.
MAX_BODY: Final = 65536
MAX_REST: Final = 65536


class InvalidAnswer(Exception):
    """The bytes are no answer that is accepted. The text says why, and has nothing of them."""


class Answer(NamedTuple):
    """An answer. ``headers`` has its fields by their names in lower case; of fields that come twice, the last."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class AnswerParser:
    """The answer to one request. Call `forget` at the end: this and llhttp's parser know each other."""

    def __init__(self) -> None:
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._status = 0
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._complete = False
        self._size = 0  # of all bytes that came
        # Whether the server leaves the connection open for another request.
        self.lasts = False

    def feed(self, data: bytes) -> Answer | None:
        """The answer, once these bytes complete it. Raises InvalidAnswer."""
        assert self._parser is not None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise InvalidAnswer("it switches to another protocol") from None
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, InvalidAnswer):
                raise error.__context__ from None
            raise InvalidAnswer("it is no HTTP/1.1") from None
        self._size += len(data)
        if self._size - len(self._body) > MAX_REST:
            raise InvalidAnswer(f"its head has more than {MAX_REST} bytes")
        return self._answer() if self._complete else None

    def end(self) -> Answer:
        """The answer, where the server's closing of the connection completes it (RFC 9112 section 6.3). Raises
        InvalidAnswer."""
        if self._status < 200 or self._headers.keys() & {"content-length", "transfer-encoding"}:
            raise InvalidAnswer("it broke off")
        return self._answer()

    @property
    def has_begun(self) -> bool:
        """Whether any byte has come."""
        return self._size > 0

    def forget(self) -> None:
        """Let go of llhttp's parser."""
        self._parser = None

    def _answer(self) -> Answer:
        return Answer(self._status, self._headers, bytes(self._body))

    # What follows is called by llhttp.

    def on_message_begin(self) -> None:
        if self._complete:
            raise InvalidAnswer("there is more than one")
        self._status = 0
        self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self._status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        if len(self._body) + len(data) > MAX_BODY:
            raise InvalidAnswer(f"its body has more than {MAX_BODY} bytes")
        self._body += data

    def on_message_complete(self) -> None:
        assert self._parser is not None
        if self._status >= 200:  # what comes before it are answers 1xx (RFC 9110 section 15.2)
            self._complete = True
            self.lasts = self._parser.should_keep_alive()
