"""The descriptors of a process: the last few below its limit are kept for its own sockets, so that it can always
connect to its history again, however many clients come."""

from __future__ import annotations

import os
import resource

# How many; of a very low limit, an eighth.
RESERVE = 16


def left_for_clients(open_one: int) -> bool:
    """Whether a client may have another descriptor; ``open_one`` is any that is open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        lowest = os.dup(open_one)  # the lowest that is free (POSIX), as the next connection's would be
    except OSError:
        return False
    os.close(lowest)
    return limit == resource.RLIM_INFINITY or lowest < limit - min(RESERVE, limit // 8)
