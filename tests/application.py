"""An application that a node asks over HTTP: a delegate."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Application:
    """Answers questions by ``decide(question)``: a value as JSON, or a status with a value. ``questions`` has all that
    were asked; ``most`` is the largest number that was under way at once."""

    def __init__(self, decide: Callable[[dict[str, Any]], Any]) -> None:
        self.decide = decide
        self.questions: list[dict[str, Any]] = []
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()
        application = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                question = json.loads(self.rfile.read(int(self.headers["content-length"])))
                answer = application.asked(question)
                status, value = answer if isinstance(answer, tuple) else (200, answer)
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:
                    pass  # the node did not wait for the answer

        class Server(ThreadingHTTPServer):
            request_queue_size = 512

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/decide?secret=hidden"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def asked(self, question: dict[str, Any]) -> Any:
        with self._lock:
            self.questions.append(question)
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            return self.decide(question)
        finally:
            with self._lock:
                self._now -= 1

    def of(self, event: str, channel: str | None = None) -> list[dict[str, Any]]:
        """The questions about an event, and a channel."""
        with self._lock:
            return [
                each for each in self.questions if each["event"] == event and channel in (None, each.get("channel"))
            ]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def __enter__(self) -> Application:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
