"""Prints what comes on channels, and says where messages are missing: subscribe.py ENDPOINT PREFIX COUNT"""

import os
import sys

import zmq

IN_FORCE = "-/in-force/1"


def main(endpoint: str, prefix: str, count: int) -> int:
    socket = zmq.Context().socket(zmq.SUB)
    if server_key := os.environ.get("ZMQ_SERVER_KEY"):
        socket.curve_serverkey = server_key.encode()
        socket.curve_publickey = os.environ["ZMQ_PUBLIC_KEY"].encode()
        socket.curve_secretkey = os.environ["ZMQ_SECRET_KEY"].encode()
    socket.connect(endpoint)
    socket.subscribe(prefix)
    socket.subscribe(IN_FORCE)  # comes when both subscriptions hold, and again after each reconnect
    last: dict[str, str] = {}
    gaps = received = 0
    while not count or received < count:
        channel, payload, cursor = (frame.decode() for frame in socket.recv_multipart())
        if channel == IN_FORCE:
            print("ready", flush=True)
            continue
        if cursor:  # the channel keeps a history
            epoch, _, offset = cursor.partition(":")
            last_epoch, _, last_offset = last.get(channel, cursor).partition(":")
            if epoch != last_epoch:
                print(f"new epoch: {channel}", file=sys.stderr)
            elif int(offset) > int(last_offset) + 1:
                print(f"gap: {channel} after {last[channel]}", file=sys.stderr)
                gaps += 1
            last[channel] = cursor
        print(channel, cursor, payload, sep="\t", flush=True)
        received += 1
    return 1 if gaps else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
