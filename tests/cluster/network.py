"""A LAN for one test: network namespaces of the kernel's, plugged into a bridge in a namespace of its own.

    host 1  10.77.0.1  eth0 ── port1 ┐
    host 2  10.77.0.2  eth0 ── port2 ┤ bridge   in the switch's namespace
    host 3  10.77.0.3  eth0 ══ port3 ┘          ══ is a wire process where the host's cable is to be bad

Nothing of it shows in the namespace that the test runs in. A thread can go into a host for a moment (`Host.inside`):
a socket stays in the namespace that it was made in, so the test's clients of a node are connected from within the
node's host, and stay so when its cable is cut. A cable is cut at the switch: the port leaves the bridge, and packets
vanish without either end being told.

A host whose cable is to be bad (`Impairment`) has TAP devices at both its ends instead of a veth pair, and a process
between them (`tests.cluster.wire`).
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.daemons import ROOT, wait_for

NAMESPACES = Path("/run/netns")
BRIDGE = "bridge"
CLONE_NEWNET = 0x4000_0000  # <linux/sched.h>
SIOCGIFFLAGS, IFF_RUNNING = 0x8913, 0x40  # <linux/sockios.h>, <linux/if.h>
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x4004_54CA, 0x0002, 0x1000  # <linux/if_tun.h>
INTERFACE_REQUEST = "16sh22x"
# Packets that a TAP device keeps until its wire reads them: that process may have to wait for a processor.
WIRE_QUEUE = 20_000

_libc = ctypes.CDLL(None, use_errno=True)
_serial = itertools.count(1)


class Impairment(NamedTuple):
    """What a cable does in each direction: the share of packets that it loses, and seconds it takes."""

    loss: float = 0.0
    delay: float = 0.0
    seed: int = 1


class Traffic(NamedTuple):
    received_bytes: int
    sent_bytes: int
    received_packets: int
    sent_packets: int


class Host:
    """A machine on the LAN. ``name`` is its network namespace's."""

    def __init__(self, name: str, address: str, *, switch: str, port: str) -> None:
        self.name = name
        self.address = address
        self._switch = switch
        self._port = port

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs a program on this host; its pid is the program's, for `ip` becomes it."""
        return ["ip", "netns", "exec", self.name, *argv]

    @property
    def path(self) -> str:
        """The path of its network namespace."""
        return str(NAMESPACES / self.name)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread, and only this one, is on the host; the sockets that it makes remain there."""
        with inside(self.name):
            yield

    def connect(self, port: int, timeout: float = 20.0) -> socket.socket:
        """A connection to a port of the host's own loopback: cutting its cable does not disturb it."""
        with self.inside():
            return socket.create_connection(("127.0.0.1", port), timeout)

    def cut(self) -> None:
        """From now on nothing passes between the host and the others, and nobody is told. What an impaired cable
        has taken already still arrives."""
        _batch([f"link set {self._port} nomaster"], self._switch)

    def heal(self) -> None:
        _batch([f"link set {self._port} master {BRIDGE}"], self._switch)

    def traffic(self) -> Traffic:
        """What the host's eth0 has received and sent since it was made."""
        with self.inside():
            lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
        counters = next(line.partition(":")[2].split() for line in lines if line.strip().startswith("eth0:"))
        return Traffic(int(counters[0]), int(counters[8]), int(counters[1]), int(counters[9]))

    def __repr__(self) -> str:
        return f"Host({self.name}, {self.address})"


class Network:
    """``hosts`` machines, numbered from 1 in ``impair``; ``hosts[0]`` is 10.77.0.1. It can be used at once, and leaves
    nothing behind when it is closed or could not be made. Processes that still run on a host keep its namespace alive,
    without a name: end them first."""

    def __init__(self, hosts: int, impair: Mapping[int, Impairment] | None = None) -> None:
        prefix = f"raiden-{os.getpid()}-{next(_serial)}"
        self.switch = f"{prefix}-switch"
        self.hosts = [
            Host(f"{prefix}-host{n}", f"10.77.0.{n}", switch=self.switch, port=f"port{n}") for n in range(1, hosts + 1)
        ]
        impaired = {self.hosts[number - 1]: impairment for number, impairment in (impair or {}).items()}
        self._undo = ExitStack()
        try:
            self._make_namespaces()
            self._make_cables(impaired)
            self._plug_in()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._undo.close()

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_namespaces(self) -> None:
        names = [self.switch, *(host.name for host in self.hosts)]
        # Of this name can only be what a process of the same pid has left behind, and that has ended.
        _batch([f"netns delete {name}" for name in names if (NAMESPACES / name).exists()])
        self._undo.callback(lambda: _batch([f"netns delete {n}" for n in names if (NAMESPACES / n).exists()]))
        _batch([f"netns add {name}" for name in names])
        for name in names:
            with inside(name):
                # IPv6 announces and asks around by itself; the counters are to be quiet when nobody speaks.
                Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")

    def _make_cables(self, impaired: Mapping[Host, Impairment]) -> None:
        """Everything is made and up, but in no port of the switch."""
        bridge = [
            f"link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"link set {BRIDGE} up",
        ]
        straight = [host for host in self.hosts if host not in impaired]
        veths = [f"link add {host._port} type veth peer name eth0 netns {host.name}" for host in straight]
        _batch(bridge + veths, self.switch)
        for host, impairment in impaired.items():
            self._make_wire(host, impairment)
        for host in self.hosts:
            queue = f" txqueuelen {WIRE_QUEUE}" if host in impaired else ""
            address = f"address add {host.address}/24 broadcast + dev eth0"
            _batch(["link set lo up", address, f"link set eth0{queue} up"], host.name)
        queues = [f"link set {host._port} txqueuelen {WIRE_QUEUE}" for host in impaired]
        _batch(queues + [f"link set {host._port} up" for host in self.hosts], self.switch)

    def _make_wire(self, host: Host, impairment: Impairment) -> None:
        with ExitStack() as ours:
            ends = []
            for namespace, device in ((host.name, "eth0"), (self.switch, host._port)):
                ends.append(_tap(namespace, device))
                ours.callback(os.close, ends[-1])
            loss, delay, seed = impairment
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.cluster.wire", *map(str, (*ends, loss, delay, seed))],
                stdin=subprocess.PIPE, pass_fds=ends, cwd=ROOT,
            )  # fmt: skip
        self._undo.callback(_end_wire, process)

    def _plug_in(self) -> None:
        """A port that has its carrier when it joins the bridge forwards at once."""
        for host in self.hosts:
            for namespace, device in ((host.name, "eth0"), (self.switch, host._port)):
                _wait_for_carrier(namespace, device)
        _batch([f"link set {host._port} master {BRIDGE}" for host in self.hosts], self.switch)


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread is in the network namespace."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        there = os.open(NAMESPACES / namespace, os.O_RDONLY)
        try:
            _setns(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


def _setns(namespace: int) -> None:
    if _libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "cannot enter the network namespace")


def _batch(commands: Sequence[str], namespace: str | None = None) -> None:
    """Run these commands of `ip`, in a namespace, by one process; the first that fails is the error."""
    if commands:
        argv = ["ip", *(["-netns", namespace] if namespace else []), "-batch", "-"]
        done = subprocess.run(argv, input="\n".join(commands) + "\n", capture_output=True, text=True)
        if done.returncode != 0:
            raise OSError(f"{' '.join(argv)} failed: {done.stderr.strip()}")


def _tap(namespace: str, device: str) -> int:
    """A new TAP device, which lives as long as this file descriptor or a copy of it."""
    with inside(namespace):
        fd = os.open("/dev/net/tun", os.O_RDWR)
        try:
            fcntl.ioctl(fd, TUNSETIFF, struct.pack(INTERFACE_REQUEST, device.encode(), IFF_TAP | IFF_NO_PI))
        except OSError:
            os.close(fd)
            raise
    return fd


def _wait_for_carrier(namespace: str, device: str) -> None:
    request = struct.pack(INTERFACE_REQUEST, device.encode(), 0)

    def flags() -> int:
        return int(struct.unpack(INTERFACE_REQUEST, fcntl.ioctl(asker, SIOCGIFFLAGS, request))[1])

    with inside(namespace), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        wait_for(lambda: flags() & IFF_RUNNING, f"{device} has its carrier")


def _end_wire(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin
    process.stdin.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


@cache
def missing() -> str | None:
    """Why such networks can't be made here; None: they can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces take root"
    if shutil.which("ip") is None:
        return "there is no `ip` (iproute2)"
    try:
        with Network(hosts=1):
            os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"no network can be made: {error}"
    return None


requires_network = pytest.mark.skipif(missing() is not None, reason=str(missing()))
