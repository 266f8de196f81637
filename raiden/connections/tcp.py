"""TCP's knowledge of a connection's other end: whether it is there, and whether it takes the bytes sent to it.
Linux."""

from __future__ import annotations

import fcntl
import math
import socket
import struct
import termios

# Probes of a silent peer that may go unanswered.
PROBES = 3
# In struct tcp_info (linux/tcp.h): bytes that the peer has acknowledged (RFC 4898, tcpEStatsAppHCThruOctetsAcked).
_ACKNOWLEDGED, _TO_ITS_END = struct.Struct("=Q"), 128
_OFFSET = 120
# There, too: milliseconds since data of the peer came, and since its last acknowledgement did.
_LAST_HEARD, _TO_LAST_HEARD, _HEARD_OFFSET = struct.Struct("=II"), 60, 52
# The first byte there is the connection's state; this one (net/tcp_states.h) is of a peer that has closed its end.
_CLOSE_WAIT = 8


def bound_silence(sock: socket.socket, keepalive: float) -> None:
    """Let the kernel end a connection whose peer gives no sign of life: an idle connection after 2 x ``keepalive``
    seconds, in the second half of which the peer is asked `PROBES` times; a connection with bytes under way when these
    were not acknowledged, or found no room at the peer, for so long (tcp(7), RFC 5482). With a listening socket: the
    connections that it accepts from now on.
    """
    for option, value, most in (
        (socket.TCP_KEEPIDLE, math.ceil(keepalive), 32_767),
        (socket.TCP_KEEPINTVL, math.ceil(keepalive / PROBES), 32_767),
        (socket.TCP_KEEPCNT, PROBES, PROBES),
        (socket.TCP_USER_TIMEOUT, math.ceil(2000 * keepalive), (1 << 31) - 1),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, min(value, most))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def bound_unsent(sock: socket.socket, size: int) -> None:
    """Let the kernel take no more than about ``size`` bytes that it can't send yet; bytes under way to the peer do not
    count (TCP_NOTSENT_LOWAT, tcp(7)). With a listening socket: for the connections that it accepts from now on."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, size)


def acknowledged(sock: socket.socket) -> int:
    """The number of bytes that the peer's TCP has acknowledged since the connection began; 0 where nobody knows."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TO_ITS_END)
        return int(_ACKNOWLEDGED.unpack_from(info, _OFFSET)[0])
    except (OSError, struct.error):  # it is no TCP socket, or broken
        return 0


def silence(sock: socket.socket) -> float | None:
    """The seconds since the peer's TCP last acknowledged something, or sent something; None where nobody knows."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TO_LAST_HEARD)
        return min(_LAST_HEARD.unpack_from(info, _HEARD_OFFSET)) / 1000
    except (OSError, struct.error):  # it is no TCP socket, or broken
        return None


def has_ended(sock: socket.socket) -> bool:
    """Whether the peer has closed its end, even if bytes that it sent before were not read yet."""
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _CLOSE_WAIT
    except OSError:  # broken, or closed
        return True


def under_way(sock: socket.socket) -> int:
    """The number of bytes that the kernel has taken and the peer's TCP has not acknowledged (SIOCOUTQ, tcp(7))."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0])
    except OSError:
        return 0
