"""``raiden start``: a node in the background."""

from __future__ import annotations

import os
import sys
import traceback

from raiden.cli.run import log_to
from raiden.cli.source import Source
from raiden.node import pid_file, supervisor
from raiden.node.errors import StartError
from raiden.node.settings import ServiceBuilder, Settings

HELP = "start a node in the background"


def command(settings: Settings, service: ServiceBuilder | None, source: Source) -> int:
    path = settings.file("pid")
    if path.exists() and pid_file.read(path) is None:
        print(f"raiden: the last node left a stale pid file, {path}: replaced", file=sys.stderr)
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        # Read one message, not up to the end: the workers inherit the other end.
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
        log_to(settings.file("log"))

        def announce(host: str, port: int, doors: dict[str, str]) -> None:
            starter.write(f"ready running, pid {os.getpid()}, http://{host}:{port}".encode())
            starter.close()

        code = supervisor.run(settings, service, source, announce=announce)
    except StartError as error:
        if starter.closed:  # the starter was told, and its descriptor may be another file's by now
            print(f"raiden: {error}", file=sys.stderr, flush=True)
        else:
            starter.write(str(error).encode())
    except BaseException:  # a fork of the command must end here, whatever happens, and its log must say why
        traceback.print_exc()
    finally:
        os._exit(code)
