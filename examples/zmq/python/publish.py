"""Publishes the lines of standard input, each a JSON value, to a channel: publish.py PUSH-ENDPOINT CHANNEL"""

import os
import sys

import zmq


def main(endpoint: str, channel: str) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    if server_key := os.environ.get("ZMQ_SERVER_KEY"):
        socket.curve_serverkey = server_key.encode()
        socket.curve_publickey = os.environ["ZMQ_PUBLIC_KEY"].encode()
        socket.curve_secretkey = os.environ["ZMQ_SECRET_KEY"].encode()
    socket.connect(endpoint)
    for line in sys.stdin:
        socket.send_multipart([channel.encode(), line.strip().encode()])
    socket.close()
    context.term()  # waits until all is sent


if __name__ == "__main__":
    main(*sys.argv[1:])
