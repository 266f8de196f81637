"""The states of a connection."""

from __future__ import annotations

from typing import Final

# The states of a connection. Only an HTTP door's has all of them (RFC 9112 section 9); a ZeroMQ client's is IDLE until
# it ends.
#
#            bytes              whole request          subscribed               its past is sent
#     IDLE ─────────▶ RECEIVING ────────────▶ SERVING ────────────▶ OPENING ────────────────────▶ SUBSCRIBED
#      ▲                  ▲                     │  ▲                   │ a long-poll's answer           │
#      └──────────────────┴──────── answered ───┘  └───────────────────┘                                │
#      ▲                                                 a long-poll's answer                           │
#      └────────────────────────────────────────────────────────────────────────────────────────────────┘
#     any ── `finish` ──▶ CLOSING: nothing is read or sent any more but what waits ── `close` ──▶ CLOSED
IDLE: Final = 0
RECEIVING: Final = 1
SERVING: Final = 2
OPENING: Final = 3
SUBSCRIBED: Final = 4
CLOSING: Final = 5
CLOSED: Final = 6
