"""The endpoints of webhooks, as the settings describe them, and the signatures of what they are sent
(https://www.standardwebhooks.com). Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from raiden.access.clients import Patterns, checked
from raiden.hooks.target import Target
from raiden.model.near import did_you_mean

OCCUPIED, VACATED = "channel.occupied", "channel.vacated"
CONNECTED, DISCONNECTED = "client.connected", "client.disconnected"
PUBLISHED = "message.published"
EVENTS: Final = (OCCUPIED, VACATED, CONNECTED, DISCONNECTED, PUBLISHED)
# Events of presence, which there is none of yet.
_LATER: Final = ("member.joined", "member.left")
# Seconds for an answer, as the specification recommends.
TIMEOUT: Final = 15.0
MAX_ENDPOINTS: Final = 32
_PREFIX: Final = "whsec_"
# Bytes of a secret ("Signature scheme" in the specification), secrets of an endpoint, and bytes of its name.
_LEAST, _MOST, _SECRETS, _NAME = 24, 64, 4, 100
_OPTIONS: Final = ("url", "secret", "events", "channels", "name", "timeout", "insecure")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A receiver of events. ``channels`` are those whose events it gets; events of clients are of no channel."""

    name: str
    url: str
    secrets: tuple[bytes, ...]
    events: frozenset[str]
    channels: Patterns
    timeout: float = TIMEOUT
    insecure: bool = False

    @classmethod
    def of(cls, options: Any) -> Endpoint:
        """Read an entry of the setting `webhooks`; raises ValueError, which says what is wrong, and has no secret."""
        way = delivery(options, _OPTIONS, "{'url': 'https://...', 'secret': 'whsec_...', 'events': [...]}")
        events = _events(options.get("events"))
        if PUBLISHED in events and "channels" not in options:
            raise ValueError(f"{PUBLISHED} is for the channels that are listed: set channels, like ['orders.*']")
        channels = Patterns.of(checked("channels", options.get("channels", ["*"])))
        return cls(secrets=_secrets(options.get("secret")), events=events, channels=channels, **way)

    @property
    def queue(self) -> str:
        """The channel of the events that wait for it; no client can name such a channel."""
        return f"-/webhooks/{self.name}"

    def told(self, event: str, channel: str | None, body: bytes) -> bytes:
        """The body by which it is told of an event of this type, which has a ``body`` of its own."""
        return body

    def wants(self, event: str, channel: str | None) -> bool:
        return event in self.events and (channel is None or self.channels.allows(channel))

    def signed(self, id: str, timestamp: int, body: bytes) -> dict[str, str]:
        """The header fields of an attempt to send a body: its id, the time (seconds since 1970), and a signature by
        each secret."""
        content = b"%b.%d.%b" % (id.encode(), timestamp, body)
        signatures = [hmac.new(secret, content, hashlib.sha256).digest() for secret in self.secrets]
        return {
            "webhook-id": id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join([f"v1,{base64.b64encode(each).decode()}" for each in signatures]),
        }


def endpoints(setting: Sequence[Any]) -> list[Endpoint]:
    """The endpoints in the setting `webhooks`. Raises ValueError, which says which one is wrong, and why."""
    if len(setting) > MAX_ENDPOINTS:
        raise ValueError(f"webhooks has more than {MAX_ENDPOINTS} entries")
    found: dict[str, Endpoint] = {}
    for number, options in enumerate(setting, 1):
        try:
            endpoint = Endpoint.of(options)
            if endpoint.name in found:
                raise ValueError(f"another one is called {endpoint.name!r}, too: give each a name of its own")
        except ValueError as error:
            raise ValueError(f"webhooks: entry {number}: {error}") from None
        found[endpoint.name] = endpoint
    return list(found.values())


def delivery(options: Any, known: Sequence[str], example: str, begin: str = "") -> dict[str, Any]:
    """The name of an endpoint, its ``url``, ``timeout`` and ``insecure``, from options of which there are those that
    are ``known``. Unless it has a name, that is the URL's host and port, behind ``begin``. Raises ValueError."""
    if not isinstance(options, Mapping):
        raise ValueError(f"it must be a dict, like {example}")
    for option in options:
        if option not in known:
            hint = did_you_mean(str(option), known, f"; there are {', '.join(known)}")
            raise ValueError(f"it has an unknown option {option!r}{hint}")
    insecure, timeout = options.get("insecure", False), options.get("timeout", TIMEOUT)
    if not isinstance(insecure, bool):
        raise ValueError("insecure is True or False")
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0.1 <= timeout <= 60:
        raise ValueError("timeout is from 0.1 to 60 seconds")
    target = Target(options.get("url"), insecure=insecure)
    name = options.get("name", begin + target.authority)
    if not isinstance(name, str) or not 0 < len(name.encode()) <= _NAME or not name.isprintable() or "/" in name:
        raise ValueError(f"name is a text of 1 to {_NAME} bytes without '/'")
    return {"name": name, "url": str(options["url"]), "timeout": float(timeout), "insecure": insecure}


def listed(names: Any, known: Collection[str]) -> Sequence[str]:
    """The events that an option lists, which must be among those that are ``known``. Raises ValueError."""
    if not isinstance(names, list | tuple) or not names:
        raise ValueError(f"events is a list of some of {', '.join(known)}")
    for name in names:
        if name not in known:
            hint = did_you_mean(str(name), known, f"; there are {', '.join(known)}")
            raise ValueError(f"there is no event {name!r}{hint}")
    return names


def _events(names: Any) -> frozenset[str]:
    for name in names if isinstance(names, list | tuple) else ():
        if name in _LATER:
            raise ValueError(f"{name} is not there yet: it comes with presence")
    return frozenset(listed(names, EVENTS))


def _secrets(listed: Any) -> tuple[bytes, ...]:
    texts = [listed] if isinstance(listed, str) else listed
    if not isinstance(texts, list | tuple) or not 0 < len(texts) <= _SECRETS:
        raise ValueError(f"secret is a text like 'whsec_...', or a list of up to {_SECRETS}, while they are changed")
    return tuple([_secret(text) for text in texts])


def _secret(text: Any) -> bytes:
    try:
        if not isinstance(text, str) or not text.startswith(_PREFIX):
            raise ValueError
        secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (ValueError, binascii.Error):
        raise ValueError("a secret is 'whsec_' and base64, as of 'openssl rand -base64 32'") from None
    if not _LEAST <= len(secret) <= _MOST:
        raise ValueError(f"a secret has {_LEAST} to {_MOST} random bytes, as base64; this one has {len(secret)}")
    return secret
