"""Decisions of a delegate about asks: the questions that an ask raises, and what becomes of it by the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from gevent.pool import Pool

from raiden.hooks.guest import Guest
from raiden.hooks.question import Question, changed
from raiden.hooks.verdict import Verdict
from raiden.model.filters import NO_FILTERS, Filters
from raiden.model.message import Message
from raiden.model.payload import check_message
from raiden.model.refusals import Forbidden, Refusal
from raiden.sessions.asks import Consume, Follow, Join, Leave, Publish, PublishLines, PublishOne, Settle, Subscribe
from raiden.sessions.kept import Taken
from raiden.sessions.needs import Need, needs

# Questions about one ask that are under way at the same time.
AT_ONCE: Final = 16


class Decision:
    """The decision about an ask, which is still to be asked for. ``left`` are the channels and patterns that the
    client's token does not settle."""

    def __init__(self, guest: Guest, ask: Any, left: Sequence[str], *, greets: bool) -> None:
        self._guest = guest
        self._ask = ask
        self._left = left
        self._greets = greets
        self._granted: list[tuple[Question, Verdict]] = []

    def wait(self) -> Any:
        """The ask as it may be done. Waits for the delegate; raises Refusal."""
        guest, ask = self._guest, self._ask
        opens = isinstance(ask, Subscribe) and ask.transport != "poll"
        try:
            if self._greets:
                guest.greet()
            questions = self._questions()
            verdicts = self._verdicts(questions)
            guest.check_still()
        except BaseException:  # raised again
            if opens:
                guest.over()
            raise
        self._granted = list(zip(questions, verdicts, strict=True))
        if opens:
            self.keep()
        decided = _APPLIED.get(type(ask), _as_it_is)(ask, self._granted)
        if any(verdict.data is not None for verdict in verdicts):
            for message in _messages(decided):
                check_message(message, guest.max_message)
        return decided

    def filters(self, name: str) -> Filters:
        """The filters with which a channel or pattern was allowed."""
        return next((verdict.filters for question, verdict in self._granted if question.channel == name), NO_FILTERS)

    @property
    def names(self) -> Sequence[str]:
        """The channels and patterns that it is about."""
        return self._left

    def enter(self) -> None:
        """From now on the client may do this, until `leave`."""
        self._guest.deciding = {question.channel or "": verdict.filters for question, verdict in self._granted}

    def leave(self) -> None:
        self._guest.deciding = {}

    def keep(self) -> None:
        """Note the subscriptions that were granted: they are made."""
        if isinstance(self._ask, Subscribe | Follow | Join | Taken):
            durable = self._ask.durable if isinstance(self._ask, Join) else ""
            for question, verdict in self._granted:
                self._guest.grant(question, verdict, durable)

    def _questions(self) -> list[Question]:
        guest, ask, left = self._guest, self._ask, self._left
        messages = [message for message in _messages(ask) if message.channel in left]
        if messages:
            return [guest.question("publish", message.channel, message=message) for message in messages]
        return [guest.question("subscribe", name, history=_begins_in_the_past(ask, name)) for name in left]

    def _verdicts(self, questions: Sequence[Question]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        if questions and (len(questions) == 1 or questions[0].event == "publish"):
            # The answer about the first message of a batch may hold for all.
            verdicts.append(self._guest.ask(questions[0]))
            questions = questions[1:]
        pool = Pool(AT_ONCE)
        try:
            for outcome in pool.imap(self._outcome, questions) if questions else ():
                if isinstance(outcome, Refusal):
                    raise outcome
                verdicts.append(outcome)
        finally:
            pool.kill()
        return verdicts

    def _outcome(self, question: Question) -> Verdict | Refusal:
        try:
            return self._guest.ask(question)
        except Refusal as refusal:
            return refusal


def judge(guest: Guest, ask: Any) -> Decision | None:
    """The decision about an ask that is still to be asked for; None where there is nothing to ask, and it may be done.
    Raises Unauthorized or Forbidden where it is refused already."""
    left = [need.name for need in needs(ask) if guest.leaves_open(*need)]
    if isinstance(ask, Settle | Leave | PublishLines):
        # It is of what the delegate has allowed on this connection, or there is nothing to do; each message of a stream
        # is judged by itself.
        return None
    greets = isinstance(ask, Subscribe) and ask.transport != "poll" and guest.handles("connect")
    return Decision(guest, ask, list(dict.fromkeys(left)), greets=greets) if left or greets else None


def judge_taken(guest: Guest, taken: Taken) -> Decision | None:
    """`judge`, for the subscriptions of a session that was taken."""
    left = [need.name for need in needs_of_taken(taken) if guest.leaves_open(*need)]
    return Decision(guest, taken, list(dict.fromkeys(left)), greets=False) if left else None


def needs_of_taken(taken: Taken) -> Iterator[Need]:
    """The permissions that the subscriptions of a session need."""
    for name, row in taken.rows.items():
        yield Need("subscribe", name, filtered=True)
        if row.place is not None:
            yield Need("history", name, filtered=True)


def _messages(ask: Any) -> Iterator[Message]:
    if isinstance(ask, Publish):
        for group in ask.groups:
            yield from group
    elif isinstance(ask, PublishOne):
        yield ask.message


def _begins_in_the_past(ask: Any, name: str) -> bool:
    if isinstance(ask, Subscribe):
        return name in ask.starts
    if isinstance(ask, Taken):
        return ask.rows[name].place is not None
    return not isinstance(ask, Follow) or ask.start is not None


# What becomes of an ask, by its type.

_Granted = Sequence[tuple[Question, Verdict]]


def _as_it_is(ask: Any, granted: _Granted) -> Any:
    return ask


def _publish(ask: Publish, granted: _Granted) -> Publish:
    new = {id(question.message): _message(question, verdict) for question, verdict in granted}
    return ask._replace(groups=[[new.get(id(message), message) for message in group] for group in ask.groups])


def _publish_one(ask: PublishOne, granted: _Granted) -> PublishOne:
    return ask._replace(message=_message(*granted[0]))


def _message(question: Question, verdict: Verdict) -> Message:
    assert question.message is not None
    return question.message if verdict.data is None else changed(question.message, verdict.data)


def _durably(ask: Any, granted: _Granted) -> Any:
    if any(verdict.filters for _, verdict in granted):
        raise Forbidden("the application allows a part of the messages: a durable subscription has no filters")
    return ask


_APPLIED: dict[type, Callable[[Any, _Granted], Any]] = {
    Publish: _publish, PublishOne: _publish_one, Consume: _durably, Join: _durably,
}  # fmt: skip
