"""TLS 1.2 and 1.3 below a connection: a socket that seals what is sent and opens what comes.

A `TlsSocket` keeps to the contract of the non-blocking socket that it is. So a `Connection` knows nothing of TLS, and
one without TLS pays nothing for it. The outbox has plain bytes, which connections share; they are sealed a record at a
time, once the kernel takes more. The handshake is a part of receiving: bytes come up when it is over.

OpenSSL reads and writes in memory, which bounds what one call does, whatever the peer sends. All connections of the
process share this memory. It is empty between two calls, because OpenSSL takes all that is there and keeps what belongs
to an incomplete record by itself. A connection of its own would keep as much as it ever needed at once.
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent

from raiden.runtime.seldom import Seldom

log = logging.getLogger(__name__)

# Plain bytes of a record (RFC 8446 section 5.1), and bytes that are read from the kernel at once.
RECORD, READ = 1 << 14, 1 << 14
# Sealed bytes that may wait for the kernel: a record, and the answers to a peer that asks for them and does not read.
MOST_UNSENT = 2 * RECORD
WRITE = 2

# The answer to a client that speaks HTTP without TLS here.
PLAIN = b'{"status":400,"title":"Bad Request","detail":"this port speaks TLS: use https"}'
_PLAIN_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\n"
    b"Connection: close\r\n\r\n%b" % (len(PLAIN), PLAIN)
)
# The first byte of a request of HTTP, which begins with the name of a method.
_METHODS = range(ord("A"), ord("Z") + 1)
# Bytes of the headers of the first record and of the ClientHello in it (RFC 8446 sections 4 and 5.1).
_FIRST = 9
# Bytes that OpenSSL takes for a handshake under way, at most; the certificate of a client may be large.
_HANDSHAKE, _WITH_CERTIFICATE = 48 << 10, 160 << 10

_incoming, _outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
_received = memoryview(bytearray(READ))


class InvalidCertificate(ValueError):
    """The files of a certificate can't be used; the text names the setting and says why."""


def context(cert: str, key: str | None, client_ca: str | None = None, *, required: bool = True) -> ssl.SSLContext:
    """A server's context with the certificate and its chain in the file ``cert``, and its key in ``key``, or in the
    same file. With ``client_ca``, the certificates that sign clients' ones, a client must show one, unless that is not
    ``required``; one that is shown must be good. Raises InvalidCertificate."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    # A renegotiation is work that a client could ask for as often as it likes.
    made.options |= ssl.OP_NO_RENEGOTIATION
    made.set_alpn_protocols(["http/1.1"])
    for name, file in (("tls_cert", cert), ("tls_key", key), ("tls_client_ca", client_ca)):
        try:
            if file is not None:
                Path(file).read_bytes()
        except OSError as error:
            raise InvalidCertificate(f"{name} = {file!r}: cannot read it: {error.strerror}") from None
    try:
        made.load_cert_chain(cert, key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise InvalidCertificate(f"tls_key: the key in {key or cert!r} is not that of the certificate") from None
        raise InvalidCertificate(
            f"tls_cert = {cert!r}, tls_key = {key!r}: no certificate with its key in PEM: {_reason(error)}"
        ) from None
    if client_ca is not None:
        try:
            made.load_verify_locations(client_ca)
        except ssl.SSLError as error:
            raise InvalidCertificate(f"tls_client_ca = {client_ca!r}: no certificates: {_reason(error)}") from None
        made.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return made


def _no_password() -> str:
    raise InvalidCertificate("tls_key: the key has a password, which nobody can type in here: store it without one")


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")


class Tls:
    """The TLS of a door: its present context, which new connections get. ``failed`` is called for each handshake that
    fails. ``limit()`` bounds the bytes that handshakes under way take."""

    def __init__(self, made: ssl.SSLContext, failed: Callable[[], None], limit: Callable[[], int]) -> None:
        self.context = made
        self._failed = failed
        self._limit = limit
        self._size = _HANDSHAKE if made.verify_mode == ssl.CERT_NONE else _WITH_CERTIFICATE
        self._told = Seldom()
        self.under_way = 0

    def begin(self) -> ssl.SSLObject | None:
        """Begin a handshake; None: too many are under way. One that has begun must `end`."""
        if (self.under_way + 1) * self._size > self._limit():
            return None
        self.under_way += 1
        return self.context.wrap_bio(_incoming, _outgoing, server_side=True)

    def end(self) -> None:
        """Note that a handshake has ended, in one way or another."""
        self.under_way -= 1

    def refused(self, why: str) -> None:
        """Count a handshake that failed, and log the reason once a minute."""
        self._failed()
        if self._told.may_say(why):
            log.warning("a TLS handshake failed", extra={"reason": why})


class TlsSocket(socket.socket):
    """A connected non-blocking TCP socket with TLS on it, which takes over the descriptor of ``sock``, and the bytes
    that have come there already."""

    __slots__ = ("_came", "_ended", "_ending", "_object", "_refused", "_shaking", "_tls", "_unsent", "_writer", "took")

    def __init__(self, sock: socket.socket, tls: Tls, came: bytes = b"") -> None:
        super().__init__(sock.family, sock.type, sock.proto, fileno=sock.detach())
        self.setblocking(False)
        self._tls = tls
        self._came = came
        # Made when the first bytes come: a client that sends nothing takes no memory.
        self._object: ssl.SSLObject | None = None
        # Sealed bytes that the kernel has not taken yet.
        self._unsent = b""
        self._writer: Any = None
        # Nothing more comes; nothing more is sent but what is sealed; the handshake was refused.
        self._ended = self._ending = self._refused = False
        # Whether a handshake is under way.
        self._shaking = False
        # Bytes that the last call has taken from the kernel.
        self.took = 0

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Put plain bytes into ``buffer``, of at most ``nbytes`` sealed bytes, and those of a record that began before.
        Returns 0 at the end. Raises BlockingIOError where nothing has come for the caller."""
        if self._ended:
            return 0
        sealed: bytes | memoryview = self._came
        if len(sealed) < _FIRST:
            self.took = 0  # also where nothing has come
            self.took = super().recv_into(_received, min(nbytes, READ))
            if not self.took:
                return 0
            sealed = bytes(sealed) + _received[: self.took].tobytes() if sealed else _received[: self.took]
        self._came = b""
        if self._refused:  # what the client still sends is read, or the answer might be destroyed on its way
            raise BlockingIOError
        if self._object is None:
            if sealed[0] in _METHODS:
                self._refuse(_PLAIN_ANSWER, "plain HTTP was sent to the port of TLS")
                raise BlockingIOError
            if len(sealed) < _FIRST:
                self._came = bytes(sealed)
                raise BlockingIOError
            # OpenSSL would make room for as much as a ClientHello says it has, up to 131 KB.
            if int.from_bytes(sealed[3:5]) < _FIRST - 5 or int.from_bytes(sealed[6:9]) > RECORD:
                self._refuse(b"", "a ClientHello that is too long, or in pieces")
                raise BlockingIOError
            self._object = self._tls.begin()
            if self._object is None:
                self._refuse(b"", "too many handshakes at once")
                raise BlockingIOError
            self._shaking = True
        _incoming.write(sealed)
        return self._open(self._object, memoryview(buffer))

    def _open(self, opened: ssl.SSLObject, buffer: memoryview) -> int:
        """Open all records that have come; return the number of plain bytes."""
        taken = 0
        try:
            while count := opened.read(len(buffer) - taken, buffer[taken:]):
                taken += int(count)
            self._ended = True  # the peer has said so
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            if opened.version() is None:
                self._refuse(_outgoing.read(), _reason(error))
                raise BlockingIOError from None
            self._ended = True
        finally:
            _incoming.read()  # what stands behind the end, or behind an error, is nobody's
        if _outgoing.pending:
            self._push(_outgoing.read())
        if self._shaking and opened.version() is not None:
            self._end_handshake()
        self._ended |= len(self._unsent) > MOST_UNSENT
        if not self._ended:
            if not taken:
                raise BlockingIOError
        elif taken:
            super().shutdown(socket.SHUT_RD)  # or nobody would call again
        return taken

    def _refuse(self, answer: bytes, why: str) -> None:
        """Let the handshake fail with this answer. The connection is closed when the client closes, or when it has
        waited too long for a request."""
        self._tls.refused(why)
        self._object, self._refused = None, True
        self._end_handshake()
        self._push(answer)
        super().shutdown(socket.SHUT_WR)

    def _end_handshake(self) -> None:
        if self._shaking:
            self._shaking = False
            self._tls.end()

    def send(self, data: Any, flags: int = 0) -> int:
        """Send plain bytes; returns how many were sealed, which is the same to the caller. Raises BlockingIOError while
        the kernel does not take sealed bytes, and OSError where no handshake was made."""
        if self._unsent:
            raise BlockingIOError
        if self._object is None:
            raise OSError(errno.ENOTCONN, "no handshake was made")
        size, sent = len(data), 0
        while sent < size and not self._unsent:
            try:
                sent += self._object.write(data if size <= RECORD else memoryview(data)[sent : sent + RECORD])
            except ssl.SSLError:
                _outgoing.read()  # it would be another's
                raise
            self._push(_outgoing.read())
        return sent

    def _push(self, sealed: bytes) -> None:
        """Hand sealed bytes to the kernel; those that it does not take follow when it does."""
        if self._unsent:
            self._unsent += sealed
            return
        try:
            sent = super().send(sealed)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            return  # broken: receiving finds it out
        if sent < len(sealed):
            self._unsent = sealed[sent:]
            self._writer = gevent.get_hub().loop.io(self.fileno(), WRITE)
            self._writer.start(self._go_on)

    def _go_on(self) -> None:
        sealed, self._unsent = self._unsent, b""
        self._stop_writing()
        self._push(sealed)
        if self._ending and not self._unsent:
            try:
                super().shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the peer was faster

    def _stop_writing(self) -> None:
        if self._writer is not None:
            self._writer.stop()
            self._writer.close()
            self._writer = None

    def shutdown(self, how: int) -> None:
        """Half-close, once all that is sealed was sent."""
        if self._object is not None:
            self._say_end(self._object)
        self._ending = True
        if not self._unsent:
            super().shutdown(how)

    def close(self) -> None:
        if self._object is not None and not self._unsent:
            self._say_end(self._object)
        self._stop_writing()
        self._end_handshake()
        self._object = None
        super().close()

    def _say_end(self, opened: ssl.SSLObject) -> None:
        """Say that nothing more is sent (RFC 8446 section 6.1), once."""
        if self._ending:
            return
        self._ending = True
        try:
            opened.unwrap()
        except ssl.SSLError:
            pass  # it waits for the peer's; or there was no handshake
        self._push(_outgoing.read())
