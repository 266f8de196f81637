"""Publish this machine's CPU, memory and network figures to Raiden, and serve a page that draws them.

Linux only: the figures come from /proc. Messages published while the server is away are lost, and only that.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import threading
import time
from contextlib import suppress
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import Request, urlopen

PAGE = Path(__file__).with_name("index.html")


def read_cpu() -> dict[str, tuple[int, int]]:
    """Busy and all clock ticks since boot, of ``cpu`` (the whole machine), ``cpu0``, ``cpu1``, ..."""
    ticks = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu"):
            # Guest time, the fields from the ninth on, is within user time already.
            values = [int(field) for field in fields[:8]]
            idle = values[3] + values[4]
            ticks[name] = sum(values) - idle, sum(values)
    return ticks


def read_memory() -> dict[str, int]:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, available = (int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return {"used": total - available, "total": total}


def read_network() -> tuple[int, int]:
    """Bytes received and sent since boot, over all interfaces."""
    rows = [line.split(":")[1].split() for line in Path("/proc/net/dev").read_text().splitlines()[2:]]
    return sum(int(row[0]) for row in rows), sum(int(row[8]) for row in rows)


class Sampler:
    """What happened between one call of `sample` and the next."""

    def __init__(self) -> None:
        self._clock, self._cpu, self._network = time.monotonic(), read_cpu(), read_network()

    def sample(self) -> dict[str, Any]:
        clock, cpu, network = time.monotonic(), read_cpu(), read_network()
        seconds = max(clock - self._clock, 1e-3)
        busy = {name: self._busy(self._cpu.get(name, now), now) for name, now in cpu.items()}
        rx, tx = (max(0, round((new - old) / seconds)) for new, old in zip(network, self._network, strict=True))
        self._clock, self._cpu, self._network = clock, cpu, network
        return {
            "time": round(time.time(), 3),
            "host": socket.gethostname(),
            "cpu": {"total": busy.pop("cpu"), "cores": list(busy.values())},
            "memory": read_memory(),
            "network": {"rx": rx, "tx": tx},
        }

    @staticmethod
    def _busy(before: tuple[int, int], after: tuple[int, int]) -> float:
        # The kernel's idle and iowait counters may step back a little, hence the bounds.
        percent = 100 * (after[0] - before[0]) / max(1, after[1] - before[1])
        return round(min(100.0, max(0.0, percent)), 1)


def serve_page(port: int, query: str) -> str:
    """Serve the page from a thread; return its address, with the query that tells it where to subscribe."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if url.path != "/":
                self.send_error(404)
            elif not url.query:
                self.send_response(302)
                self.send_header("Location", f"/?{query}")
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                body = PAGE.read_bytes()
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/?{query}"


def publish_forever(url: str, interval: float) -> None:
    sampler = Sampler()
    away = False
    due = time.monotonic()
    while True:
        due = max(due + interval, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
        body = json.dumps(sampler.sample()).encode()
        try:
            urlopen(Request(url, body, {"Content-Type": "application/json"}), timeout=5).close()
        except (OSError, HTTPException) as error:
            if not away:
                print(f"cannot publish to {url}: {error}; trying on", flush=True)
            away = True
        else:
            if away:
                print(f"publishing to {url} again", flush=True)
            away = False


def positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description="Publish this machine's CPU, memory and network figures to Raiden.")
    parser.add_argument("--raiden", default="http://127.0.0.1:8088", metavar="URL", help="default: %(default)s")
    parser.add_argument("--channel", default=f"monitor.{socket.gethostname()}", help="default: %(default)s")
    parser.add_argument("--interval", type=positive, default=1.0, metavar="SECONDS", help="default: %(default)s")
    parser.add_argument("--serve", type=int, metavar="PORT", help="serve the page on 127.0.0.1:PORT; 0: any free port")
    options = parser.parse_args()
    raiden = options.raiden.rstrip("/")
    if urlsplit(raiden).scheme not in ("http", "https"):
        parser.error("--raiden must begin with http:// or https://")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        if options.serve is not None:
            query = urlencode({"raiden": raiden, "channel": options.channel})
            try:
                print(f"page: {serve_page(options.serve, query)}", flush=True)
            except (OSError, OverflowError) as error:
                parser.error(f"cannot serve on port {options.serve}: {error}")
        publish_forever(f"{raiden}/{quote(options.channel)}", options.interval)


if __name__ == "__main__":
    main()
