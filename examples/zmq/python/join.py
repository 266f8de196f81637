"""Joins a channel late, and prints all its messages, each once and in order, also across restarts of the node:

    join.py SUB-ENDPOINT REQ-ENDPOINT CHANNEL COUNT [CURSOR]

SUB brings what is published; REQ has the history, for what was before and for what SUB missed. CURSOR is the last
message that you have; without it all that is kept comes.
"""

import json
import os
import sys
import time
from collections.abc import Iterator

import zmq

IN_FORCE = "-/in-force/1"
ANSWER = 5_000  # milliseconds to wait for an answer
IDLE = 60_000  # milliseconds to wait for a message before asking whether the last ones were lost
CONTEXT = zmq.Context()


def connect(kind: int, endpoint: str) -> zmq.Socket[bytes]:
    socket = CONTEXT.socket(kind)
    if server_key := os.environ.get("ZMQ_SERVER_KEY"):
        socket.curve_serverkey = server_key.encode()
        socket.curve_publickey = os.environ["ZMQ_PUBLIC_KEY"].encode()
        socket.curve_secretkey = os.environ["ZMQ_SECRET_KEY"].encode()
    socket.linger = 0
    socket.heartbeat_ivl = 5_000  # notices that the node's machine is gone
    socket.connect(endpoint)
    return socket


class Joined:
    """Iterates the cursors and payloads of a channel's messages after a position, forever."""

    def __init__(self, sub_endpoint: str, req_endpoint: str, channel: str, position: str = "") -> None:
        self.channel = channel
        self.position = position
        self._req_endpoint = req_endpoint
        self._req = connect(zmq.REQ, req_endpoint)
        self._sub = connect(zmq.SUB, sub_endpoint)
        self._sub.subscribe(channel)
        self._sub.subscribe(IN_FORCE)  # comes when both subscriptions hold, and again after each reconnect

    def __iter__(self) -> Iterator[tuple[str, str]]:
        while True:
            if not self._sub.poll(IDLE):
                yield from self._missed()
                continue
            topic, payload, cursor = (frame.decode() for frame in self._sub.recv_multipart())
            if topic == IN_FORCE:
                yield from self._missed()
            elif topic != self.channel:
                pass  # one whose name begins like the channel's
            elif self._ahead(cursor) == 1:
                self.position = cursor
                yield cursor, payload
            elif self._ahead(cursor) > 1:
                yield from self._missed()  # among them this message

    def _ahead(self, cursor: str) -> int:
        """How many messages it is to there from the position; 0 or less: it is behind. Many, if nobody can tell."""
        epoch, _, offset = cursor.partition(":")
        last_epoch, _, last_offset = self.position.partition(":")
        return int(offset) - int(last_offset) if epoch == last_epoch else sys.maxsize

    def _missed(self) -> Iterator[tuple[str, str]]:
        """What the history has after the position."""
        more = True
        while more:
            summary, *messages = self._ask("history", self.channel, self.position, "1000")
            page = json.loads(summary)
            if "gap" in page:
                print(f"gap: {self.channel} after {self.position}: {page['gap']}", file=sys.stderr)
            for cursor, payload in zip(messages[::2], messages[1::2], strict=True):
                self.position = cursor.decode()
                yield self.position, payload.decode()
            more = page["more"]
        self.position = page["cursor"] or ""  # also where the last messages are there no more, or never were any

    def _ask(self, *request: str) -> list[bytes]:
        """The node's answer, whenever it comes. What only reads may be asked again."""
        while True:
            self._req.send_multipart([frame.encode() for frame in request])
            if self._req.poll(ANSWER):
                status, *answer = self._req.recv_multipart()
                if status == b"200":
                    return answer
                if status != b"503":
                    sys.exit(f"{status.decode()}: {answer[0].decode()}")
                time.sleep(1)  # it can't now, and says so at once
            else:  # a REQ socket that waits for an answer can't send, so another one asks again
                self._req.close()
                self._req = connect(zmq.REQ, self._req_endpoint)


def main(sub_endpoint: str, req_endpoint: str, channel: str, count: str, cursor: str = "") -> None:
    for number, (position, payload) in enumerate(Joined(sub_endpoint, req_endpoint, channel, cursor), 1):
        print(channel, position, payload, sep="\t", flush=True)
        if number == int(count):
            break


if __name__ == "__main__":
    main(*sys.argv[1:])
