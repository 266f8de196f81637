"""The descriptors of a process. The last few below its limit are kept for its own sockets, so that it can always
connect to its history again, however many clients come."""

from __future__ import annotations

import logging
import resource
import sys

log = logging.getLogger(__name__)

# Descriptors that are kept for the process; of a very low limit, an eighth.
RESERVE = 16
# The most descriptors that a worker has besides its connections.
OWN = 100


def raise_limit(connections: int) -> None:
    """Raise the limit of this process, and of those that it will start, to the highest allowed; log a warning where
    that is too low for a worker with so many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError) as error:
            log.warning("the limit of descriptors stays as it is", extra={"limit": soft, "reason": str(error)})
    needed = connections + OWN
    if soft != resource.RLIM_INFINITY and soft < needed:
        log.warning(
            "too few descriptors for max_connections: raise the hard limit (ulimit -Hn, LimitNOFILE), or lower it",
            extra={"limit": soft, "needed": needed},
        )


def end_for_clients() -> int:
    """The first descriptor that no client may have. A new descriptor is the lowest free one (POSIX), so a client with
    this one, or a higher one, is one too many."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit - min(RESERVE, limit // 8)
