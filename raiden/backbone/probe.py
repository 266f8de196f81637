"""The probe of an address: a question to a node that is not known yet.

A SUB socket connects and subscribes to an introduction of this node. The node there hears the subscription through its
outlink, learns of this node, and answers on that very topic with its beat.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import gevent
import zmq
import zmq.green

from raiden.access.keys import Keys
from raiden.backbone import discovery
from raiden.backbone.candidates import Candidate
from raiden.backbone.discovery import Address, NotFound
from raiden.backbone.forwarder import link_options
from raiden.backbone.frames import HELLO
from raiden.backbone.roster import BEAT, GONE, Beat, InvalidBeat

TIMEOUT = 3.0  # seconds

_HANDSHAKES = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


class Probes:
    """The probes of the node with this ``own`` beat."""

    def __init__(self, context: zmq.green.Context, own: Beat, keys: Keys | None) -> None:
        self._context = context
        self._own = own
        self._keys = keys
        self._number = 0

    def probe(self, candidate: Candidate) -> tuple[str, Beat] | None:
        """Ask which node is at an address; return the endpoint that answered, and the node's beat. None: nobody has
        answered, and the log says why."""
        resolved = discovery.in_a_thread(discovery.resolve, Address.parse(candidate.address))
        if isinstance(resolved, NotFound):
            candidate.say(logging.WARNING, f"a peer's name does not resolve: {resolved}")
            gevent.sleep(BEAT)
            return None
        why = ""
        for address in resolved:
            endpoint = f"tcp://{address}"
            try:
                self._number += 1
                introduction = self._own.introduction(self._number)
                return endpoint, ask_who(self._context, endpoint, introduction, self._keys, candidate.key)
            except InvalidBeat as error:
                why = str(error)
        candidate.say(logging.WARNING, f"a peer does not answer: {why}")
        return None


def ask_who(context: zmq.green.Context, endpoint: str, introduction: bytes, keys: Keys | None, key: str) -> Beat:
    """Ask the node at an endpoint for its beat. ``key`` is its public key, if that is known. Waits up to `TIMEOUT`;
    raises InvalidBeat, which says why there is no answer, or OtherVersion."""
    topic = HELLO + introduction + b"\0"
    poller = zmq.green.Poller()
    with ExitStack() as stack:
        monitors = []
        tried_by: dict[Any, bytes] = {}
        # One socket for each key that the node may have: a SUB socket connects to an endpoint only once.
        for tried in _keys_of(keys, key):
            probe = stack.enter_context(context.socket(zmq.SUB))
            monitors.append(probe.get_monitor_socket(_HANDSHAKES))
            stack.callback(monitors[-1].close, linger=0)
            stack.callback(probe.disable_monitor)
            link_options(probe, keys)
            if tried:
                probe.curve_serverkey = tried
            probe.subscribe(topic)
            probe.connect(endpoint)
            poller.register(probe, zmq.POLLIN)
            tried_by[probe] = tried
        for probe, _ in poller.poll(int(TIMEOUT * 1000)):
            beat = Beat.from_bytes(probe.recv()[len(topic) :])
            if beat.phase == GONE:
                raise InvalidBeat("it has just left")
            beat.key = tried_by[probe].decode()  # the key that the node has proved, whatever it says
            return beat
        raise InvalidBeat(_what_happened(monitors, keys is not None))


def _keys_of(keys: Keys | None, key: str) -> Iterable[bytes]:
    """The public keys that the node may have: the key that was told, else all that are listed; b"": none."""
    if keys is None:
        return [b""]
    said = key.encode()
    return [said] if said in keys.allowed else keys.allowed


def _what_happened(monitors: Sequence[Any], keyed: bool) -> str:
    """The reason why nobody answered, from the sockets' events."""
    seen = set()
    for monitor in monitors:
        while monitor.poll(0):
            # An event begins with its number, 16 bits in the machine's order (zmq_socket_monitor(3)).
            seen.add(int.from_bytes(monitor.recv_multipart()[0][:2], sys.byteorder))
    if zmq.EVENT_HANDSHAKE_FAILED_AUTH in seen:
        return "it refuses this node's key: list it there in node_keys"
    if zmq.EVENT_HANDSHAKE_SUCCEEDED in seen:
        return "what listens there is no node's backbone"
    if seen:
        return "no key in node_keys is its" if keyed else "what listens there speaks no ZeroMQ, or wants a key"
    return "no connection"
