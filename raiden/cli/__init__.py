"""The command line: ``raiden [-C FILE] [-X 'name = value'] [COMMAND]``; `_COMMANDS` lists the commands."""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raiden import __version__
from raiden.access import keys
from raiden.access.keys import InvalidKey
from raiden.cli import nodes
from raiden.cli.nodes import NoAnswer
from raiden.node import config, pid_file, supervisor
from raiden.node.config import ConfigError, ServiceBuilder, Settings
from raiden.node.errors import StartError
from raiden.runtime import log

logger = logging.getLogger(__name__)

NOT_RUNNING = 3

Source = tuple[str | None, list[str]]
"""The config file and the overrides, to read the settings again."""
Command = Callable[[Settings, ServiceBuilder | None, Source], int]


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code. What the user can mend is one line on standard error."""
    options = _parser().parse_args(arguments)
    file = options.config_of_command or options.config
    path = os.path.abspath(file) if file else None
    overrides = options.set + options.set_of_command
    try:
        settings, service = config.load(path, overrides)
        if options.command == "keygen":
            return _keygen(settings, options.file)
        command: Command = _COMMANDS[options.command][0]
        code = command(settings, service, (path, overrides))
        sys.stdout.flush()
        return code
    except (ConfigError, StartError, InvalidKey, NoAnswer) as error:
        print(f"raiden: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Who reads has had enough, like `head`. The interpreter must not try to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="raiden", description="A realtime pub/sub messaging server.")
    parser.add_argument("--version", action="version", version=f"raiden {__version__}")
    parser.set_defaults(command="run", config_of_command=None, set_of_command=[])
    _add_options(parser)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands, each with a --help of its own")
    for name, (_, text) in _COMMANDS.items():
        _add_command(commands, name, text)
    keygen = _add_command(commands, "keygen", "make a key: this node's, or in FILE one for a ZeroMQ client or door")
    keygen.add_argument("file", nargs="?", metavar="FILE", help="where the secret key goes; it must not be there yet")
    return parser


def _add_command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(command=name)
    _add_options(command, of="_of_command")  # under other names, or they would take back what stands before it
    return command


def _add_options(parser: argparse.ArgumentParser, of: str = "") -> None:
    """The options that may stand before and after a command."""
    parser.add_argument("-C", dest=f"config{of}", metavar="FILE", help="a config file, which is Python")
    parser.add_argument(
        "-X", dest=f"set{of}", metavar="'NAME = VALUE'", action="append", default=[],
        help="override a setting; repeatable",
    )  # fmt: skip


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


def _no_banner(*_: object) -> None:
    """The log, which machines read, says that the node is ready, and where."""


def _run(settings: Settings, service: ServiceBuilder | None, source: Source) -> int:
    if settings.log_file:
        _log_to(Path(settings.log_file))
    log.setup("raiden", form=settings.log_format, level=settings.log_level)
    try:
        pid_file.claim(settings.file("pid"))
    except StartError as error:
        if settings.pid_file:
            raise
        # Nobody asked for it, and several nodes may run from one data_dir in the foreground.
        logger.warning("no pid file: stop, reload and status can't find this node", extra={"reason": str(error)})
    banner = _banner if settings.log_format == "text" else _no_banner
    try:
        return supervisor.run(settings, service, source, announce=banner)
    finally:
        pid_file.remove()


def _start(settings: Settings, service: ServiceBuilder | None, source: Source) -> int:
    path = settings.file("pid")
    if path.exists() and pid_file.read(path) is None:
        print(f"raiden: the last node left a stale pid file, {path}: replaced", file=sys.stderr)
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
        pid_file.claim(path)
        _log_to(settings.file("log"))

        def announce(host: str, port: int, doors: dict[str, str]) -> None:
            starter.write(f"ready running, pid {os.getpid()}, http://{host}:{port}".encode())
            starter.close()

        code = supervisor.run(settings, service, source, announce=announce)
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
        log.to_file(path)
    except OSError as error:
        raise StartError(f"cannot write the log file {path}: {error.strerror}") from None
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def _stop(settings: Settings, service: ServiceBuilder | None, source: Source) -> int:
    pid = _running(settings)
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + settings.drain_delay + settings.drain_timeout + 10.0
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


def _restart(settings: Settings, service: ServiceBuilder | None, source: Source) -> int:
    if pid_file.read(settings.file("pid")) is not None:
        _stop(settings, service, source)
    return _start(settings, service, source)


def _reload(settings: Settings, service: ServiceBuilder | None, source: Source) -> int:
    pid = _running(settings)
    os.kill(pid, signal.SIGHUP)
    print(f"told pid {pid} to reload; {settings.file('log')} says what changed")
    return 0


def _status(settings: Settings, service: ServiceBuilder | None, source: Source) -> int:
    pid = pid_file.read(settings.file("pid"))
    if pid is None:
        stale = " (its pid file is stale)" if settings.file("pid").exists() else ""
        print(f"not running{stale}", file=sys.stderr)
        return NOT_RUNNING
    print(f"running, pid {pid}")
    return 0


def _check(settings: Settings, service: ServiceBuilder | None, source: Source) -> int:
    print("the settings are good")
    return 0


def _nodes(settings: Settings, service: ServiceBuilder | None, source: Source) -> int:
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
    pid = pid_file.read(path)
    if pid is None:
        hint = f"; its pid file {path} is stale" if path.exists() else ""
        raise StartError(f"not running{hint}")
    return pid


_COMMANDS: dict[str, tuple[Command, str]] = {
    "run": (_run, "be a node in the foreground, which is what happens without a command"),
    "start": (_start, "start a node in the background"),
    "stop": (_stop, "stop it: clients are told to come back, and what is under way is finished"),
    "restart": (_restart, "stop it if it runs, and start it"),
    "reload": (_reload, "let it read its settings again"),
    "status": (_status, "say whether it runs; the exit code is 3 if it does not"),
    "check": (_check, "judge the settings without starting anything"),
    "nodes": (_nodes, "show the nodes of the cluster as the running node sees them"),
}
