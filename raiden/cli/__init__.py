"""The command line: ``raiden [-C FILE] [-X 'name = value'] [start|stop|restart|reload|status|check|nodes|keygen]``."""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from raiden import __version__, config, daemon, keys
from raiden.cli import nodes
from raiden.cli.nodes import NoAnswer
from raiden.config import ConfigError, ServiceBuilder, Settings
from raiden.daemon import StartError
from raiden.keys import InvalidKey

NOT_RUNNING = 3


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code. What the user can mend is one line on standard error."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.file and options.command != "keygen":
        parser.error(f"{options.command} takes no file")
    path = os.path.abspath(options.config) if options.config else None
    try:
        settings, service = config.load(path, options.set)
        if options.command == "keygen":
            return _keygen(settings, options.file)
        command: Callable[[Settings, ServiceBuilder | None, tuple[str | None, list[str]]], int]
        command = _COMMANDS[options.command]
        return command(settings, service, (path, options.set))
    except (ConfigError, StartError, InvalidKey, NoAnswer) as error:
        print(f"raiden: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="raiden", description="A realtime pub/sub messaging server.")
    parser.add_argument("-C", dest="config", metavar="FILE", help="a config file, which is Python")
    parser.add_argument(
        "-X", dest="set", metavar="'NAME = VALUE'", action="append", default=[], help="override a setting; repeatable"
    )
    parser.add_argument("--version", action="version", version=f"raiden {__version__}")
    parser.add_argument(
        "command", nargs="?", default="run", choices=[*_COMMANDS, "keygen"], metavar="COMMAND",
        help="run (the default: in the foreground), start, stop, restart, reload, status, check, "
        "nodes (of the cluster), keygen (makes a key: this node's, or in FILE one for ZeroMQ)",
    )  # fmt: skip
    parser.add_argument("file", nargs="?", metavar="FILE", help="where keygen puts the secret key")
    return parser


def _banner(host: str, port: int, doors: dict[str, str]) -> None:
    host = f"[{host}]" if ":" in host else host
    print(
        f"raiden {__version__} at http://{host}:{port}\n"
        f"  subscribe:  curl -N http://{host}:{port}/hello\n"
        f'  publish:    curl --json \'{{"text": "hi"}}\' http://{host}:{port}/hello'
    )
    if doors:
        print("  zeromq:     " + ", ".join(f"{name.upper()} {endpoint}" for name, endpoint in doors.items()))
    sys.stdout.flush()


def _run(settings: Settings, service: ServiceBuilder | None, source: tuple[str | None, list[str]]) -> int:
    if settings.log_file:
        _log_to(Path(settings.log_file))
    if settings.pid_file:
        daemon.claim_pid_file(Path(settings.pid_file))
    return daemon.run(settings, service, source, announce=_banner)


def _start(settings: Settings, service: ServiceBuilder | None, source: tuple[str | None, list[str]]) -> int:
    pid_file = settings.file("pid")
    if pid_file.exists() and daemon.read_pid(pid_file) is None:
        print(f"raiden: the last node left a stale pid file, {pid_file}: replaced", file=sys.stderr)
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        # One message, not all until the end: the workers inherit the other end.
        said = os.read(reading, 4096).decode()
        if said.startswith("ready "):
            print(said[6:])
            return 0
        raise StartError(said or f"the node ended while starting; {settings.file('log')} says why")
    os.close(reading)
    os.setsid()
    starter = os.fdopen(writing, "wb", buffering=0)
    code = 1
    try:
        daemon.claim_pid_file(pid_file)
        _log_to(settings.file("log"))

        def announce(host: str, port: int, doors: dict[str, str]) -> None:
            starter.write(f"ready running, pid {os.getpid()}, http://{host}:{port}".encode())
            starter.close()

        code = daemon.run(settings, service, source, announce=announce)
    except StartError as error:
        if starter.closed:  # and its number may be another file's by now
            print(f"raiden: {error}", file=sys.stderr, flush=True)
        else:
            starter.write(str(error).encode())
    except BaseException:  # a fork of the command must end here, whatever happens, and its log say why
        traceback.print_exc()
    finally:
        os._exit(code)


def _log_to(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    except OSError as error:
        raise StartError(f"cannot write the log file {path}: {error.strerror}") from None
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(log)


def _stop(settings: Settings, service: ServiceBuilder | None, source: tuple[str | None, list[str]]) -> int:
    pid = _running(settings)
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + settings.drain_timeout + 10.0
    with open(settings.file("pid")) as file:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.02)
                continue
            settings.file("pid").unlink(missing_ok=True)
            print(f"stopped, pid {pid}")
            return 0
    raise StartError(f"pid {pid} did not stop; its log says why")


def _restart(settings: Settings, service: ServiceBuilder | None, source: tuple[str | None, list[str]]) -> int:
    if daemon.read_pid(settings.file("pid")) is not None:
        _stop(settings, service, source)
    return _start(settings, service, source)


def _reload(settings: Settings, service: ServiceBuilder | None, source: tuple[str | None, list[str]]) -> int:
    pid = _running(settings)
    os.kill(pid, signal.SIGHUP)
    print(f"told pid {pid} to reload; {settings.file('log')} says what changed")
    return 0


def _status(settings: Settings, service: ServiceBuilder | None, source: tuple[str | None, list[str]]) -> int:
    pid = daemon.read_pid(settings.file("pid"))
    if pid is None:
        stale = " (its pid file is stale)" if settings.file("pid").exists() else ""
        print(f"not running{stale}", file=sys.stderr)
        return NOT_RUNNING
    print(f"running, pid {pid}")
    return 0


def _check(settings: Settings, service: ServiceBuilder | None, source: tuple[str | None, list[str]]) -> int:
    print("the settings are good")
    return 0


def _nodes(settings: Settings, service: ServiceBuilder | None, source: tuple[str | None, list[str]]) -> int:
    print(nodes.table(nodes.fetch(settings)))
    return 0


def _keygen(settings: Settings, file: str | None) -> int:
    path = Path(file or settings.node_key or Path(settings.data_dir) / "raiden.key")
    print(keys.generate(path), flush=True)
    if file:
        print(f"the secret key is in {path}; the line above is its public key", file=sys.stderr)
    else:
        print(f"the secret key is in {path}: set node_key = {str(path)!r}", file=sys.stderr)
        print("list the line above in node_keys of all nodes", file=sys.stderr)
    return 0


def _running(settings: Settings) -> int:
    path = settings.file("pid")
    pid = daemon.read_pid(path)
    if pid is None:
        hint = f"; its pid file {path} is stale" if path.exists() else ""
        raise StartError(f"not running{hint}")
    return pid


_COMMANDS = {
    "run": _run, "start": _start, "stop": _stop, "restart": _restart, "reload": _reload, "status": _status,
    "check": _check, "nodes": _nodes,
}  # fmt: skip
