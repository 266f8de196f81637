"""``raiden key``: make an API key."""

from __future__ import annotations

from raiden.access import api_keys

HELP = "make an API key for a server, and its hash for api_keys"


def command() -> int:
    key, digest = api_keys.make()
    print(f"key: {key}\napi_keys = [{{'name': 'server', 'sha256': '{digest}', 'publish': ['*']}}]")
    return 0
