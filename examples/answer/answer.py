"""Answers questions by a model that is made up, word by word, and serves the page that asks them.

Each answer is a channel, ``answers.ID``: one streaming publish, whose body are the words as they come, and which ends
the channel behind the last one. The page gets the channel's name, and reads it whenever it likes.
"""

from __future__ import annotations

import argparse
import http.client
import json
import secrets
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

PAGE = Path(__file__).with_name("index.html")
WORDS = (
    "Nobody knows for sure, but this much can be said: a stream that is kept while it is read can be read again, and "
    "a reader that knows where it was needs no more than what came since. So reload as often as you like."
)


def words(question: str, pause: float) -> Iterator[str]:
    """The model's answer: tokens, each after a while."""
    for word in f"You ask: {question} ... {WORDS}".split():
        time.sleep(pause)
        yield f"{word} "


def stream(raiden: str, channel: str, tokens: Iterator[str]) -> None:
    """Publish tokens as they come, and end the channel."""
    address = urlsplit(raiden)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    body = (json.dumps({"token": token}).encode() + b"\n" for token in tokens)
    fields = {"Content-Type": "application/x-ndjson", "Raiden-End": "true"}
    connection.request("POST", f"/{channel}?_stream=1", body, fields, encode_chunked=True)
    response = connection.getresponse()
    print(channel, response.status, response.read().decode())
    connection.close()


class Handler(BaseHTTPRequestHandler):
    """The page at ``/``; a POST of a question to it begins an answer, and returns its channel."""

    raiden: str
    pause: float

    def do_GET(self) -> None:
        if urlsplit(self.path).path != "/":
            self.send_error(404)
            return
        self._answer("text/html; charset=utf-8", PAGE.read_bytes().replace(b"RAIDEN", self.raiden.encode()))

    def do_POST(self) -> None:
        question = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), 1000)).decode("utf-8", "replace")
        channel = f"answers.{secrets.token_urlsafe(12)}"
        tokens = words(question, self.pause)
        threading.Thread(target=stream, args=(self.raiden, channel, tokens), daemon=True).start()
        self._answer("text/plain; charset=utf-8", channel.encode())

    def _answer(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raiden", default="http://127.0.0.1:8088", help="where Raiden is")
    parser.add_argument("--port", type=int, default=8000, help="where the page is to be")
    parser.add_argument("--pause", type=float, default=0.15, help="seconds between two words")
    options = parser.parse_args()
    Handler.raiden, Handler.pause = options.raiden, options.pause
    with ThreadingHTTPServer(("127.0.0.1", options.port), Handler) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
