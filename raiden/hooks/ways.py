"""The two ways to ask a delegate: by the methods of a Python object, and by POSTs to a URL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import gevent

from raiden.hooks import verdict
from raiden.hooks.client import HookFailed, HttpClient
from raiden.hooks.delegate import DelegateFailed, Way
from raiden.hooks.question import ASKED, EVENTS, Question
from raiden.hooks.target import Target
from raiden.hooks.verdict import InvalidVerdict, Verdict
from raiden.model.near import did_you_mean
from raiden.model.refusals import Fault, Refusal
from raiden.runtime import faults

# Seconds for an answer, unless the delegate says otherwise, and at most; connections to a URL.
TIMEOUT: Final = 2.0
MAX_TIMEOUT: Final = 30.0
CONNECTIONS: Final = 50
_OPTIONS = ("url", "timeout", "headers", "events", "connections", "insecure")


def of(delegate: Any) -> Way:
    """The way to ask the delegate of the setting. Raises ValueError, which says what is wrong."""
    return ByUrl(delegate) if isinstance(delegate, Mapping) else ByMethods(delegate)


class ByMethods:
    """Asks an object: ``on_EVENT(question)`` returns True, False, or a dict like an HTTP delegate's answer. Its
    attributes ``headers`` and ``timeout``, where it has them, are what the options of a URL are. Raises ValueError."""

    def __init__(self, delegate: Any) -> None:
        name = type(delegate).__name__
        if isinstance(delegate, type):
            raise ValueError(f"delegate is a class: make an object of it, as {delegate.__name__}()")
        self.events = frozenset(event for event in EVENTS if callable(getattr(delegate, f"on_{event}", None)))
        if not self.events:
            methods = ", ".join(f"on_{event}" for event in EVENTS)
            raise ValueError(f"delegate: {name} has none of the methods {methods}; or give a dict with a url")
        self.name = name
        self.headers = _headers(getattr(delegate, "headers", ()))
        self._timeout = _timeout(getattr(delegate, "timeout", TIMEOUT))
        self._delegate = delegate

    def ask(self, question: Question) -> Verdict:
        limit = gevent.Timeout(self._timeout)
        try:
            with limit:
                answer = getattr(self._delegate, f"on_{question.event}")(question)
            # A method that is only told of something may return nothing.
            return verdict.of_python(answer) if question.event in ASKED else Verdict()
        except gevent.Timeout as timeout:
            if timeout is not limit:
                raise
            raise DelegateFailed(f"no answer within {self._timeout:g} s") from None
        except Refusal:
            raise
        except Exception:  # it is the application's own: whatever it is ends no more than this request
            faults.report(f"the delegate's on_{question.event}")
            raise Fault() from None

    def close(self) -> None:
        """Do nothing: the object is the application's."""


class ByUrl:
    """Asks a URL, by the options of a setting like ``{"url": ..., "timeout": 2, "headers": ["cookie"]}``. Raises
    ValueError."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        for option in options:
            if option not in _OPTIONS:
                hint = did_you_mean(str(option), _OPTIONS, f"; there are {', '.join(_OPTIONS)}")
                raise ValueError(f"delegate: unknown option {option!r}{hint}")
        events = _names("events", options.get("events", EVENTS))
        if not events or not set(events) <= set(EVENTS):
            raise ValueError(f"delegate: events is a list of some of {', '.join(EVENTS)}")
        connections, insecure = options.get("connections", CONNECTIONS), options.get("insecure", False)
        if isinstance(connections, bool) or not isinstance(connections, int) or not 1 <= connections <= 1000:
            raise ValueError("delegate: connections is a whole number from 1 to 1000")
        if not isinstance(insecure, bool):
            raise ValueError("delegate: insecure is True or False")
        self.events = frozenset(events)
        self.headers = _headers(options.get("headers", ()))
        timeout = _timeout(options.get("timeout", TIMEOUT))
        try:
            target = Target(options.get("url"), insecure=insecure)
        except ValueError as error:
            raise ValueError(f"delegate: {error}") from None
        self.name = f"{target.host}:{target.port}"
        self._client = HttpClient(options["url"], timeout=timeout, connections=connections, insecure=insecure)

    def ask(self, question: Question) -> Verdict:
        try:
            answer = self._client.post(question.to_json(), {})
        except HookFailed as failure:
            raise DelegateFailed(str(failure)) from None
        if question.event not in ASKED and 200 <= answer.status < 300:
            return Verdict()
        try:
            if answer.status == 200:
                return verdict.of_json(answer.body)
            if answer.status in (401, 403):
                return verdict.of_status(answer.status, answer.body)
        except InvalidVerdict as error:
            raise DelegateFailed(f"its answer is not understood: {error}") from None
        raise DelegateFailed(f"its answer has the status {answer.status}")

    def close(self) -> None:
        self._client.close()


def _timeout(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_TIMEOUT:
        raise ValueError(f"delegate: timeout is a number of seconds, at most {MAX_TIMEOUT:g}")
    return float(value)


def _headers(value: Any) -> tuple[str, ...]:
    return tuple(name.lower() for name in _names("headers", value))


def _names(option: str, value: Any) -> Sequence[str]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"delegate: {option} is a list of names")
    return value
