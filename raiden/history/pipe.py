"""Messages over a Unix socket, each after its size: between the workers and the history process of a node.

ZeroMQ would do the same by way of a thread at each end. Waking these threads took longer than appending a message.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from itertools import islice
from typing import Final

from raiden.runtime.receive import MOST_BYTES, receive

_SIZE = struct.Struct("=I")
# Bytes of a message. The ends bound their messages far below (`raiden.history.client`); a longer one is a fault.
MAX_MESSAGE: Final = 256 << 20
# Bytes that wait to be sent, above which a pipe is full.
FULL: Final = 1 << 20
# Bytes that are sent before other pipes have their turn: an end that reads as fast as this one writes would hold them
# up.
AT_ONCE: Final = 1 << 18
# Messages of one system call (sendmsg(2), IOV_MAX).
PIECES: Final = 64


class Closed(Exception):
    """The other end is gone."""


class Pipe:
    """One end of a connected stream socket. Nothing blocks: while bytes that the kernel doesn't take are left, the pipe
    ``waits``, until `flush` is called when the socket is writable. A pipe that is ``full`` still takes messages; its
    owner then takes no more questions that must be answered by it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._in = bytearray()
        self._out: deque[bytes | memoryview] = deque()
        self._size = 0  # bytes that wait

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    @property
    def waits(self) -> bool:
        return bool(self._out)

    @property
    def full(self) -> bool:
        return self._size >= FULL

    def send(self, message: bytes) -> None:
        """Send a message, after those that already wait; raises ValueError for more than `MAX_MESSAGE` bytes."""
        if len(message) > MAX_MESSAGE:
            raise ValueError(f"a message of {len(message)} bytes: at most {MAX_MESSAGE}")
        data: bytes | memoryview = _SIZE.pack(len(message)) + message
        if not self._out:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                return  # the other end is gone: `receive` says so
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
        self._out.append(data)
        self._size += len(data)

    def flush(self) -> None:
        """Send some of the bytes that wait."""
        out, until = self._out, self._size - AT_ONCE
        try:
            while out and self._size > until:
                self._sent(self._socket.sendmsg(list(islice(out, PIECES))))
        except BlockingIOError:
            return
        except OSError:
            out.clear()  # the other end is gone: `receive` says so
            self._size = 0

    def _sent(self, size: int) -> None:
        self._size -= size
        out = self._out
        while size:
            first = out[0]
            if size < len(first):
                out[0] = memoryview(first)[size:]
                return
            size -= len(first)
            out.popleft()

    def receive(self) -> list[bytes]:
        """Return the messages that one read completes; raises Closed, also where the bytes are no message."""
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
            if size > MAX_MESSAGE:
                raise Closed
            start, end = at + _SIZE.size, at + _SIZE.size + size
            if end > len(self._in):
                break
            messages.append(bytes(self._in[start:end]))
            at = end
        del self._in[:at]
        return messages
