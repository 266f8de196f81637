#!/usr/bin/env python3
"""A calculation service on the channel ``calculator``; start as many as you like, at any nodes.

pip install websockets
./calculator.py http://localhost:8088 &
curl --json '"2 * (3 + 4)"' 'http://localhost:8088/calculator?_request=5'
"""

from __future__ import annotations

import ast
import itertools
import json
import operator
import sys
import time
from collections.abc import Callable
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

CHANNEL = "calculator"
WINDOW = 4  # requests at once: it does one after the other, and others may do the rest
LARGEST = 1e100

DO: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.USub: operator.neg, ast.UAdd: operator.pos,
}  # fmt: skip


class Wrong(Exception):
    """The client's mistake: a code, and a sentence."""


def calculate(text: object) -> float:
    """The value of an expression of numbers, ``+ - * /`` and brackets."""
    if not isinstance(text, str) or len(text) > 200:
        raise Wrong(400, 'send a calculation as a string, like "2 * (3 + 4)"')
    try:
        value = evaluate(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError:
        raise Wrong(400, f"{text!r} is no calculation") from None
    except ZeroDivisionError:
        raise Wrong(422, "a division by zero") from None
    if abs(value) > LARGEST:
        raise Wrong(422, "the result is too large")
    return value


def evaluate(node: ast.AST) -> float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return min(node.value, LARGEST * 10)
    if isinstance(node, ast.BinOp) and type(node.op) in DO:
        return DO[type(node.op)](evaluate(node.left), evaluate(node.right))
    if isinstance(node, ast.UnaryOp) and type(node.op) in DO:
        return DO[type(node.op)](evaluate(node.operand))
    raise Wrong(400, "only numbers, + - * / and brackets are known here")


def answer(data: object) -> dict[str, Any]:
    """The members of the command ``answer``."""
    try:
        return {"data": calculate(data)}
    except Wrong as wrong:
        code, message = wrong.args
        return {"error": {"code": code, "message": message}}


def serve(url: str) -> None:
    """Serve until the connection ends."""
    ids = itertools.count(1)
    with connect(url.replace("http", "ws", 1) + "/-/websocket") as socket:
        socket.send(json.dumps({"id": next(ids), "cmd": "serve", "channel": CHANNEL, "window": WINDOW}))
        for frame in socket:
            told = json.loads(frame)
            if "request" in told:
                result = answer(told["data"])
                socket.send(json.dumps({"id": next(ids), "cmd": "answer", "request": told["request"], **result}))
            elif "error" in told:  # of `serve`; or an answer that came too late
                print(told["error"]["message"], file=sys.stderr)
            elif "window" in told:
                print(f"serving {told['channel']}", flush=True)


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8088"
    while True:
        try:
            serve(url)
        except (ConnectionClosed, OSError) as error:
            print(f"{error}: trying again", file=sys.stderr)
        time.sleep(1)


if __name__ == "__main__":
    main()
