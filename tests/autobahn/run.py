"""Run the Autobahn|Testsuite fuzzing client against a real raiden daemon.

The testsuite exists for Python 2.7 only, so it cannot be a dependency of this
project. This script finds a Python 2.7, installs the pinned testsuite for it
into build/autobahn, starts a daemon, lets the client loose on an echo channel
and judges the report.

    python tests/autobahn/run.py [--cases '1.*,2.*'] [--python27 PATH]

Exit codes: 0 all is well, 1 a case failed that is not in EXPECTED, 2 the run
could not be done, 3 there is no Python 2.7.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "autobahn"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
AGENT = "raiden"

# Cases that may fail, each with the reason why: {"7.9.1": "because ..."}.
EXPECTED: dict[str, str] = {
    "7.1.5": "the websockets library answers a close frame amid a fragmented message with 1002 instead of 1000",
}

BEHAVIOURS = ("OK", "NON-STRICT", "INFORMATIONAL", "FAILED", "UNIMPLEMENTED")
# How the closing handshake went is judged apart, with verdicts of its own.
CLOSINGS = ("UNCLEAN", "WRONG CODE", "FAILED BY CLIENT")
NOT_RUN = "NOT RUN"

READY_SECONDS = 30.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.05

# The 9.* cases send and expect back single messages of up to 16 MiB: the limits
# must not get in their way.
SETTINGS: dict[str, int] = {
    "max_ws_message": 32 * 1024 * 1024,
    "max_outbox": 128 * 1024 * 1024,
    "max_body": 32 * 1024 * 1024,
}

# Run by Python 2.7. addsitedir() is what makes the .pth file of the namespace
# package `zope` count, which PYTHONPATH alone does not.
BOOT = "import site, sys; site.addsitedir(sys.argv.pop(1)); "
RUN = BOOT + "from autobahntestsuite.wstest import run; run()"
SELECT = BOOT + (
    "import json; from autobahntestsuite.caseset import CaseSet; "
    "from autobahntestsuite import case as c; "
    "s = CaseSet(c.CaseSetname, c.CaseBasename, c.Cases, c.CaseCategories, c.CaseSubCategories); "
    "spec = json.load(open(sys.argv[1])); "
    "ids = s.parseSpecCases(spec); "
    "print(json.dumps([i for i in ids if i in s.CasesById]))"
)


class CannotRun(Exception):
    """The run could not be done, which says nothing about the daemon's conformance."""


class Outcome(NamedTuple):
    """What the report says of one case: its behaviour, and how the connection closed."""

    behaviour: str
    closing: str

    @property
    def failed(self) -> bool:
        """A failed closing handshake breaks the protocol as much as a failed message does."""
        return "FAILED" in self or NOT_RUN in self

    @property
    def ok(self) -> bool:
        """Whether there is nothing to tell about the case."""
        return self.behaviour == "OK" and self.closing in ("OK", "INFORMATIONAL")


def is_python27(command: str) -> bool:
    """Really run it: a version manager's shim can be on PATH with no Python behind it."""
    probe = "import pip, ssl, sys; sys.exit(sys.version_info[:2] != (2, 7))"
    try:
        done = subprocess.run([command, "-c", probe], env=environment(), capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def find_python27(given: str | None) -> str | None:
    """Return a Python 2.7 with pip: the one given, or PATH's, or the newest of pyenv's."""
    if given is not None:
        candidates = [given]
    else:
        installed = Path.home().glob(".pyenv/versions/2.7*/bin/python2.7")
        newest = sorted(installed, key=lambda path: (len(str(path)), path), reverse=True)
        candidates = [found] if (found := shutil.which("python2.7")) else []
        candidates += map(str, newest)
    return next((candidate for candidate in candidates if is_python27(candidate)), None)


def environment(packages: Path | None = None) -> dict[str, str]:
    """Keep the Python 3 that runs this script from leaking into the Python 2.7."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env["PYTHONNOUSERSITE"] = "1"
    if packages is not None:
        env["PYTHONPATH"] = str(packages)
    return env


def install(python27: str) -> Path:
    """Install the testsuite once per interpreter and list of pins; return its directory.

    It is installed beside and renamed, so that an interrupted installation is
    never taken for a whole one.
    """
    key = hashlib.sha256(REQUIREMENTS.read_bytes() + os.path.realpath(python27).encode())
    packages = CACHE / f"packages-{key.hexdigest()[:16]}"
    if packages.is_dir():
        return packages
    print(f"installing the testsuite into {packages} ...", flush=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    log = CACHE / "install.log"
    command = [python27, "-m", "pip", "install", "--no-deps", "--no-compile"]
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="installing-") as name:
        target = Path(name, "packages")
        command += ["--target", str(target), "-r", str(REQUIREMENTS)]
        with log.open("wb") as output:
            done = subprocess.run(command, env=environment(), stdout=output, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            raise CannotRun(f"the testsuite could not be installed:\n{tail(log)}")
        target.rename(packages)
    return packages


def tail(log: Path, lines: int = 20) -> str:
    """Return the end of a log, where the cause of a failure usually is."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def free_port() -> int:
    """Let the kernel choose, so that runs side by side do not collide."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_ready(port: int) -> bool:
    """Ask the daemon itself: an open port alone does not mean that it serves."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/-/ready")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def daemon() -> Iterator[str]:
    """Start a daemon of its own for the run, yield the echo URL, stop the daemon."""
    CACHE.mkdir(parents=True, exist_ok=True)
    log = CACHE / "daemon.log"
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="raiden-autobahn-") as data_dir:
        settings: dict[str, int | str] = {"http_port": port, **SETTINGS, "data_dir": data_dir}
        command = [sys.executable, "-m", "raiden"]
        for name, value in settings.items():
            # Of these types, a JSON value is a TOML value too.
            command += ["-X", f"{name} = {json.dumps(value)}"]
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_until_ready(process, port, log)
            # _raw makes a frame sent to the channel come back as it is.
            yield f"ws://127.0.0.1:{port}/echo?_raw=1"
        finally:
            stop(process)


def wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Poll for readiness; waiting on the process is the pause, so its death is seen at once."""
    deadline = time.monotonic() + READY_SECONDS
    while not is_ready(port):
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = process.wait(POLL_SECONDS)
            raise CannotRun(f"the daemon exited with {status} before it was ready:\n{tail(log)}")
        if time.monotonic() > deadline:
            raise CannotRun(f"the daemon was not ready in {READY_SECONDS:g} s:\n{tail(log)}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the daemon with SIGTERM, and with SIGKILL if it does not obey."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"the daemon did not end within {STOP_SECONDS:g} s of SIGTERM", file=sys.stderr)
        process.kill()
        process.wait()


def fuzz(python27: str, packages: Path, url: str, cases: Sequence[str], seconds: float) -> dict[str, Outcome]:
    """Run the cases against the URL and return the outcome of every one selected.

    The client ends early and with success when it can no longer connect, so a
    case that was selected but is not in the report counts as not run.
    """
    reports = CACHE / "report"
    shutil.rmtree(reports, ignore_errors=True)
    spec = CACHE / "spec.json"
    server = {"agent": AGENT, "url": url}
    spec.write_text(json.dumps({"outdir": str(reports), "servers": [server], "cases": cases}))
    env = environment(packages)
    command = [python27, "-c", SELECT, str(packages), str(spec)]
    select = subprocess.run(command, env=env, capture_output=True, check=False)
    if select.returncode != 0:
        raise CannotRun(f"the cases could not be read:\n{select.stderr.decode(errors='replace')}")
    selected: list[str] = json.loads(select.stdout)
    if not selected:
        raise CannotRun(f"no case matches {','.join(cases)}")
    log = CACHE / "wstest.log"
    print(f"running {len(selected)} cases against {url}, progress in {log} ...", flush=True)
    command = [python27, "-u", "-c", RUN, str(packages), "-m", "fuzzingclient", "-s", str(spec)]
    with log.open("wb") as output:
        try:
            subprocess.run(
                command,
                env=env,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CannotRun(f"the client did not end in {seconds:g} s:\n{tail(log)}") from None
    index = reports / "index.json"
    if not index.is_file():
        raise CannotRun(f"the client left no report:\n{tail(log)}")
    entries = json.loads(index.read_text()).get(AGENT, {})
    none = {"behavior": NOT_RUN, "behaviorClose": NOT_RUN}
    found = {case: entries.get(case, none) for case in selected}
    return {case: Outcome(e["behavior"], e["behaviorClose"]) for case, e in found.items()}


def judge(outcomes: dict[str, Outcome]) -> bool:
    """Print the counts and every case with something to tell; return whether to pass."""
    behaviours = Counter(outcome.behaviour for outcome in outcomes.values())
    closings = Counter(outcome.closing for outcome in outcomes.values())
    others = [name for name in (*CLOSINGS, NOT_RUN) if behaviours[name] or closings[name]]
    print(f"\n{'verdict':<18}{'cases':>6}{'closings':>10}")
    for name in (*BEHAVIOURS, *others):
        print(f"{name:<18}{behaviours[name]:>6}{closings[name]:>10}")
    print(f"{'total':<18}{len(outcomes):>6}{len(outcomes):>10}\n")

    unexpected = 0
    for case, outcome in outcomes.items():
        reason = EXPECTED.get(case)
        note = ""
        if outcome.failed:
            note = f"  expected: {reason}" if reason else "  unexpected"
            unexpected += reason is None
        elif reason:
            note = "  no longer fails: remove it from EXPECTED"
        if note or not outcome.ok:
            print(f"{case:<10}{outcome.behaviour:<16}closing {outcome.closing:<18}{note}".rstrip())
    print(f"\n{unexpected} unexpected failures of {len(outcomes)} cases")
    return unexpected == 0


def main() -> int:
    """Do the whole run; see the module's docstring for the exit codes."""
    parser = argparse.ArgumentParser(description="Run the Autobahn|Testsuite against raiden.")
    parser.add_argument("--cases", default="*", help="patterns of cases, such as '1.*,2.*'")
    parser.add_argument("--python27", metavar="PATH", help="the Python 2.7 to use")
    parser.add_argument("--deadline", type=float, default=1800.0, help="seconds for all cases")
    parser.add_argument("--url", help=argparse.SUPPRESS)  # an echo server that runs already
    options = parser.parse_args()

    # Without this, SIGTERM would end the script and leave the daemon behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    python27 = find_python27(options.python27)
    if python27 is None:
        wanted = options.python27 or "python2.7 on PATH and ~/.pyenv/versions/2.7*"
        print(f"no Python 2.7 with pip and ssl found (tried {wanted})", file=sys.stderr)
        return 3
    cases = [pattern for part in options.cases.split(",") if (pattern := part.strip())]
    try:
        packages = install(python27)
        with daemon() if options.url is None else contextlib.nullcontext(options.url) as url:
            started = time.monotonic()
            outcomes = fuzz(python27, packages, url, cases, options.deadline)
            print(f"done in {time.monotonic() - started:.0f} s, report in {CACHE / 'report'}")
    except CannotRun as error:
        print(error, file=sys.stderr)
        return 2
    return 0 if judge(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
