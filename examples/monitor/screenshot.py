"""Start a daemon, the monitor and a headless Chromium, and take a picture of the page once it has figures to show."""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from websockets.sync.client import ClientConnection, connect

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
INTERVAL = 0.25
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], folder: Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
    environ = {**os.environ, "no_proxy": "127.0.0.1", "PYTHONUNBUFFERED": "1", "TMPDIR": str(folder)}
    process = subprocess.Popen(command, text=True, cwd=ROOT, env=environ, **options)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


def wait_for(what: str, get: Callable[[], object], process: subprocess.Popen[str], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not get():
        if process.poll() is not None:
            sys.exit(f"{process.args!r} ended with {process.returncode} before {what}")
        if time.monotonic() > deadline:
            sys.exit(f"gave up waiting for {what} after {seconds:.0f} s")
        time.sleep(0.1)


def alive(url: str) -> bool:
    try:
        build_opener(ProxyHandler({})).open(f"{url}/-/health", timeout=2).close()
    except OSError:
        return False
    return True


class Page:
    """One DevTools session."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = count(1)
        self._session = ""

    def attach(self, url: str) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.navigate", url=url)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        session = {"sessionId": self._session} if self._session else {}
        self._socket.send(json.dumps({"id": number, "method": method, "params": params, **session}))
        while True:
            answer = json.loads(self._socket.recv(timeout=30))
            if answer.get("id") == number:
                if "error" in answer:
                    sys.exit(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result

    def points(self) -> int:
        expression = "Number(document.body?.dataset.points ?? 0)"
        value: int = self.call("Runtime.evaluate", expression=expression)["result"].get("value", 0)
        return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", nargs="?", type=Path, default=ROOT / "docs" / "monitor.png")
    parser.add_argument("--points", type=int, default=80, help="how many to wait for (default: %(default)s)")
    parser.add_argument("--size", default="1280x890", metavar="WxH", help="default: %(default)s")
    parser.add_argument("--dark", action="store_true", help="the dark theme")
    options = parser.parse_args()
    picture = options.picture.absolute()
    width, height = (int(side) for side in options.size.split("x"))
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
    if chromium is None:
        sys.exit("install Chromium first: no chromium, google-chrome or chromium-browser on the PATH")

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        raiden = f"http://127.0.0.1:{free_port()}"

        command = [sys.executable, str(HERE / "monitor.py"), "--raiden", raiden, "--serve", "0"]
        command += ["--interval", str(INTERVAL)]
        monitor = stack.enter_context(running(command, folder, stdout=subprocess.PIPE))
        assert monitor.stdout
        line = monitor.stdout.readline()
        if not line.startswith("page: "):
            sys.exit(f"the monitor did not start: {line!r}")
        url = line.removeprefix("page: ").strip()
        origin = "http://" + urlsplit(url).netloc

        command = [sys.executable, "-m", "raiden"]
        for setting in (
            f"http_port = {urlsplit(raiden).port}",
            f"allowed_origins = [{origin!r}]",
            f"data_dir = {str(folder / 'raiden')!r}",
        ):
            command += ["-X", setting]
        daemon = stack.enter_context(running(command, folder, stdout=subprocess.DEVNULL))
        wait_for("it was healthy", lambda: alive(raiden), daemon)

        profile = folder / "chromium"
        command = [chromium, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"]
        browser = stack.enter_context(running(command, folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        found = profile / "DevToolsActivePort"
        wait_for("it opened its DevTools port", lambda: found.exists() and found.read_text().count("\n"), browser)
        port, path = found.read_text().split()
        address = f"ws://127.0.0.1:{port}{path}"
        socket = stack.enter_context(connect(address, max_size=None, compression=None, proxy=None))

        page = Page(socket)
        page.attach(f"{url}&window={max(10, round(options.points * INTERVAL))}")
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if options.dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        seconds = 30 + 2 * options.points * INTERVAL
        wait_for(f"{options.points} points", lambda: page.points() >= options.points, browser, seconds)
        image = base64.b64decode(page.call("Page.captureScreenshot", format="png")["data"])
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(image)
        print(f"{picture}: {page.points()} points")


if __name__ == "__main__":
    main()
