"""The command line: ``raiden [-C FILE] [-X 'name = value'] [COMMAND]``.

Each command is a module here, with its `command` and its `HELP`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import Any

from raiden import __version__
from raiden.access.keys import InvalidKey
from raiden.cli import check, key, keygen, nodes, reload, restart, run, start, status, stop, token
from raiden.cli.nodes import NoAnswer
from raiden.cli.source import Command
from raiden.node import config
from raiden.node.config import ConfigError
from raiden.node.errors import StartError

# By the order of the help.
_COMMANDS = {
    "run": run, "start": start, "stop": stop, "restart": restart, "reload": reload, "status": status, "check": check,
    "nodes": nodes,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run one command, and return its exit code. An error that the user can mend is one line on standard error."""
    options = _parser().parse_args(arguments)
    file = options.config_of_command or options.config
    path = os.path.abspath(file) if file else None
    overrides = options.set + options.set_of_command
    try:
        settings, service = config.load(path, overrides)
        if options.command == "keygen":
            return keygen.command(settings, options.file)
        if options.command == "key":
            return key.command()
        if options.command == "token":
            return token.command(settings, options)
        command: Command = _COMMANDS[options.command].command
        code = command(settings, service, (path, overrides))
        sys.stdout.flush()
        return code
    except (ConfigError, StartError, InvalidKey, NoAnswer) as error:
        print(f"raiden: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader has had enough, like `head`. The interpreter must not try to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="raiden", description="A realtime pub/sub messaging server.")
    parser.add_argument("--version", action="version", version=f"raiden {__version__}")
    parser.set_defaults(command="run", config_of_command=None, set_of_command=[])
    _add_options(parser)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands, each with a --help of its own")
    for name, module in _COMMANDS.items():
        _add_command(commands, name, module.HELP)
    _add_command(commands, "key", key.HELP)
    token.add_arguments(_add_command(commands, "token", token.HELP))
    curve = _add_command(commands, "keygen", keygen.HELP)
    curve.add_argument("file", nargs="?", metavar="FILE", help="where the secret key goes; it must not be there yet")
    return parser


def _add_command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    command.set_defaults(command=name)
    _add_options(command, of="_of_command")  # under other names, or they would override the options before the command
    return command


def _add_options(parser: argparse.ArgumentParser, of: str = "") -> None:
    """The options that may stand before and after a command."""
    parser.add_argument("-C", dest=f"config{of}", metavar="FILE", help="a config file, which is Python")
    parser.add_argument(
        "-X", dest=f"set{of}", metavar="'NAME = VALUE'", action="append", default=[],
        help="override a setting; repeatable",
    )  # fmt: skip
