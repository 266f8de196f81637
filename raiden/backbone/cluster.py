"""The node's part in its cluster: finds other nodes, links to them, notices when they are lost, and tells the workers.

An address comes from a source (`discovery.py`), from a node that introduced itself, or from a node that tells whom
it knows. Whatever its source, an address has a greenlet, which walks one path (`_seek`):

1. *Probe* (`probe.py`): introduce this node and hear who is there; now both know of each other. It may turn out to
   be this node itself, or one that is known by another address: so the downlink is connected once to a node, and never
   to itself.
2. *Link* (`_link`): tell the workers that there is such a node, wait until all know, connect the downlink, and send a
   nonce round through it. When the nonce comes back, every subscription of this node holds at the other, and beats say
   so. Only when both say so of each other are they connected.
3. *Stay* until the node leaves or is dropped for its silence; then begin again, for as long as anybody names the
   address.

As long as no other node was heard of, the node is alone, and its worker need not use the backbone (`raiden.backend`). A
node that subscribes to anything here ends that, and is told that its subscriptions hold only after all workers know.

A node that subscribes to its inbox here has a link to us; when that subscription goes, its link is broken: the node is
suspected at once. It may not know that yet: the echoes of its beats tell it how often its link broke, so that it proves
the link again. Until its nonce has come, it is not connected. The peers' subscriptions come up through the outlink
(`forwarder.py`), to the socket `_xpub`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import gevent
import zmq
import zmq.green

from raiden.access.keys import Keys
from raiden.backbone import discovery, frames, roster
from raiden.backbone.addresses import Addresses
from raiden.backbone.candidates import MAX_ADDRESSES, Candidate, Candidates
from raiden.backbone.discovery import NotFound, Source
from raiden.backbone.forwarder import Forwarders
from raiden.backbone.link import Link
from raiden.backbone.nonces import Answers, Proofs
from raiden.backbone.probe import Probes
from raiden.backbone.roster import BEAT, GONE, LEAVING, Beat, Echo, InvalidBeat, Node, OtherVersion, Report, Roster
from raiden.backbone.workers import Workers
from raiden.model.encoding import dumps
from raiden.runtime.service import Service

logger = logging.getLogger(__name__)

# Seconds.
LOOK, LOOK_LATER = 2.0, 30.0  # between two looks at a source; at most, while it names nothing
SEEK_LATER = 5.0  # at most, between two probes of an address where nobody answers
GOSSIP_HOLDS, LOST_HOLDS = 60.0, 3600.0  # time to try an address that no source names
GOODBYE = 2.0


class Cluster(Service):
    """The roster in action. ``own`` is this node's first beat."""

    def __init__(
        self, forwarders: Forwarders, addresses: Addresses, *, own: Beat, keys: Keys | None = None,
        sources: Sequence[Source] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        self.roster = Roster(own)
        self._own = own
        self._forwarders = forwarders
        self._keys = keys
        self._sources = sources
        self._candidates = Candidates(own.address)
        self._links: dict[str, Link] = {}
        self._workers = Workers(own)
        self._serial = 1
        # The serial of the state since which the node is not alone; 0: it is alone.
        self._crowded = 0
        self._answers = Answers(lambda topic: self._send(topic, own.id.encode()), self.task)
        self._refused: set[str] = set()
        self._context = zmq.green.Context()
        self._probes = Probes(self._context, own, keys)
        self._push = self._context.socket(zmq.PUSH)
        self._sub = self._context.socket(zmq.SUB)
        self._xpub = self._context.socket(zmq.XPUB)
        for sock in (self._push, self._sub, self._xpub):
            sock.linger = 0
        self._sub.sndhwm = self._xpub.rcvhwm = 0  # subscriptions are messages too, and none may be dropped
        self._proofs = Proofs(self._sub, own.id)
        self._push.connect(addresses.publish)
        self._sub.connect(addresses.uplink)
        self._sub.connect(addresses.downlink)
        self._xpub.bind(addresses.roster)
        self._inbox = frames.INBOX + own.id.encode()
        self._report_topic = frames.REPORTS + own.id.encode()
        for topic in (frames.BEATS, self._inbox, self._report_topic):
            self._sub.subscribe(topic + b"\0")

    # Life.

    def do_start(self) -> None:
        self.spawn(self._hear_peers_subscriptions)
        self.spawn(self._hear_messages)
        self.spawn(self._beat_forever)
        for source in self._sources:
            self.spawn(self._follow, source)

    def do_stop(self) -> None:
        self._context.destroy(linger=0)

    def leave(self) -> None:
        """Tell the peers that this node will stop; they go on counting on it until it is gone."""
        self._own.phase = LEAVING
        self._changed()

    def say_goodbye(self) -> None:
        """Tell the peers that this node's workers have ended, so that they drop it; wait until they have, at most
        `GOODBYE` seconds."""
        self._own.phase = GONE
        # Through the uplink, behind the last message of the workers.
        self._send(frames.BEATS, self._own.to_bytes())
        deadline = time.monotonic() + GOODBYE
        while self.roster.nodes and time.monotonic() < deadline:
            gevent.sleep(0.01)

    # Messages that this node sends.

    def _send(self, topic: bytes, text: bytes) -> None:
        """Publish through the uplink; a text that doesn't fit now is said again later."""
        try:
            self._push.send(topic + b"\0" + text, zmq.NOBLOCK)
        except zmq.Again:
            pass

    def _send_to_peers(self, topic: bytes, text: bytes) -> None:
        """Publish through the outlink only, past the messages that wait in the uplink."""
        self._xpub.send(topic + b"\0" + text, zmq.NOBLOCK)

    def _beat(self) -> None:
        self._send_to_peers(frames.BEATS, self.roster.beat(time.monotonic(), time.time()).to_bytes())

    def _tell_workers(self) -> None:
        rows = self.roster.rows(time.time())
        self._send(
            frames.ROSTER + self._own.id.encode(),
            dumps({"serial": self._serial, "alone": not self._crowded, "nodes": rows}),
        )

    def _changed(self) -> None:
        """Tell everybody at once that a node has come, gone or changed its state."""
        self._serial += 1
        self._tell_workers()
        self._beat()

    def _crowd(self) -> None:
        """Note that there is another node: this one is not alone any more."""
        if not self._crowded:
            self._crowded = self._serial + 1
            self._changed()
            self.task(self._see_that_all_know)

    def _see_that_all_know(self) -> None:
        while not self._workers.wait_for(self._crowded):
            logger.error("the workers do not go by the roster, and other nodes wait for them")
        self._answers.all_know.set()

    def _beat_forever(self) -> None:
        last = time.monotonic()
        while True:
            gevent.sleep(BEAT)
            now = time.monotonic()
            if now - last > 2 * BEAT:
                self.roster.excuse(now - last)  # this process was stopped, and could not hear anybody
            last = now
            suspected, dropped = self.roster.silent(now)
            for node in suspected:
                self._suspect(node, "it is silent")
            for node in dropped:
                self._forget(node, LOST_HOLDS, logging.WARNING, "dropped a node")
            self._workers.sum_up()
            self._tell_workers()
            self._beat()

    # Messages that this node hears.

    def _hear_messages(self) -> None:
        while True:
            topic, _, text = self._sub.recv().partition(b"\0")
            try:
                if topic == frames.BEATS:
                    self._hear_beat(Beat.from_bytes(text))
                elif topic == self._inbox:
                    self._hear_echo(Echo.from_bytes(text))
                elif topic == self._report_topic:
                    self._hear_report(Report.from_bytes(text))
                else:
                    self._proofs.hear(topic, text)
            except InvalidBeat as error:
                self._refuse("garbage", f"what is no message of a node was ignored: {error!r:.200}")

    def _hear_beat(self, beat: Beat) -> None:
        now = time.monotonic()
        if beat.id == self._own.id:
            return
        for address, key in beat.peers:
            self._want(address, key, GOSSIP_HOLDS)
        node = self.roster.nodes.get(beat.id)
        if node is None:
            self._hear_of(beat)
        elif beat.phase == GONE:
            self._forget(node, 0.0, logging.INFO, "a node has left")
        else:
            echo = Echo(self._own.id, beat.stamp, node.breaks)
            self._send_to_peers(frames.INBOX + beat.id.encode(), echo.to_bytes())
            self._links[beat.id].check_clock(beat, node.beat.address)
            was_suspected = node.suspected
            if self.roster.hear(beat, now):
                if was_suspected:
                    logger.info("a node is back", extra={"peer": beat.address, "id": beat.id})
                self._changed()

    def _hear_of(self, beat: Beat) -> None:
        """Hear of an unknown node and its address. If a suspected node was there, that node is no more."""
        if beat.phase == GONE:
            return
        for node in list(self.roster.nodes.values()):
            if node.beat.address == beat.address and node.suspected:
                self._forget(node, LOST_HOLDS, logging.INFO, "a node has restarted")
        self._want(beat.address, beat.key, GOSSIP_HOLDS)

    def _hear_echo(self, echo: Echo) -> None:
        node = self.roster.nodes.get(echo.sender)
        if node is not None:
            node.lag = round(max(0.0, time.monotonic() - echo.stamp), 6)
            if echo.breaks != node.told_breaks:
                node.told_breaks = echo.breaks
                self._unlink(node)

    def _hear_report(self, report: Report) -> None:
        if self._workers.hear(report, self._serial):
            self._tell_workers()

    def _hear_peers_subscriptions(self) -> None:
        while True:
            frame = self._xpub.recv()
            there, topic = frame[:1] == b"\x01", frame[1:]
            if not topic.startswith(frames.HELLO):  # a node may have sent this to itself
                self._crowd()
            if topic.startswith(frames.NONCE):
                if there:
                    self._answers.subscribed(topic)
                    self._hear_proof(topic)
                else:
                    self._answers.unsubscribed(topic)
            elif topic.startswith(frames.HELLO) and there:
                self._answer_hello(topic)
            elif topic.startswith(frames.INBOX) and not there:
                self._hear_link_broke(topic[len(frames.INBOX) : -1].decode("ascii", "replace"))

    def _hear_link_broke(self, node: str) -> None:
        known = self.roster.nodes.get(node)
        if known is not None and self._own.phase == GONE:
            del self.roster.nodes[node]  # it has heard our goodbye
        elif known is not None:
            known.breaks += 1
            known.holds = False
            self._suspect(known, "its link to this node broke")

    def _hear_proof(self, topic: bytes) -> None:
        """Hear a nonce. All earlier subscriptions of its node hold here."""
        node = self.roster.nodes.get(topic[len(frames.NONCE) : -1].partition(b" ")[0].decode("ascii", "replace"))
        if node is not None and not node.holds:
            node.holds = True
            self._changed()

    def _answer_hello(self, topic: bytes) -> None:
        try:
            beat = Beat.from_bytes(topic[len(frames.HELLO) : -1])
        except OtherVersion as error:
            self._refuse(error.node, f"refused a node: {error}; run releases that speak the same", error.address)
        except InvalidBeat as error:
            self._refuse("garbage", f"an introduction of no node was ignored: {error}")
            return
        else:
            if beat.id != self._own.id and beat.id not in self.roster.nodes:
                self._hear_of(beat)
        self._xpub.send(topic + self.roster.beat(time.monotonic(), time.time()).to_bytes(), zmq.NOBLOCK)

    def _refuse(self, who: str, text: str, address: str = "") -> None:
        """Log a refusal, once for each ``who``."""
        if who not in self._refused and len(self._refused) < MAX_ADDRESSES:
            self._refused.add(who)
            logger.warning(text, extra={"peer": address} if address else None)

    # Nodes that come and go.

    def _suspect(self, node: Node, why: str) -> None:
        if self.roster.suspect(node):
            logger.warning("suspect a node", extra={"peer": node.beat.address, "id": node.beat.id, "why": why})
            self._unlink(node)

    def _unlink(self, node: Node) -> None:
        """The link to a node is to be proved again."""
        node.linked = False
        self._links[node.beat.id].broken.set()
        self._changed()

    def _forget(self, node: Node, holds: float, level: int, text: str) -> None:
        """Let go of a node; its address is tried for ``holds`` seconds more."""
        del self.roster.nodes[node.beat.id]
        link = self._links.pop(node.beat.id)
        link.candidate.until = time.monotonic() + holds
        link.gone.set()
        link.broken.set()
        if link.connected:
            self._forwarders.disconnect(node.endpoint)
        logger.log(level, text, extra={"peer": node.beat.address, "id": node.beat.id})
        self._changed()

    # Addresses.

    def _follow(self, source: Source) -> None:
        """Look at a source again and again. The addresses that it named last hold until it names others."""
        pause, said = LOOK, ""
        while True:
            found = discovery.in_a_thread(source.look)
            if isinstance(found, NotFound):
                if str(found) != said:
                    said = str(found)
                    logger.warning("no nodes from %s: %s", source.name, said)
                pause = min(2 * pause, LOOK_LATER)
            else:
                pause, said = LOOK, ""
                self._candidates.list(source.name, map(str, found))
                for address in found:
                    self._want(str(address), "", 0.0)
            gevent.sleep(pause)

    def _want(self, address: str, key: str, holds: float) -> None:
        """Look for a node at an address, for ``holds`` seconds and as long as a source names it."""
        try:
            candidate = self._candidates.want(address, key, holds)
        except ValueError:
            self._refuse(address, "a node's address is no address: it should set advertise", address)
            return
        if candidate is not None:
            self.task(self._seek, candidate)

    def _seek(self, candidate: Candidate) -> None:
        """Find the node at an address, link to it, stay until it is gone, and begin again."""
        since = time.monotonic()
        while self._candidates.is_wanted(candidate):
            found = self._probes.probe(candidate)
            if found is None:
                # The longer nobody answers, the longer the pause: after 10 s 0.2 s.
                gevent.sleep(min(SEEK_LATER, (time.monotonic() - since) / 50))
                continue
            endpoint, beat = found
            if beat.id == self._own.id:
                candidate.say(logging.INFO, "a peer's address is this node's own: ignored")
                return
            if beat.id in self._links:
                if self._links[beat.id].candidate is not candidate:
                    candidate.say(logging.INFO, f"a peer is known already, as {beat.address}: ignored")
                self._links[beat.id].gone.wait()
            else:
                self._link(candidate, beat, endpoint)
            since = time.monotonic()
        self._candidates.drop(candidate)

    def _link(self, candidate: Candidate, beat: Beat, endpoint: str) -> None:
        """Connect the downlink to a node and stay until it is gone; whenever the link is made anew, prove it."""
        for other in [node for node in self.roster.nodes.values() if node.endpoint == endpoint]:
            self._forget(other, LOST_HOLDS, logging.INFO, "a node has restarted")
        node = self.roster.add(beat, endpoint, time.monotonic())
        link = self._links[beat.id] = Link(candidate)
        self._crowd()
        self._changed()
        # From now on the workers' rounds wait for this node too; before that it must not be told that we are linked.
        self._workers.wait_for(self._serial)
        if not link.gone.is_set():
            self._forwarders.connect(endpoint, beat.key.encode() if self._keys else b"")
            link.connected = True
        while not link.gone.is_set():
            link.broken.clear()
            if self._proofs.prove(beat.id, link.gone):
                node.linked = True
                candidate.said.clear()
                logger.info("linked to a node", extra={"peer": beat.address, "id": beat.id, "version": beat.version})
                if not roster.share_history(self._own, node.beat):
                    logger.error(
                        "a node keeps history elsewhere, and messages will be missing from it: set the same shared "
                        "store on all nodes, or store = 'none' on all",
                        extra={"peer": beat.address, "its_store": node.beat.store, "store": self._own.store},
                    )
                self._changed()
            link.broken.wait()
