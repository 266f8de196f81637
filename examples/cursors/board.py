"""The application of the cursor board: it serves the page, and makes a token for whoever enters.

A real application would ask for a password first.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PAGE = Path(__file__).with_name("index.html")
SECRET = os.environ.get("BOARD_SECRET") or sys.exit("BOARD_SECRET is not set: export it as for Raiden (README.md)")
RAIDEN = os.environ.get("BOARD_RAIDEN", "ws://127.0.0.1:8088")
PORT = int(os.environ.get("BOARD_PORT", "8000"))


def token(name: str) -> str:
    """A JSON Web Token for an hour: it lets its subject see who is at the board, and move its own cursor only."""
    hue = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 360
    claims = {
        "sub": name,
        "exp": int(time.time()) + 3600,
        "info": {"color": f"hsl({hue} 70% 40%)"},
        "subscribe": ["board", "cursor.*"],
        "presence": ["board"],
        "publish": ["cursor.{sub}"],
    }
    parts = [json.dumps(each).encode() for each in ({"alg": "HS256", "typ": "JWT"}, claims)]
    data = b".".join(base64.urlsafe_b64encode(each).rstrip(b"=") for each in parts)
    mac = base64.urlsafe_b64encode(hmac.digest(SECRET.encode(), data, "sha256")).rstrip(b"=")
    return f"{data.decode()}.{mac.decode()}"


class Board(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.reply(*((200, PAGE.read_bytes(), "text/html") if self.path == "/" else (404, b"", "text/plain")))

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        name = self.rfile.read(min(size, 100)).decode(errors="replace").strip()
        if self.path != "/token" or not re.fullmatch(r"[\w -]{1,20}", name):
            self.reply(400, b"a name has at most 20 letters", "text/plain")
            return
        told = {"token": token(name), "sub": name, "url": RAIDEN}
        self.reply(200, json.dumps(told).encode(), "application/json")

    def reply(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{content_type}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", PORT), Board)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        sys.exit()
