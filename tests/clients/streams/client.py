"""The Python client library against the stream at a URL, synchronously and not: append, read to the end, resume."""

import asyncio
import itertools
import json
import sys
import threading
from typing import Any

from durable_streams import (  # type: ignore[import-not-found, unused-ignore]
    AsyncDurableStream,
    DurableStream,
    astream,
    stream,
)

url = sys.argv[1]
told: dict[str, Any] = {}

handle = DurableStream.create(url, content_type="application/json")
found: dict[str, list[int]] = {}


def follow(live: Any) -> None:
    """Read as many as there will be: this library does not know that a stream can be closed."""
    with stream(url, offset="-1", live=live) as response:
        found[live] = [item["n"] for item in itertools.islice(response.iter_json(), 21)]


readers = [threading.Thread(target=follow, args=(live,), daemon=True) for live in ("long-poll", "sse")]
for reader in readers:
    reader.start()
for number in range(20):
    handle.append({"n": number})
with stream(url, offset="-1", live=False) as response:
    told["page"] = [item["n"] for item in response.read_json()]
    place = response.offset
handle.append({"n": 20})
with stream(url, offset=place, live=False) as response:
    told["rest"] = [item["n"] for item in response.read_json()]
told["head"] = handle.head().content_type
for reader in readers:
    reader.join(40)
told["readers"] = [found.get(live) for live in ("long-poll", "sse")]


async def asynchronously() -> str:
    other = await AsyncDurableStream.create(url + ".async", content_type="text/plain")
    await other.append("one ")
    await other.append("two")
    async with astream(url + ".async", offset="-1", live=False) as response:
        return str(await response.read_text())


told["async"] = asyncio.run(asynchronously())
print(json.dumps(told))
