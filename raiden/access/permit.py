"""Permits: a client, and the policy that says what it may do."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Raw

from raiden.access.api_keys import hash_of
from raiden.access.clients import NOBODY_KNOWN, Client
from raiden.access.policy import HOW, NEEDED, Policy
from raiden.access.revocations import Revocations
from raiden.access.tokens import InvalidToken, Tokens
from raiden.model.attributes import NOBODY
from raiden.model.encoding import dumps
from raiden.model.filters import NO_FILTERS, Filters
from raiden.model.refusals import Unauthorized, Unavailable

# Channels that are known to be allowed, of all clients together.
REMEMBERED: Final = 1000
# Bytes of credentials that are remembered; what they permit takes some times as much.
REMEMBERED_BYTES: Final = 4 << 20


class Permit:
    """What one client may do, for as long as its token lasts; ``permits`` made it, by what the client has ``shown``."""

    __slots__ = ("_last", "_policy", "client", "permits", "shown")

    is_personal = False
    """Whether it is of one connection, and may not be kept for others."""

    def __init__(self, client: Client, permits: Permits, shown: str | None = None) -> None:
        self.client = client
        self.shown = shown
        self.permits = permits
        # What was allowed last, as a whole, and the policy by which it was.
        self._last: object = None
        self._policy: Policy | None = None

    def allows_again(self, ask: object) -> bool:
        """Whether this very ask, which never changes, was allowed last, and the policy is still the same."""
        return self._last is ask and self._policy is self.permits.policy

    def was_allowed(self, ask: object) -> None:
        """Note that an ask is allowed, for `allows_again`."""
        self._last, self._policy = ask, self.permits.policy

    def check(self, action: str, name: str, filtered: bool = False) -> None:
        """As `Policy.check`."""
        self.permits.policy.check(self.client, action, name, filtered=filtered)

    def filters(self, action: str, name: str) -> Filters | None:
        """As `Policy.filters`."""
        return self.permits.policy.filters(self.client, action, name)

    def narrowed(self, filters: Filters, name: str, *, past: bool) -> Filters:
        """The filters of a subscription to which the client is allowed, for which it wants ``filters``; ``past``: it
        begins in the past."""
        if self.client.filtered:
            for action in ("subscribe", "history") if past else ("subscribe",):
                filters = filters.both(self.filters(action, name) or NO_FILTERS)
        return filters

    def allows(self, action: str, name: str) -> bool:
        return self.permits.policy.allows(self.client, action, name)

    def consumes(self, channel: str, durable: str) -> bool:
        """Whether the client may go on to consume a durable subscription."""
        return self.allows("subscribe", channel) and self.allows("history", channel)

    def ended(self, name: str, durable: str = "") -> None:
        """A subscription of the client's connection has ended."""

    def over(self) -> None:
        """The client's connection has no subscriptions any more."""

    def publishes(self, channel: str) -> bool:
        """Whether the client may publish to the channel now. It is the hot path of publishing, so channels are
        remembered."""
        expires = self.client.expires
        if expires is not None and time.time() >= expires:
            return False
        known = self.permits.publishing
        if (self, channel) in known:
            return True
        if not self.allows("publish", channel):
            return False
        if len(known) >= REMEMBERED:
            known.clear()
        known.add((self, channel))
        return True

    def sender(self, channel: str) -> Raw:
        """The subject and the info of the client's token, as messages of the channel show them to subscribers;
        `NOBODY`: they don't, or the client has neither."""
        if not self.permits.policy.shows_sender(channel):
            return NOBODY
        told = {"sub": self.client.subject, "info": self.client.info}
        known = {name: value for name, value in told.items() if value is not None}
        return Raw(dumps(known, "replace")) if known else NOBODY

    def within(self, action: str, prefix: str) -> list[str]:
        """As `Policy.within`."""
        return self.permits.policy.within(self.client, action, prefix)

    def become(self, other: Permit) -> Permit:
        """The permit of a connection whose client has shown what ``other`` is the permit of."""
        return other

    def renewed(self, credential: str) -> Permit:
        """The permit of another token of the same subject; raises InvalidToken."""
        permit = self.permits.of(credential)
        if self.owner and permit.owner != self.owner:
            raise InvalidToken("it is another subject's: make another connection")
        return permit

    def check_still(self) -> None:
        """Raise InvalidToken where the client's token has ended, or was revoked, while others were waited for."""
        if self.is_over:
            raise InvalidToken("its time is over: get another one")
        if self.permits.revocations.of(self.client, time.time()) is not None:
            raise InvalidToken("it was revoked: get another one")

    @property
    def owner(self) -> str:
        """The owner of what the client keeps here: the subject of its token, or its key; "": anyone."""
        client = self.client
        return f"{client.credential}:{client.subject or client.name}" if client.credential else ""

    def left(self, most: float) -> float:
        """The seconds, at most so many, for which the client's token lasts."""
        expires = self.client.expires
        return most if expires is None else max(0.0, min(most, expires - time.time()))

    @property
    def expires(self) -> float | None:
        """The Unix time at which the client's token ends; None: never."""
        return self.client.expires

    @property
    def is_over(self) -> bool:
        return self.client.expires is not None and time.time() >= self.client.expires


class Permits:
    """The permits of a door's clients, by what they show: a token, or an API key."""

    def __init__(self, policy: Policy, tokens: Tokens | None = None, keys: Mapping[str, Client] | None = None) -> None:
        self.policy = policy
        self._tokens = tokens
        self._keys = dict(keys or {})
        # The permits of credentials that were shown, and the bytes of these.
        self._known: dict[str, Permit] = {}
        self._bytes = 0
        self.revocations = Revocations()
        # Permits with a channel that each is known to allow publishing to.
        self.publishing: set[tuple[Permit, str]] = set()
        # The permit of a client that shows nothing.
        self.unknown = Permit(NOBODY_KNOWN, self)

    @property
    def know_credentials(self) -> bool:
        """Whether there are keys by which tokens are verified, or API keys."""
        return self._tokens is not None or bool(self._keys)

    @property
    def is_open(self) -> bool:
        """Whether anyone may do all, so that nothing needs to be shown or checked."""
        return self.policy.is_open

    def become(self, other: Permits) -> None:
        """Take the policy and the keys of others, which were made of new settings. Permits that this has given hold
        on, by the new policy; another credential is judged by the new keys."""
        self.policy, self._tokens, self._keys = other.policy, other._tokens, other._keys
        self.forget()

    def forget(self) -> None:
        """Forget what is known of credentials: what they permit depends on settings, and on revocations."""
        self._known.clear()
        self._bytes = 0
        self.publishing.clear()

    def check_known(self, permit: Permit) -> None:
        """Raise Unauthorized for a client that has shown nothing, where nothing is for anyone."""
        if permit is self.unknown and not self.policy.has_open:
            raise Unauthorized(f"{NEEDED}: {HOW}")

    def of_client(self, client: Client) -> Permit:
        """The permit of a client that is known otherwise, as by its CURVE key."""
        return Permit(client, self)

    def of(self, credential: str | None) -> Permit:
        """The permit of a client that shows a token or a key (None: nothing). Raises InvalidToken, and Unavailable
        where it is not known which tokens are revoked."""
        if credential is None:
            return self.unknown
        # The hot path of clients that come back, and of publishing.
        found = self._known.get(credential)
        if found is not None and not found.is_over:
            return found
        found = Permit(self._client(credential), self, credential)
        self._bytes += len(credential)
        if self._bytes > REMEMBERED_BYTES:
            self.forget()
            self._bytes = len(credential)
        self._known[credential] = found
        return found

    def _client(self, credential: str) -> Client:
        if "." not in credential:
            found = self._keys.get(hash_of(credential)) if credential.isascii() else None
            if found is None:
                raise InvalidToken("it is neither a JSON Web Token nor an API key of this server")
            return found
        return self._client_of(self.claims(credential))

    def claims(self, token: str) -> dict[str, Any]:
        """As `Tokens.claims`."""
        return self._verifier().claims(token)

    def of_claims(self, claims: Mapping[str, Any]) -> Permit:
        """The permit of a token that claims this, whose signature is good; raises as `of`."""
        return Permit(self._client_of(claims), self)

    def _verifier(self) -> Tokens:
        if self._tokens is None:
            raise InvalidToken("this server has no jwt_keys")
        return self._tokens

    def _client_of(self, claims: Mapping[str, Any]) -> Client:
        now = time.time()
        client = self._verifier().client_of(claims, now)
        if not self.revocations.known:
            raise Unavailable("it is not known yet which tokens are revoked: try again later")
        if self.revocations.of(client, now) is not None:
            raise InvalidToken("it was revoked: get another one")
        return client


# The permits where anyone may do all.
OPEN: Final = Permits(Policy({}, guarded=False))
