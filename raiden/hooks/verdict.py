"""Verdicts: what a delegate's answer means, whether it came as JSON or from Python. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from raiden.model import strict_json
from raiden.model.encoding import dumps
from raiden.model.filters import NO_FILTERS, Filters
from raiden.model.near import did_you_mean
from raiden.model.refusals import Forbidden, Invalid, Refusal, Unauthorized
from raiden.model.strict_json import InvalidPayload, is_unicode, json_payload

# Bytes of an answer's info, characters of its reason, and the longest time that it may hold, in seconds.
MAX_INFO: Final = 4096
MAX_REASON: Final = 300
MAX_TTL: Final = 86400.0
_MEMBERS = frozenset({"allow", "status", "reason", "filters", "data", "info", "ttl"})


class InvalidVerdict(ValueError):
    """The answer can't be understood. The text says why, and has nothing of its values."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to happen. ``refusal``: it is refused so. Else a subscription gets ``filters`` besides its own, a message
    the payload ``data`` (None: its own), and the client ``info`` (None: what it has). The answer holds for ``ttl``
    seconds (0: this once)."""

    refusal: tuple[int, str] | None = None
    filters: Filters = NO_FILTERS
    data: bytes | None = None
    info: Any = None
    ttl: float = 0.0

    def check(self) -> None:
        """Raise the refusal, if it is one."""
        if self.refusal is not None:
            raise refused(*self.refusal)

    @property
    def size(self) -> int:
        """About the bytes that it takes where it is kept."""
        text = sum(len(key) + len(value or "") for key, value in self.filters.pairs())
        return 500 + text + (0 if self.info is None else len(dumps(self.info)))


def refused(status: int, reason: str) -> Refusal:
    """The refusal with a status, 401 or 403, and a reason for the client."""
    return Unauthorized(reason) if status == 401 else Forbidden(reason)


def of_json(body: bytes) -> Verdict:
    """The verdict in the body of an answer. Raises InvalidVerdict."""
    return _read(*_members_of(body))


def of_status(status: int, body: bytes) -> Verdict:
    """The refusal that an answer with the status 401 or 403 is. Its body may have a ``reason`` and a ``ttl``."""
    try:
        values, _ = _members_of(body)
        told: dict[str, Any] = {name: values[name] for name in ("reason", "ttl") if name in values}
        return _read({**told, "allow": False, "status": status}, None)
    except InvalidVerdict:
        return _read({"allow": False, "status": status}, None)


def _members_of(body: bytes) -> tuple[dict[str, Any], bytes | None]:
    """The members of an answer; ``data`` as it was written."""
    try:
        members = strict_json.members(body)
        if members is None:
            raise InvalidVerdict("it is no JSON object")
        data = members.pop("data", None)
        return {name: strict_json.value(raw, most=strict_json.MAX_SLOW) for name, raw in members.items()}, data
    except InvalidPayload:
        raise InvalidVerdict("it is no JSON") from None


def of_python(answer: Any) -> Verdict:
    """The verdict in what a method of a delegate returned: True, False, or a dict. Raises InvalidVerdict."""
    if isinstance(answer, bool):
        return _read({"allow": answer}, None)
    if not isinstance(answer, Mapping) or not all(isinstance(name, str) for name in answer):
        raise InvalidVerdict('it is neither True nor False, nor a dict like {"allow": True}')
    values = dict(answer)
    data = values.pop("data", None)
    try:
        return _read(values, None if data is None else dumps(data))
    except (TypeError, OverflowError, UnicodeEncodeError):
        raise InvalidVerdict("a value in it is no JSON") from None


def _read(values: Mapping[str, Any], data: bytes | None) -> Verdict:
    unknown = values.keys() - _MEMBERS
    if unknown:
        hint = did_you_mean(min(unknown), _MEMBERS)
        raise InvalidVerdict(f"it has an unknown member{hint}")
    allow = values.get("allow")
    if not isinstance(allow, bool):
        raise InvalidVerdict("allow is neither true nor false")
    status, reason, ttl = values.get("status"), values.get("reason"), values.get("ttl")
    if status is not None and (isinstance(status, bool) or status not in (401, 403)):
        raise InvalidVerdict("status is neither 401 nor 403")
    if reason is not None and (not isinstance(reason, str) or len(reason) > MAX_REASON or not is_unicode(reason)):
        raise InvalidVerdict(f"reason is no text of at most {MAX_REASON} characters")
    ttl = 0.0 if ttl is None else ttl
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 <= ttl <= MAX_TTL:
        raise InvalidVerdict(f"ttl is no number of seconds from 0 to {MAX_TTL:g}")
    if not allow:
        return Verdict((status or 403, reason or "the application refuses it"), ttl=float(ttl))
    return Verdict(None, _filters(values.get("filters")), _data(data), _info(values.get("info")), float(ttl))


def _info(told: Any) -> Any:
    try:
        if told is not None and len(dumps(told)) > MAX_INFO:
            raise InvalidVerdict(f"info has more than {MAX_INFO} bytes")
    except (TypeError, OverflowError, UnicodeEncodeError):
        raise InvalidVerdict("info is no JSON in Unicode") from None
    return told


def _filters(told: Any) -> Filters:
    if told is None:
        return NO_FILTERS
    try:
        return Filters.of(told)
    except Invalid:
        raise InvalidVerdict('filters is no object like {"team": ["a", "b"]} of a few KB') from None


def _data(raw: bytes | None) -> bytes | None:
    """The payload in ``data``; null says nothing, as in all members."""
    try:
        payload = None if raw is None else json_payload(raw)
    except InvalidPayload:
        raise InvalidVerdict("data is no JSON") from None
    return None if payload == b"null" else payload
