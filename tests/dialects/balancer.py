"""A balancer before two nodes: requests that write go to one of them, requests that read to the other. While one of
the nodes takes no connections, all go to the other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any

READS = (b"GET", b"HEAD")


class Balancer:
    """Listens at ``port`` of the loopback (0: one of the kernel's choice), and passes each request on to the port
    ``reads``, or ``writes``. It closes a connection behind the answer, so that the next request comes by another one;
    a WebSocket ends when an end closes it. ``in_turn``: WebSockets go to each node in turn. ``inside``: it works there,
    such as on a host of a test's network."""

    def __init__(
        self, *, reads: int, writes: int, in_turn: bool = False, port: int = 0,
        inside: AbstractContextManager[None] | None = None,
    ) -> None:  # fmt: skip
        self._reads = reads
        self._writes = writes
        self._in_turn = in_turn
        self._sockets = 0
        self._inside = inside or nullcontext()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._server = self._wait_for(asyncio.start_server(self._serve, "127.0.0.1", port, limit=1 << 20))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.counts = {self._reads: 0, self._writes: 0}

    def close(self) -> None:
        self._wait_for(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Balancer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        with self._inside:
            self._loop.run_forever()

    def _wait_for(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _end(self) -> None:
        self._server.close()
        mine = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not mine]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        far_out = None
        try:
            head = await near_in.readuntil(b"\r\n\r\n")
            first, _, rest = head.partition(b"\r\n")
            lines = [line for line in rest.split(b"\r\n") if line]
            to_reads = first.split(b" ", 1)[0] in READS
            if any(line.lower().startswith(b"upgrade:") for line in lines):
                self._sockets += 1
                to_reads = to_reads and not (self._in_turn and self._sockets % 2)
            else:
                lines = [line for line in lines if not line.lower().startswith(b"connection:")] + [b"Connection: close"]
            far_in, far_out = await self._connect(is_read=to_reads)
            far_out.write(b"\r\n".join([first, *lines, b"", b""]))
            ways = [asyncio.create_task(_pass_on(*way)) for way in ((near_in, far_out), (far_in, near_out))]
            try:
                # Either the answer is over, or the client has gone.
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, EOFError):
            pass  # an end is gone
        finally:
            for out in (near_out, far_out):
                if out is not None:
                    out.close()

    async def _connect(self, *, is_read: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the node that such requests go to, or else to the other."""
        ports = [self._reads, self._writes] if is_read else [self._writes, self._reads]
        for port in ports:
            try:
                ends = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                continue
            self.counts[port] += 1
            return ends
        raise ConnectionError("no node takes connections")


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
