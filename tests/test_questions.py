"""Questions that many ask at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import gevent
import pytest
from gevent.event import Event

from raiden.backend import Backend, Question
from raiden.delivery import questions
from raiden.delivery.answers import TIMEOUT, Answers
from raiden.delivery.questions import Questions, TooManyQuestions, to_workers
from raiden.delivery.table import Table
from raiden.model.encoding import dumps
from raiden.runtime.stats import Stats


class Workers:
    """A backbone with one worker that says how often it was asked, when the test lets it."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.answers = Event()
        self.answers.set()
        self.answer: Callable[[list[Any]], Any] = lambda arguments: [[each, len(self.asked)] for each in arguments]

    def ask(self, text: bytes, timeout: float = 1.0, *, everywhere: bool = False) -> list[bytes]:
        kind, _, arguments = text.partition(b" ")
        assert kind == b"channel" and everywhere
        self.asked.append(arguments)
        self.answers.wait()
        return [dumps(self.answer(questions.ujson.loads(arguments)))]


@pytest.fixture
def workers() -> Workers:
    return Workers()


@pytest.fixture
def asking(workers: Workers) -> Questions:
    return Questions(to_workers(cast(Backend, workers), b"channel", everywhere=True), at_once=10)


def all_of(greenlets: list[Any]) -> list[Any]:
    gevent.joinall(greenlets, timeout=10, raise_error=True)
    return [greenlet.value for greenlet in greenlets]


def test_all_who_ask_meanwhile_share_the_next_question(workers: Workers, asking: Questions) -> None:
    workers.answers.clear()
    first = gevent.spawn(asking.ask, "a")
    gevent.idle()
    others = [gevent.spawn(asking.ask, name) for name in "abcab"]
    gevent.idle()
    assert workers.asked == [b'["a"]']
    workers.answers.set()
    assert all_of([first]) == [[["a", 1]]]
    assert all_of(others) == [[[name, 2]] for name in "abcab"], "what they get was found out after they asked"
    assert workers.asked == [b'["a"]', b'["a","b","c"]']
    assert asking.ask("a") == [["a", 3]]


def test_so_many_are_asked_at_once(workers: Workers, asking: Questions) -> None:
    assert all_of([gevent.spawn(asking.ask, name) for name in range(25)]) == [[[n, 1 + n // 10]] for n in range(25)]


def test_what_is_no_answer_is_left_out(workers: Workers, asking: Questions) -> None:
    wrong: list[Any] = [{}, [], None, ["too", "many"]]
    workers.answer = lambda arguments: wrong[len(workers.asked) - 1]
    assert [asking.ask("a") for _ in wrong] == [[]] * len(wrong)


def test_who_does_not_get_a_turn_is_told(workers: Workers, asking: Questions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "PATIENCE", 0.01)
    monkeypatch.setattr(questions, "MAX_WAITING", 2)
    workers.answers.clear()
    for name in ("under way", "b", "c"):
        with pytest.raises(TooManyQuestions):
            asking.ask(name)
    assert workers.asked == [b'["under way"]']
    with pytest.raises(TooManyQuestions):
        asking.ask("d")
    workers.answers.set()
    monkeypatch.setattr(questions, "PATIENCE", 10.0)
    gevent.idle()
    assert asking.ask("d") == [["d", 3]]


class Askers:
    """Other workers, which note the answers that they get."""

    name = "worker"

    def __init__(self) -> None:
        self.told: list[bytes] = []

    def answer(self, question: Question, text: bytes) -> None:
        self.told.append(question.reply_to)


def test_questions_whose_askers_have_given_up_are_not_answered() -> None:
    """A worker that needs longer for an answer than its askers wait does not fall ever further behind."""
    askers, go_on, looked = Askers(), Event(), []

    def look(argument: Any) -> int:
        looked.append(argument)
        go_on.wait()
        return 0

    answers = Answers(cast(Backend, askers), Table(max_channels=1, max_bytes=1), cast(Stats, None))
    answers.others[b"slow"] = look
    answers.long.add(b"slow")
    for number in range(5):
        answers.answer(Question(b"%d" % number, b"slow [%d]" % number))
    gevent.sleep(TIMEOUT)
    answers.answer(Question(b"5", b"slow [5]"))
    go_on.set()
    with gevent.Timeout(10):
        while len(askers.told) < 2:
            gevent.sleep(0)
    assert askers.told == [b"0", b"5"] and looked == [0, 5]
