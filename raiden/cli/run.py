"""``raiden run``: a node in the foreground."""

from __future__ import annotations

import functools
import logging
import os
import sys
from pathlib import Path

from raiden import __version__
from raiden.access.clients import NOBODY_KNOWN
from raiden.cli.source import Source
from raiden.node import permits, pid_file, supervisor
from raiden.node.errors import StartError
from raiden.node.settings import ServiceBuilder, Settings
from raiden.runtime import log

logger = logging.getLogger(__name__)

# The channel of the examples that a node prints, and these, by action.
_CHANNEL = "hello"
_HINTS = {"subscribe": "  subscribe:  curl -N", "publish": """  publish:    curl --json '{"text": "hi"}'"""}

HELP = "be a node in the foreground, which is what happens without a command"


def command(settings: Settings, service: ServiceBuilder | None, source: Source) -> int:
    if settings.log_file:
        log_to(Path(settings.log_file))
    log.setup("raiden", form=settings.log_format, level=settings.log_level)
    try:
        pid_file.claim(settings.file("pid"))
    except StartError as error:
        if settings.pid_file:
            raise
        # Nobody asked for a pid file, and several nodes may run from one data_dir in the foreground.
        logger.warning("no pid file: stop, reload and status can't find this node", extra={"reason": str(error)})
    scheme = "https" if settings.tls_cert else "http"
    is_text = settings.log_format == "text"
    banner = functools.partial(_banner, scheme, _hints(settings), settings.dialects) if is_text else _no_banner
    try:
        return supervisor.run(settings, service, source, announce=banner)
    finally:
        pid_file.remove()


def log_to(path: Path) -> None:
    """Log to a file instead of standard error, and read nothing any more; raises StartError."""
    try:
        log.to_file(path)
    except OSError as error:
        raise StartError(f"cannot write the log file {path}: {error.strerror}") from None
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def _hints(settings: Settings) -> list[str]:
    """How to subscribe and to publish with curl, before the URL. There is none for what no token would permit."""
    policy = permits.policy(settings)
    has_keys = bool(settings.jwt_keys or settings.api_keys)
    hints = []
    for action, hint in _HINTS.items():
        if policy.allows(NOBODY_KNOWN, action, _CHANNEL):
            hints.append(hint)
        elif policy.leaves_open(NOBODY_KNOWN, action, _CHANNEL) and (has_keys or settings.delegate is not None):
            hints.append(hint + ' -H "Authorization: Bearer $TOKEN"' * has_keys)
    return hints


def _banner(
    scheme: str, hints: list[str], dialects: list[str], host: str, port: int, doors: dict[str, str]
) -> None:  # fmt: skip
    host = f"[{host}]" if ":" in host else host
    print(f"raiden {__version__} at {scheme}://{host}:{port}")
    for hint in hints:
        print(f"{hint} {scheme}://{host}:{port}/{_CHANNEL}")
    if dialects:
        print("  dialects:   " + ", ".join(dialects))
    if doors:
        print("  zeromq:     " + ", ".join(f"{name.upper()} {endpoint}" for name, endpoint in doors.items()))
    sys.stdout.flush()


def _no_banner(*_: object) -> None:
    """Print nothing: the log, which machines read, says that the node is ready, and where."""
