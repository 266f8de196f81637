"""A client for POSTs to one URL of an application, over a bounded pool of connections that are kept open.

An exchange has one time limit, from the wait for a free connection to the last byte of the answer. An answer is bounded
(`answer.MAX_BODY`), redirects are answers like others, proxies of the environment are not used. A certificate must be
valid for the URL's host, by the authorities that OpenSSL trusts here (the environment's `SSL_CERT_FILE` names others).
"""

from __future__ import annotations

import select
import ssl
from collections.abc import Mapping
from typing import Any, Final

import gevent
import gevent.socket
import gevent.ssl
from gevent.lock import BoundedSemaphore

from raiden import __version__
from raiden.hooks.answer import Answer, AnswerParser, InvalidAnswer
from raiden.hooks.target import Target

# Connections of a client, unless it is told otherwise; bytes that are read at once.
CONNECTIONS: Final = 8
_READ: Final = 65536


class HookFailed(Exception):
    """There was no answer. The text is the reason, for logs: it has nothing of the URL's path, the body or the
    headers."""


class _Unanswered(OSError):
    """The connection ended before a byte of the answer came."""


class HttpClient:
    """POSTs to ``url``, at most ``connections`` at once: others wait. Raises ValueError, as `Target` does."""

    def __init__(self, url: str, *, timeout: float, connections: int = CONNECTIONS, insecure: bool = False) -> None:
        self._target = Target(url, insecure=insecure)
        self._timeout = timeout
        self._context = gevent.ssl.create_default_context() if self._target.is_secure else None
        self._free = BoundedSemaphore(connections)
        self._idle: list[Any] = []
        self._closed = False

    def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """The answer, whatever its status. Waits ``timeout`` seconds in all; raises HookFailed where there is none.
        The server may get the request twice: when it has closed a kept connection, nobody knows whether it read it."""
        head = self._head(len(body), headers)
        limit = gevent.Timeout(self._timeout)
        try:
            with limit, self._free:
                return self._exchange(head + body)
        except gevent.Timeout as timeout:
            if timeout is not limit:
                raise
            raise HookFailed(f"no answer within {self._timeout:g} s") from None
        except InvalidAnswer as error:
            raise HookFailed(f"the answer is refused: {error}") from None
        except ssl.SSLCertVerificationError as error:
            raise HookFailed(f"the certificate is refused: {error.verify_message}") from None
        except (OSError, UnicodeError) as error:  # UnicodeError: the host is no name in DNS
            reason = error.strerror if isinstance(error, OSError) else None
            raise HookFailed(f"no exchange: {reason or type(error).__name__}") from None

    def close(self) -> None:
        """Close the connections; those under way, when they have been answered."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _head(self, size: int, headers: Mapping[str, str]) -> bytes:
        fields = {
            "Host": self._target.authority, "User-Agent": f"raiden/{__version__}", "Accept-Encoding": "identity",
            "Content-Type": "application/json", "Content-Length": str(size), **headers,
        }  # fmt: skip
        for name, value in fields.items():
            if "\r" in value or "\n" in value or "\0" in value:
                raise ValueError(f"the value of {name} has a line break")
        lines = [f"POST {self._target.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")

    def _exchange(self, request: bytes) -> Answer:
        kept = self._kept()
        if kept is not None:
            try:
                return self._ask(kept, request)
            except _Unanswered:
                pass  # the server closed it meanwhile: a new connection tells what is so
        return self._ask(self._connected(), request)

    def _kept(self) -> Any:
        """A connection that is open and quiet; what is readable now was closed, or is no place to ask."""
        while self._idle:
            sock = self._idle.pop()
            poll = select.poll()
            poll.register(sock.fileno(), select.POLLIN)
            if not poll.poll(0):
                return sock
            sock.close()
        return None

    def _connected(self) -> Any:
        target = self._target
        sock = gevent.socket.create_connection((target.host, target.port))
        try:
            sock.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
            return sock if self._context is None else self._context.wrap_socket(sock, server_hostname=target.host)
        except BaseException:  # a timeout, too
            sock.close()
            raise

    def _ask(self, sock: Any, request: bytes) -> Answer:
        parser = AnswerParser()
        keep = False
        try:
            sock.sendall(request)
            answer = None
            while answer is None:
                data = sock.recv(_READ)
                if not (data or parser.has_begun):
                    raise ConnectionResetError
                answer = parser.feed(data) if data else parser.end()
            keep = parser.lasts and not self._closed
            return answer
        except ConnectionError:
            if parser.has_begun:
                raise
            raise _Unanswered(None, "the connection was closed without an answer") from None
        finally:  # after a timeout, too
            parser.forget()
            if keep:
                self._idle.append(sock)
            else:
                sock.close()
