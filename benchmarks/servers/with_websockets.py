"""The ``websockets`` library as a server: a WebSocket at /CHANNEL subscribes; on another port, a connection of lines of
JSON publishes: ``with_websockets.py PORT PUBLISH_PORT``.

The library answers no POST, so each line, ``["CHANNEL", "MESSAGE"]``, is a publish, acknowledged by a line ``ok``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict

from websockets.asyncio.server import ServerConnection, broadcast, serve

channels: defaultdict[str, set[ServerConnection]] = defaultdict(set)


async def subscribe(connection: ServerConnection) -> None:
    assert connection.request
    name = connection.request.path[1:]
    channels[name].add(connection)
    try:
        await connection.wait_closed()
    finally:
        channels[name].discard(connection)


async def publish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while line := await reader.readline():
            name, message = json.loads(line)
            broadcast(channels[name], message)
            writer.write(b"ok\n")
            await writer.drain()
    except ConnectionError:
        pass  # the publisher has gone
    finally:
        writer.close()


async def main(port: int, publish_port: int) -> None:
    async with (
        await asyncio.start_server(publish, "127.0.0.1", publish_port, backlog=4096, limit=1 << 20),
        serve(subscribe, "127.0.0.1", port, backlog=4096, ping_interval=None),
    ):
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
