"""Measure clusters on this machine and, in the same run, what bare ZeroMQ does there: ``benchmarks/cluster.py``
``[--quick] [--json FILE]``. Prints tables in Markdown.

**Clusters** of 1, 2 and 3 nodes with a worker each, on loopback. `load.c` publishes messages of 128 bytes by HTTP on
the first node, and reads the stream of the one subscriber that the cluster has, on the last. Its own CPU stands in the
table: it takes little, so it is not what limits.

- *As fast as it goes*: publishes for some seconds, in NDJSON batches or one POST a message, pipelined on a connection.
  At most 4000 messages are on their way at a time, which is what keeps them below all high-water marks and bounds. A
  message that is lost, doubled or out of order fails the run.
- *At a pace*: one POST every 5 ms. Latency is from just before the POST is sent until the subscriber has the message.

CPU is user and system time of all of a cluster's processes, by /proc; at a pace, it includes what idling costs.

**The chain** is what a message's hops cost without Raiden: the same sockets over the same transports, with proxies of
`zmq.proxy`, in processes as Raiden's backbones are, and pyzmq at both ends, in a process each.

    within a node   PUSH =ipc=> [PULL, PUB] =ipc=> SUB
    across nodes    PUSH =ipc=> [PULL, PUB =inproc=> XSUB, XPUB] =tcp=> [XSUB, XPUB] =ipc=> SUB

Its frames are a topic and 128 bytes, sent one by one, or as parts of multipart messages, which is how a batch travels.
The receiver checks what it gets, and tells the sender what has arrived, which keeps to the same bound.

**Idle**: five nodes with two workers each, in network namespaces (so it takes root), that have found each other and
have no clients. CPU is in percent of a core; traffic is what eth0 counts, Ethernet headers included.

Rounds have every measurement once, and the tables have the medians over the rounds, with the least and the most; a
ratio is taken within a round.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import zmq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.processes import Meter, stop_all
from benchmarks.tables import Samples, cell, print_rows, ratios
from benchmarks.tools import Failed, check_delivered, compile_tools, run_load, write_json
from tests.daemons import Daemon, wait_for

BYTES = 128
BATCH = 100
RATE = 200
# Messages that may be on their way: fewer than a high-water mark, and less than a subscriber's outbox may hold.
ON_THEIR_WAY = 4000
ACKNOWLEDGED = 500  # messages, by the chain's receiver
SIZES = (1, 2, 3)
IDLE_NODES, IDLE_WORKERS = 5, 2
PATIENCE = 20.0  # seconds without a message, and it is lost
HIGH_WATER = 100_000

TOPIC = b"bench\0"  # of the chain's frames
END = TOPIC + b"end"


class Lengths(NamedTuple):
    """How long the measurements take: seconds at full speed, messages at a pace, seconds of idleness."""

    full: float
    paced: int
    idle: float


# Clusters.


@contextmanager
def cluster(size: int) -> Iterator[list[Daemon]]:
    """Nodes on loopback that are connected to each other; they must end in order."""
    nodes: list[Daemon] = []
    with tempfile.TemporaryDirectory(prefix="raiden-bench-") as folder:
        try:
            for number in range(1, size + 1):
                peers = [node.json("/-/nodes")["nodes"][0]["address"] for node in nodes[:1]]
                # Keep-alives would be no messages.
                nodes.append(
                    Daemon(
                        Path(folder, f"node{number}"),
                        workers=1,
                        peers=peers,
                        store="none",
                        drain_window=0,
                        keepalive=600.0,
                    )
                )
            wait_for(lambda: all(connected_to(node) == size - 1 for node in nodes), "the nodes are connected")
            yield nodes
        finally:
            codes = stop_all(nodes)
        if any(codes):
            raise Failed(f"a node ended with {codes}: {[node.log() for node in nodes]}")


def connected_to(node: Daemon) -> int:
    return [row["state"] for row in node.json("/-/nodes")["nodes"]].count("connected")


def measure_cluster(samples: Samples, size: int, lengths: Lengths) -> None:
    with cluster(size) as nodes:
        for kind, batch in (("batches", BATCH), ("singles", 1)):
            result = load(nodes, batch, seconds=lengths.full, inflight=ON_THEIR_WAY, window=ON_THEIR_WAY // batch)
            count, case = int(result["delivered"]), f"{size} {kind}"
            add_full_speed(samples, case, count, result["elapsed_s"], cpu_of_cluster(nodes, result))
        result = load(nodes, 1, msgs=lengths.paced, rate=RATE)
        for share in ("p50", "p99"):
            samples[f"{size} pace {share}_us"].append(result["latency_us"][share])
        add_cpu(samples, f"{size} pace", lengths.paced, cpu_of_cluster(nodes, result))


def load(nodes: list[Daemon], batch: int, **numbers: float) -> dict[str, Any]:
    """Publish at the first node for one subscriber of the last, ``batch`` messages in a POST."""
    first, last = (f"127.0.0.1:{node.port}" for node in (nodes[0], nodes[-1]))
    kind, end = ("application/x-ndjson", r"\n") if batch > 1 else ("application/json", "")
    options = ["--sub", "http", "--sub-addr", last, "--pub", "http", "--pub-addr", first, "--pipeline"]
    options += ["--pub-header", f"Content-Type: {kind}", "--pub-body", f'"{{msg}}"{end}']
    options += [word for node in nodes for word in ("--pid", str(node.pid))]
    result = run_load(*options, batch=batch, size=BYTES - 2, **numbers)
    check_delivered(result)
    return result


def cpu_of_cluster(nodes: list[Daemon], result: dict[str, Any]) -> dict[str, float]:
    """What the nodes' processes took, and the client."""
    taken: dict[str, float] = result["server_cpu_by_pid"]
    cpu = {"client": result["load_cpu_s"], "rest": sum(taken.values())}
    for group, name in (("backbone", "backbone"), ("ends", "worker 0")):
        cpu[group] = sum(taken[str(node.workers()[name])] for node in nodes)
        cpu["rest"] -= cpu[group]
    return cpu


def add_full_speed(samples: Samples, case: str, count: int, seconds: float, cpu: dict[str, float]) -> None:
    samples[f"{case} per_s"].append(count / seconds)
    add_cpu(samples, case, count, cpu)


def add_cpu(samples: Samples, case: str, count: int, cpu: dict[str, float]) -> None:
    client = cpu.pop("client")
    samples[f"{case} cpu_us"].append(sum(cpu.values()) / count * 1e6)
    samples[f"{case} client_us"].append(client / count * 1e6)
    for name in ("backbone", "ends"):
        samples[f"{case} {name}_us"].append(cpu[name] / count * 1e6)


# The chain. Its processes end when their pipe closes, however that comes about.


def be_first_node(folder: str, pipe: Connection) -> None:
    """The uplink and the outlink."""
    context = zmq.Context()
    pull = bound(context, zmq.PULL, f"ipc://{folder}/publish")
    pub = bound(context, zmq.PUB, f"ipc://{folder}/uplink", "inproc://uplink")
    inner = chain_socket(context, zmq.XSUB)
    inner.connect("inproc://uplink")
    outer = bound(context, zmq.XPUB, "tcp://127.0.0.1:*")
    for pair in ((pull, pub), (inner, outer)):
        threading.Thread(target=zmq.proxy, args=pair, daemon=True).start()
    pipe.send(outer.get_string(zmq.LAST_ENDPOINT))
    stay(pipe)


def be_last_node(folder: str, endpoint: str, pipe: Connection) -> None:
    """The downlink."""
    context = zmq.Context()
    xsub = chain_socket(context, zmq.XSUB)
    xsub.connect(endpoint)
    xpub = bound(context, zmq.XPUB, f"ipc://{folder}/downlink")
    threading.Thread(target=zmq.proxy, args=(xsub, xpub), daemon=True).start()
    pipe.send("ready")
    stay(pipe)


def be_sender(folder: str, pipe: Connection) -> None:
    """When told for how long, and how many frames to a message: send, `ON_THEIR_WAY` at most."""
    push = chain_socket(zmq.Context(), zmq.PUSH)
    push.connect(f"ipc://{folder}/publish")
    frames = chain_frames()
    pipe.send("ready")
    while True:
        try:
            seconds, parts = pipe.recv()
            sent = acknowledged = 0
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                while sent + BATCH - acknowledged > ON_THEIR_WAY:
                    pipe.recv_bytes()
                    acknowledged += ACKNOWLEDGED
                at = sent % len(frames)
                *some, last = frames[at : at + BATCH]
                flags = int(zmq.SNDMORE) if parts > 1 else 0
                for frame in some:
                    push.send(frame, flags)  # a third of what send_multipart costs
                push.send(last)
                sent += BATCH
            push.send(END)
            while acknowledged <= sent - ACKNOWLEDGED:
                pipe.recv_bytes()
                acknowledged += ACKNOWLEDGED
            pipe.send(sent)
        except (EOFError, OSError):
            os._exit(0)


def stay(pipe: Connection) -> None:
    try:
        pipe.recv()
    except (EOFError, OSError):
        os._exit(0)


def chain_socket(context: zmq.Context[zmq.Socket[bytes]], kind: int) -> zmq.Socket[bytes]:
    made = context.socket(kind)
    made.linger = 0
    made.sndhwm = made.rcvhwm = HIGH_WATER
    return made


def bound(context: zmq.Context[zmq.Socket[bytes]], kind: int, *addresses: str) -> zmq.Socket[bytes]:
    made = chain_socket(context, kind)
    for address in addresses:
        made.bind(address)
    return made


def chain_frames() -> list[bytes]:
    """What is sent again and again; more than can be on their way."""
    return [b"%b%09d%b" % (TOPIC, number, b"." * (BYTES - 9)) for number in range(20_000)]


class Chain:
    """The chain's processes: a context that ends with them."""

    def __init__(self) -> None:
        self._undo = ExitStack()
        self.pids: dict[str, list[int]] = defaultdict(list)
        self._context = zmq.Context()

    def __enter__(self) -> Chain:
        try:
            self._folder = self._undo.enter_context(tempfile.TemporaryDirectory(prefix="raiden-bench-"))
            self._undo.callback(self._context.destroy, linger=0)
            endpoint = self._start("backbone", be_first_node, self._folder).recv()
            self._start("backbone", be_last_node, self._folder, endpoint).recv()
            self._sender = self._start("ends", be_sender, self._folder)
            self._sender.recv()
            self._push = chain_socket(self._context, zmq.PUSH)
            self._push.connect(f"ipc://{self._folder}/publish")
        except BaseException:
            self._undo.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _start(self, group: str, target: object, *args: object) -> Connection:
        ways = multiprocessing.get_context("spawn")
        ours, theirs = ways.Pipe()
        process = ways.Process(target=target, args=(*args, theirs), daemon=True)  # type: ignore[arg-type]
        process.start()
        theirs.close()

        def end() -> None:
            ours.close()
            process.join(PATIENCE)
            if process.exitcode is None:
                process.kill()
                process.join()

        self._undo.callback(end)
        assert process.pid
        self.pids[group].append(process.pid)
        return ours

    @contextmanager
    def subscriber(self, where: str) -> Iterator[zmq.Socket[bytes]]:
        """A SUB whose subscription is in force, at the uplink or the downlink."""
        with chain_socket(self._context, zmq.SUB) as sub:
            sub.connect(f"ipc://{self._folder}/{where}")
            sub.subscribe(TOPIC)
            deadline = time.monotonic() + PATIENCE
            while not sub.poll(10):
                if time.monotonic() > deadline:
                    raise Failed("the chain does not pass messages")
                self._push.send(TOPIC)
            while sub.poll(200):
                sub.recv()
            sub.rcvtimeo = int(PATIENCE * 1000)
            yield sub

    def at_full_speed(self, sub: zmq.Socket[bytes], parts: int, seconds: float) -> tuple[int, float]:
        """Let the sender send for so long; how many messages, and the seconds until the last of them had arrived."""
        frames = chain_frames()
        recv, count = sub.recv, 0
        self._sender.send((seconds, parts))
        started = time.monotonic()
        while True:
            for frame in frames:
                got = recv()
                if got != frame:
                    break
                count += 1
                if not count % ACKNOWLEDGED:
                    self._sender.send_bytes(b"")
            else:
                continue
            break
        elapsed = time.monotonic() - started
        if got != END or self._sender.recv() != count:
            raise Failed(f"the chain lost a message: after {count} came {got!r}")
        return count, elapsed

    def at_a_pace(self, sub: zmq.Socket[bytes], messages: int) -> list[float]:
        """Send `RATE` messages a second, one by one; the latency of each, in seconds."""
        latencies = []
        started = time.monotonic()
        for number, frame in enumerate(chain_frames()[:messages]):
            time.sleep(max(0.0, started + number / RATE - time.monotonic()))
            sent = time.monotonic()
            self._push.send(frame)
            got = sub.recv()
            latencies.append(time.monotonic() - sent)
            if got != frame:
                raise Failed(f"the chain lost a message: instead came {got!r}")
        return latencies


def measure_chain(samples: Samples, lengths: Lengths) -> None:
    with Chain() as chain:
        for case, where in (("within", "uplink"), ("across", "downlink")):
            with chain.subscriber(where) as sub:
                for kind, parts in (("batches", BATCH), ("singles", 1)):
                    meter = Meter(chain.pids)
                    count, seconds = chain.at_full_speed(sub, parts, lengths.full / 2)
                    add_full_speed(samples, f"{case} {kind}", count, seconds, with_this_process(meter.taken()))
                meter = Meter(chain.pids)
                cuts = statistics.quantiles(chain.at_a_pace(sub, lengths.paced), n=100)
                samples[f"{case} pace p50_us"].append(cuts[49] * 1e6)
                samples[f"{case} pace p99_us"].append(cuts[98] * 1e6)
                add_cpu(samples, f"{case} pace", lengths.paced, with_this_process(meter.taken()))


def with_this_process(cpu: dict[str, float]) -> dict[str, float]:
    """This process is one of the chain's ends."""
    return {**cpu, "ends": cpu["ends"] + cpu["client"], "client": 0.0}


# Idle clusters.


def why_not_idle() -> str | None:
    """Why idle clusters can't be measured here."""
    if os.geteuid() != 0:
        return "network namespaces take root"
    # Imported only now: the module looks at once whether it can make networks, and every process of the chain would.
    from tests.cluster.network import missing

    return missing()


def measure_idle(samples: Samples, seconds: float) -> None:
    from tests.cluster.network import Network
    from tests.cluster.nodes import Nodes

    with tempfile.TemporaryDirectory(prefix="raiden-bench-") as folder, Network(IDLE_NODES) as network:
        nodes = Nodes(network.hosts, Path(folder), workers=IDLE_WORKERS)
        try:
            running = nodes.start_all()
            time.sleep(3)  # what they did to find each other is over
            groups: dict[str, list[int]] = {}
            for node in running:
                backbone, *workers = node.workers().values()
                groups |= {f"{node.name} supervisor": [node.pid], f"{node.name} backbone": [backbone]}
                groups |= {f"{node.name} workers": workers}
            traffic = [node.on.traffic() for node in running]
            meter, started = Meter(groups), time.monotonic()
            time.sleep(seconds)
            taken, elapsed = meter.taken(), time.monotonic() - started
            for node, before in zip(running, traffic, strict=True):
                passed = [(b - a) / elapsed for a, b in zip(before, node.on.traffic(), strict=True)]
                for name, rate in zip(before._fields, passed, strict=True):
                    samples[f"idle {name}"].append(rate)
                parts = ("supervisor", "backbone", "workers")
                shares = {name: taken[f"{node.name} {name}"] / elapsed * 100 for name in parts}
                for name, share in {**shares, "cpu": sum(shares.values())}.items():
                    samples[f"idle {name}"].append(share)
                samples["idle pss_mb"].append(pss_of(node.workers()["backbone"]) / 1024)
        finally:
            nodes.close()


def pss_of(pid: int) -> int:
    """A process's memory in KB, where what it shares is shared out."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


# Tables.


def cases() -> Iterator[tuple[str, str, str]]:
    """What is compared: its label, its name, and its chain's."""
    for size in SIZES:
        yield (f"{size} node{'s' if size > 1 else ''}", str(size), "across" if size > 1 else "within")
    yield "chain within a node", "within", "within"
    yield "chain across nodes", "across", "across"


def print_full_speed(samples: Samples) -> None:
    print(f"\n## As fast as it goes: messages of {BYTES} bytes to one subscriber\n")
    rows = []
    for kind, published in (("batches", f"batches of {BATCH}"), ("singles", "one by one")):
        for label, name, chain in cases():
            case = f"{name} {kind}"
            row = [f"{label}, {published}", cell(samples[f"{case} per_s"], "{:,.0f}")]
            row += [cell(ratios(samples, f"{case} per_s", f"{chain} {kind} per_s"), "{:.2f}") if name != chain else "-"]
            row += [cell(samples[f"{case} {what}_us"], "{:.2f}") for what in ("cpu", "backbone", "ends")]
            row += [cell(samples[f"{case} client_us"], "{:.2f}") if name != chain else "-"]
            rows.append(row)
    print_rows(
        ("", "messages/s", "to the chain's", "CPU us/message", "of that backbones", "workers or ends", "client"), rows
    )


def print_pace(samples: Samples) -> None:
    print(f"\n## {RATE} messages a second, one by one\n")
    rows = []
    for label, name, chain in cases():
        row = [label, *[cell(samples[f"{name} pace {what}"], "{:,.0f}") for what in ("p50_us", "p99_us")]]
        row += [
            cell(ratios(samples, f"{name} pace p50_us", f"{chain} pace p50_us"), "{:.1f}") if name != chain else "-"
        ]
        row += [cell(samples[f"{name} pace {what}_us"], "{:.0f}") for what in ("cpu", "backbone", "ends")]
        rows.append(row)
    print_rows(
        (
            "",
            "latency p50, us",
            "p99, us",
            "p50 to the chain's",
            "CPU us/message",
            "of that backbones",
            "workers or ends",
        ),
        rows,
    )


def print_idle(samples: Samples, seconds: float) -> None:
    print(f"\n## Idle: each of {IDLE_NODES} nodes with {IDLE_WORKERS} workers, over {seconds:.0f} s\n")
    forms = [
        ("CPU, all processes", "cpu", "{:.2f} %"),
        ("  the backbone", "backbone", "{:.2f} %"),
        ("  the workers", "workers", "{:.2f} %"),
        ("received", "received_bytes", "{:,.0f} bytes/s"),
        ("", "received_packets", "{:,.1f} packets/s"),
        ("sent", "sent_bytes", "{:,.0f} bytes/s"),
        ("", "sent_packets", "{:,.1f} packets/s"),
        ("memory of the backbone (PSS)", "pss_mb", "{:.1f} MB"),
    ]
    print_rows(("", "a node"), [(label, cell(samples[f"idle {name}"], form)) for label, name, form in forms])


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure clusters on this machine.")
    parser.add_argument("--quick", action="store_true", help="one short round: does it work, roughly how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    arguments = parser.parse_args()
    lengths = Lengths(1.0, 200, 5.0) if arguments.quick else Lengths(3.0, 1000, 30.0)
    rounds = 1 if arguments.quick else 3
    samples: Samples = defaultdict(list)
    # So that what was started is ended then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        compile_tools("load")
        skipped = why_not_idle()
        for number in range(1, rounds + 1):
            for size in SIZES:
                measure_cluster(samples, size, lengths)
            measure_chain(samples, lengths)
            if not skipped:
                measure_idle(samples, lengths.idle)
            print(f"\rround {number} of {rounds}: {len(samples)} numbers ", end="", file=sys.stderr, flush=True)
    except (Failed, AssertionError, subprocess.SubprocessError, OSError, zmq.ZMQError) as error:
        print(f"\n{error or type(error).__name__}", file=sys.stderr)
        return 1
    print(file=sys.stderr)
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, ZeroMQ {zmq.zmq_version()}; {rounds} rounds")
    print_full_speed(samples)
    print_pace(samples)
    if skipped:
        print(f"\nIdle clusters were not measured: {skipped}.")
    else:
        print_idle(samples, lengths.idle)
    if arguments.json:
        write_json(arguments.json, quick=arguments.quick, samples=samples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
