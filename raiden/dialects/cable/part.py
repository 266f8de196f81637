"""The part of a worker that all connections of the dialect share."""

from __future__ import annotations

import logging
from typing import Any, Final

import gevent

from raiden.dialects.cable import config
from raiden.dialects.cable.attendance import Attendance
from raiden.dialects.cable.encodings import Encodings
from raiden.dialects.cable.identity import Identities
from raiden.dialects.cable.kept import Kept
from raiden.dialects.cable.rights import Rights
from raiden.dialects.cable.streams import CABLE_READY, PUBSUB, TURBO, Streams, unknown_class
from raiden.gateway import Gateway
from raiden.runtime.seldom import Seldom

log = logging.getLogger(__name__)

_TOLD: Final = "actions of channel classes are ignored: this server runs none, and only serves streams"
_UNKNOWN: Final = (
    "a client's subscription to a channel class is rejected: this server runs none, and knows the streams of "
    f"{PUBSUB}, {TURBO} and {CABLE_READY}"
)


class Part:
    """What the settings say, and the encodings that connections have. A reload makes a new reading of the settings."""

    def __init__(self, gateway: Gateway, settings: Any) -> None:
        self.gateway = gateway
        self.encodings = Encodings()
        self.attendance = Attendance(gateway.presence)
        self._has_told = False
        self._seldom = Seldom()
        self.read(settings)

    def read(self, settings: Any) -> None:
        """Go by these settings from now on; connections stay as they are. Raises ValueError."""
        permits, history = self.gateway.permits, self.gateway.router.history
        signing = config.streams_secrets(settings)
        self.streams = Streams(
            {
                PUBSUB: signing,
                TURBO: config.secrets(settings, "cable_turbo_secret") or signing,
                CABLE_READY: config.secrets(settings, "cable_cableready_secret") or signing,
            }
        )
        self.rights = Rights(permits, public=settings.cable_public, whispers=settings.cable_whispers)
        self.identities = Identities(
            permits, config.jwt_secrets(settings), required=settings.cable_token_required,
            parameter=settings.cable_token_param, leeway=settings.jwt_leeway,
        )  # fmt: skip
        self.broadcast_keys = config.broadcast_keys(settings)
        self.pong_timeout = settings.cable_pong_timeout
        # Sessions that may come back; None: there is no store to keep them, or they are not to.
        self.kept = Kept(history, settings.cable_sessions) if history is not None and settings.cable_sessions else None

    def keep_soon(self, sid: str, owner: str, identifiers: list[str]) -> None:
        """Keep a session, without waiting for it."""
        if self.kept is not None:
            gevent.spawn(self.kept.keep, sid, owner, identifiers)

    def told_of_actions(self) -> None:
        """Say once that there are no channel classes."""
        if not self._has_told:
            self._has_told = True
            log.warning(_TOLD)

    def told_of_class(self, identifier: str) -> None:
        """Say that a channel class is not known here, if an identifier that is no stream's names one."""
        name = unknown_class(identifier)[:100]
        if name and self._seldom.may_say(name):
            log.warning(_UNKNOWN, extra={"class": name})
