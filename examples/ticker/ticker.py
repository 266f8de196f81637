"""A market of made-up prices: publishes hundreds of them a second, and serves a page that shows a few.

What the page does not ask for is not sent to it: see docs/thinning.md.
"""

import argparse
import json
import random
import threading
import time
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

PAGE = Path(__file__).with_name("index.html")
SYMBOLS = ("ACME", "BOLT", "CORE", "DASH", "ECHO", "FLUX", "GRID", "HALO")


def publish(raiden: str, a_second: float) -> None:
    """Publish prices for ever, each a step from the one before; while Raiden is away, they are lost."""
    prices = dict.fromkeys(SYMBOLS, 100.0)
    connection = HTTPConnection(urlsplit(raiden).netloc, timeout=5)
    while True:
        symbol = random.choice(SYMBOLS)
        prices[symbol] = max(1.0, prices[symbol] * random.uniform(0.998, 1.002))
        body = json.dumps({"symbol": symbol, "price": round(prices[symbol], 2)})
        try:
            connection.request("POST", "/prices", body, {"Content-Type": "application/json"})
            connection.getresponse().read()
        except (OSError, HTTPException):
            connection.close()  # it connects again
            time.sleep(1)
        time.sleep(1 / a_second)


def handler(raiden: str) -> type[BaseHTTPRequestHandler]:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = urlsplit(self.path).path == "/"
            body = PAGE.read_bytes().replace(b"RAIDEN", raiden.encode()) if found else b"no such page"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", f"text/{'html' if found else 'plain'}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    return Page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raiden", default="http://127.0.0.1:8088", help="where Raiden is")
    parser.add_argument("--port", type=int, default=8000, help="where the page is to be")
    parser.add_argument("--rate", type=float, default=200, help="prices a second")
    asked = parser.parse_args()
    threading.Thread(target=publish, args=(asked.raiden, asked.rate), daemon=True).start()
    server = ThreadingHTTPServer(("127.0.0.1", asked.port), handler(asked.raiden))
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
