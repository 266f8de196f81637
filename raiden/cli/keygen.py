"""``raiden keygen``: a new key pair."""

from __future__ import annotations

import sys
from pathlib import Path

from raiden.access import keys
from raiden.node.settings import Settings

HELP = "make a key: this node's, or in FILE one for a ZeroMQ client or door"


def command(settings: Settings, file: str | None) -> int:
    """Write the secret key to a file that is not there yet, and print the public one; raises InvalidKey."""
    path = Path(file or settings.node_key or Path(settings.data_dir) / "raiden.key")
    print(keys.generate(path), flush=True)
    if file:
        print(f"the secret key is in {path}; the line above is its public key", file=sys.stderr)
    else:
        print(f"the secret key is in {path}: set node_key = {str(path)!r}", file=sys.stderr)
        print("list the line above in node_keys of all nodes", file=sys.stderr)
    return 0
