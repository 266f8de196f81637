"""A client of the library pysher, whose threads end with their process: it prints a line of JSON for each subscription
that is there, and for each event that comes, as a pair of the channel and the data.

    python tests/clients/pysher_client.py HOST PORT KEY SECRET CHANNEL...
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
from typing import Any


def main(host: str, port: str, key: str, secret: str, *names: str) -> None:
    pysher = importlib.import_module("pysher")  # it has no types
    client = pysher.Pusher(
        key, secret=secret, custom_host=host, port=int(port), secure=False, auto_sub=True,
        user_data={"user_id": "ann", "user_info": {"name": "Ann"}},
    )  # fmt: skip

    def tell(name: str, what: Any) -> None:
        print(json.dumps([name, what]), flush=True)

    def connected(_: str) -> None:
        for name in names:
            channel = client.subscribe(name)
            channel.bind("pusher_internal:subscription_succeeded", lambda data, name=name: tell(name, "ready"))
            channel.bind("made", lambda data, name=name: tell(name, json.loads(data)))

    client.connection.bind("pusher:connection_established", connected)
    client.connect()
    threading.Event().wait()  # until it is ended


if __name__ == "__main__":
    main(*sys.argv[1:])
