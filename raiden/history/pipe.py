"""Messages over a Unix socket, each after its size: between the workers and the history process of a node.

ZeroMQ would do the same by way of a thread at each end. To wake those took longer than to append a message.
"""

from __future__ import annotations

import socket
import struct

from raiden.sockets import MOST_BYTES, receive

_SIZE = struct.Struct("=I")


class Closed(Exception):
    """The other end is gone."""


class Pipe:
    """One end of a connected stream socket. Nothing blocks: what the kernel doesn't take ``waits``, until `flush` is
    called when the socket is writable."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._in = bytearray()
        self._out = bytearray()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    @property
    def waits(self) -> bool:
        return bool(self._out)

    def send(self, message: bytes) -> None:
        self._out += _SIZE.pack(len(message))
        self._out += message
        self.flush()

    def flush(self) -> None:
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            return
        except OSError:
            self._out.clear()  # the other end is gone: `receive` says so

    def receive(self) -> list[bytes]:
        """The messages that have come; raises Closed."""
        try:
            data = receive(self._socket, MOST_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            raise Closed
        messages, at = [], 0
        self._in += data
        while len(self._in) - at >= _SIZE.size:
            (size,) = _SIZE.unpack_from(self._in, at)
            start, end = at + _SIZE.size, at + _SIZE.size + size
            if end > len(self._in):
                break
            messages.append(bytes(self._in[start:end]))
            at = end
        del self._in[:at]
        return messages
