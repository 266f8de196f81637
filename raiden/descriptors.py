"""The descriptors of a process: the last few below its limit are kept for its own sockets, so that it can always
connect to its history again, however many clients come."""

from __future__ import annotations

import logging
import os
import resource

log = logging.getLogger(__name__)

# How many; of a very low limit, an eighth.
RESERVE = 16


# How many a worker has besides its connections, at the most.
OWN = 100


def raise_limit(connections: int) -> None:
    """Raise the limit of this process, and of those that it will start, to the most that it may have; log a warning
    where that is too few for a worker with so many connections."""
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


def left_for_clients(open_one: int) -> bool:
    """Whether a client may have another descriptor; ``open_one`` is any that is open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        lowest = os.dup(open_one)  # the lowest that is free (POSIX), as the next connection's would be
    except OSError:
        return False
    os.close(lowest)
    return limit == resource.RLIM_INFINITY or lowest < limit - min(RESERVE, limit // 8)
