"""Questions to a delegate, its answers, and the breaker, without a delegate."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from raiden.hooks import breaker, verdict
from raiden.hooks.breaker import Breaker
from raiden.hooks.question import Asker, Question, changed
from raiden.hooks.verdict import MAX_INFO, InvalidVerdict, of_json, of_python, of_status
from raiden.model.filters import Filters
from raiden.model.message import Kind, Message
from raiden.model.refusals import Forbidden, Unauthorized

ANN = Asker("id1", "ann", {"name": "Ann"}, "192.0.2.7", {"cookie": "a=b"})


def read(told: Any) -> verdict.Verdict:
    return of_json(json.dumps(told).encode())


def test_an_answer_that_allows() -> None:
    found = read({"allow": True, "filters": {"team": ["a", "b"], "n": 1}, "info": {"x": 1}, "ttl": 60, "data": [1, 2]})
    found.check()
    assert found.filters == Filters([("team", "a"), ("team", "b"), ("n", "1")])
    assert (found.info, found.ttl, found.data) == ({"x": 1}, 60.0, b"[1, 2]")


def test_null_says_nothing() -> None:
    told = dict.fromkeys(("filters", "data", "info", "ttl", "status", "reason"))
    assert read({"allow": True, **told}) == of_python({"allow": True, **told}) == verdict.Verdict()


def test_an_answer_that_refuses() -> None:
    with pytest.raises(Forbidden, match="the application refuses it"):
        read({"allow": False}).check()
    with pytest.raises(Forbidden, match="not you"):
        of_python({"allow": False, "reason": "not you"}).check()
    with pytest.raises(Unauthorized, match="log in"):
        read({"allow": False, "status": 401, "reason": "log in"}).check()


def test_a_status_that_refuses() -> None:
    for body in (b"", b"<html>", b"[]", b'{"allow": true}', b'{"reason": 7}'):
        with pytest.raises(Unauthorized, match="the application refuses it"):
            of_status(401, body).check()
    found = of_status(403, b'{"reason": "not you", "ttl": 5, "other": 1}')
    assert found.ttl == 5
    with pytest.raises(Forbidden, match="not you"):
        found.check()


@pytest.mark.parametrize(
    "told",
    [
        [], 1, "allow", None, {}, {"allow": 1}, {"allow": "true"}, {"allow": None}, {"alow": True},
        {"allow": True, "secret-member": 1}, {"allow": False, "status": 200}, {"allow": False, "status": "403"},
        {"allow": False, "status": True}, {"allow": False, "reason": 1}, {"allow": False, "reason": "x" * 301},
        {"allow": False, "reason": "\ud800"}, {"allow": True, "ttl": -1}, {"allow": True, "ttl": "60"},
        {"allow": True, "ttl": True}, {"allow": True, "ttl": 1e10}, {"allow": True, "filters": []},
        {"allow": True, "filters": {"a": {}}}, {"allow": True, "filters": {"a": "x" * 5000}},
        {"allow": True, "info": "x" * MAX_INFO},
    ],
)  # fmt: skip
def test_answers_that_lie(told: Any) -> None:
    with pytest.raises(InvalidVerdict) as error:
        read(told)
    assert "secret" not in str(error.value), "a reason is for the log, and has nothing of the answer"
    if told not in (True, False):
        with pytest.raises(InvalidVerdict):
            of_python(told)


def test_answers_that_are_no_json() -> None:
    for body in (
        b"",
        b"{",
        b'{"allow": true} x',
        b'{"allow": NaN}',
        b"\xff",
        b'{"allow":true,"ttl":' + b"9" * 400 + b"}",
    ):
        with pytest.raises(InvalidVerdict):
            of_json(body)
    nested: dict[str, Any] = {}
    nested["a"] = nested
    for told in ({"allow": True, "data": {1, 2}}, {"allow": True, "data": nested}, {"allow": True, "info": nested},
                 {1: 2}, {"allow": True, "data": float("nan")}):  # fmt: skip
        with pytest.raises(InvalidVerdict):
            of_python(told)


def test_a_question_as_json() -> None:
    asked = json.loads(Question("subscribe", ANN, "a", history=True).to_json())
    assert asked == {
        "event": "subscribe", "channel": "a", "history": True,
        "client": {
            "id": "id1", "sub": "ann", "info": {"name": "Ann"}, "address": "192.0.2.7", "headers": {"cookie": "a=b"},
        },
    }  # fmt: skip
    assert json.loads(Question("connect", ANN).to_json()).keys() == {"event", "client"}


@pytest.mark.parametrize(
    ("kind", "payload", "data"),
    [
        (Kind.JSON, b'{"n": 10000000000000000000001}', {"n": 10000000000000000000001}),
        (Kind.TEXT, "ä\n".encode(), "ä\n"),
        (Kind.BYTES, b"\0\xff", {"base64": base64.b64encode(b"\0\xff").decode()}),
    ],
)
def test_a_message_in_a_question(kind: int, payload: bytes, data: Any) -> None:
    question = Question("publish", ANN, "a", message=Message("a", kind, payload))
    assert json.loads(question.to_json())["data"] == data
    if kind != Kind.JSON:
        assert question.data == data


def test_a_changed_message_keeps_its_kind_if_it_can() -> None:
    def change(kind: int, payload: bytes) -> tuple[int, bytes]:
        found = changed(Message("a", kind, b"x"), payload)
        return found.kind, found.payload

    assert change(Kind.JSON, b'"a"') == (Kind.JSON, b'"a"')
    assert change(Kind.TEXT, b'"a"') == (Kind.TEXT, b"a")
    assert change(Kind.TEXT, b"[1]") == (Kind.JSON, b"[1]")
    assert change(Kind.BYTES, b'{"base64":"AP8="}') == (Kind.BYTES, b"\0\xff")
    for payload in (b'{"base64":"?"}', b'{"base64":1}', b'{"a":1}', b"1"):
        assert change(Kind.BYTES, payload) == (Kind.JSON, payload)


def test_what_an_answer_that_is_kept_depends_on() -> None:
    one = Question("subscribe", ANN, "a")
    clients = [
        replace(ANN, sub="bob"), replace(ANN, sub=None), replace(ANN, info=1), replace(ANN, address="192.0.2.8"),
        replace(ANN, headers={}),
    ]  # fmt: skip
    others = [
        Question("publish", ANN, "a"), Question("subscribe", ANN, "b"), Question("subscribe", ANN, "a", history=True),
        *(Question("subscribe", client, "a") for client in clients),
    ]  # fmt: skip
    assert len({one.key, *(each.key for each in others)}) == 1 + len(others)
    same = replace(ANN, id="id2")
    assert Question("subscribe", same, "a").key == one.key, "not on the connection"


def test_the_breaker() -> None:
    now = 0.0
    found = Breaker(lambda: now)
    for _ in range(breaker.FAILURES - 1):
        assert found.admit() and not found.failed()
    found.succeeded()  # only failures in a row count
    for number in range(breaker.FAILURES):
        assert found.admit() and found.failed() == (number == breaker.FAILURES - 1)
    assert found.is_open and not found.admit()
    now += breaker.PAUSE - 0.1
    assert not found.admit()
    now += 0.2
    assert found.admit() and not found.admit(), "one may try"
    found.failed()
    assert not found.admit()
    now += breaker.PAUSE + 0.1
    assert found.admit()
    found.succeeded()
    assert not found.is_open and found.admit() and found.admit()


def test_a_trial_that_is_never_over_is_followed_by_another() -> None:
    now = 0.0
    found = Breaker(lambda: now)
    for _ in range(breaker.FAILURES):
        found.failed()
    for _ in range(3):
        now += breaker.PAUSE + 0.1
        assert found.admit() and not found.admit()
