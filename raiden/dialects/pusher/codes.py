"""Close codes of the protocol. The hundreds say what a client does: up to 4099 it gives up, up to 4199 it comes back
after a second, above that at once. Pure."""

from __future__ import annotations

from typing import Final

from raiden.protocols import websocket

UNKNOWN_APP, NO_PATH, BAD_PROTOCOL, UNAUTHORIZED = 4001, 4005, 4007, 4009
OVER_CAPACITY, RECONNECT, NO_PONG = 4100, 4200, 4201
# The codes of this protocol, by those with which Raiden's own sockets are closed.
OF_RAIDEN: Final = {
    websocket.SLOW_CONSUMER: OVER_CAPACITY, websocket.TRY_LATER: OVER_CAPACITY, websocket.DRAINING: RECONNECT,
    websocket.MISSED: RECONNECT, websocket.EXPIRED: RECONNECT, websocket.CHANNEL_DELETED: RECONNECT,
    websocket.CHANNEL_ENDED: RECONNECT, websocket.PING_TIMEOUT: NO_PONG, websocket.FORBIDDEN: UNAUTHORIZED,
}  # fmt: skip
# The codes that an event tells, too.
OWN: Final = range(4000, 5000)
NOT_TEXT: Final = 1003
