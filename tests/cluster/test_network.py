"""Networks of namespaces: hosts reach each other until they are cut, bad cables are as bad as asked for, and nothing
is left behind."""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.network import NAMESPACES, Host, Impairment, Network, Traffic, requires_network
from tests.daemons import wait_for

pytestmark = requires_network
PORT = 5000
SO_RCVBUFFORCE = 33  # <asm-generic/socket.h>


def left_behind() -> tuple[set[str], list[str], int, int, str]:
    """What a network could leave: namespaces, processes, file descriptors, threads, and where this thread is."""
    names = {path.name for path in NAMESPACES.iterdir() if path.name.startswith(f"raiden-{os.getpid()}-")}
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    descriptors = len(os.listdir("/proc/self/fd"))
    return names, children, descriptors, threading.active_count(), os.readlink("/proc/thread-self/ns/net")


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    before = left_behind()
    yield
    assert left_behind() == before


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(hosts=3) as network:
        yield network


def datagrams(host: Host) -> socket.socket:
    """A UDP socket of the host's."""
    with host.inside():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((host.address, PORT))
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
    return sock


def reaches(source: socket.socket, target: socket.socket, within: float = 20.0) -> bool:
    """Whether a datagram arrives in time."""
    target.settimeout(within)
    source.sendto(b"?", target.getsockname())
    try:
        return target.recv(10) == b"?"
    except TimeoutError:
        return False


def test_hosts_reach_each_other(network: Network) -> None:
    assert [host.address for host in network.hosts] == ["10.77.0.1", "10.77.0.2", "10.77.0.3"]
    for server in network.hosts:
        with server.inside():
            listener = socket.create_server((server.address, PORT))
        for client in network.hosts:
            with client.inside():
                near = socket.create_connection((server.address, PORT), 20)
            far, (address, _) = listener.accept()
            with near, far:
                assert address == client.address
                near.sendall(b"hello")
                far.sendall(far.recv(5, socket.MSG_WAITALL)[::-1])
                assert near.recv(5, socket.MSG_WAITALL) == b"olleh"
        listener.close()


def test_a_connection_to_the_hosts_own_loopback(network: Network) -> None:
    host, other, _ = network.hosts
    with host.inside():
        listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    with listener, host.connect(port) as connection, pytest.raises(ConnectionRefusedError):
        assert connection.getpeername() == ("127.0.0.1", port)
        other.connect(port)


def test_inside_is_for_one_thread(network: Network) -> None:
    home = os.readlink("/proc/thread-self/ns/net")
    elsewhere: list[str] = []
    entered, seen = threading.Event(), threading.Event()

    def look() -> None:
        entered.wait(20)
        elsewhere.append(os.readlink("/proc/thread-self/ns/net"))
        seen.set()

    thread = threading.Thread(target=look)
    thread.start()
    with pytest.raises(ZeroDivisionError), network.hosts[0].inside():
        entered.set()
        assert seen.wait(20)
        assert os.readlink("/proc/thread-self/ns/net") != home
        raise ZeroDivisionError
    thread.join()
    assert elsewhere == [home] == [os.readlink("/proc/thread-self/ns/net")]


def test_commands_run_on_the_host_and_as_their_own_process(network: Network) -> None:
    process = subprocess.Popen(network.hosts[1].command(["cat", "/proc/net/fib_trie", "-"]), stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)  # fmt: skip
    wait_for(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "cat\n", "ip has become the program")
    out, _ = process.communicate()
    assert "10.77.0.2" in out and "10.77.0.1\n" not in out


def test_a_cut_and_healed_cable(network: Network) -> None:
    first, second, third = sockets = [datagrams(host) for host in network.hosts]
    with network.hosts[0].inside():
        listener = socket.create_server((network.hosts[0].address, PORT))
    with network.hosts[1].inside():
        near = socket.create_connection((network.hosts[0].address, PORT), 20)
    far, _ = listener.accept()
    assert all(reaches(a, b) for a in sockets for b in sockets)
    network.hosts[1].cut()
    assert not reaches(first, second, 0.1) and not reaches(second, third, 0.1)
    assert reaches(first, third) and reaches(second, second)
    near.sendall(b"late")  # nobody has told the connection
    network.hosts[1].cut()
    network.hosts[1].heal()
    assert all(reaches(a, b) for a in sockets for b in sockets)
    assert far.recv(10) == b"late"
    for sock in (*sockets, near, far, listener):
        sock.close()


def test_traffic(network: Network) -> None:
    one, two, three = network.hosts
    assert [host.traffic() for host in network.hosts] == [Traffic(0, 0, 0, 0)] * 3
    with datagrams(one) as source, datagrams(two) as target:
        for _ in range(10):
            source.sendto(bytes(100), target.getsockname())
        for _ in range(10):
            target.recv(200)
    # A datagram has 42 bytes of headers, and as many has a question or an answer for the address (ARP).
    arp = 42
    assert one.traffic() == Traffic(arp, arp + 1420, 1, 11)
    assert two.traffic() == Traffic(arp + 1420, arp, 11, 1)
    assert three.traffic() == Traffic(arp, 0, 1, 0)
    before = [host.traffic() for host in network.hosts]
    threading.Event().wait(1.5)  # the only way to see that nothing happens
    assert [host.traffic() for host in network.hosts] == before


@pytest.mark.alone
def test_a_bad_cable() -> None:
    """50 ms and a fiftieth lost, in each direction, at 10,000 packets a second; and none of it between the others."""
    count = 5000
    with Network(hosts=3, impair={2: Impairment(loss=0.02, delay=0.05)}) as network:
        first, second, third = sockets = [datagrams(host) for host in network.hosts]
        wait_for(lambda: reaches(first, second, 0.5) and reaches(second, first, 0.5), "the addresses are known")
        assert reaches(first, third)
        for source, target in ((first, second), (second, first)):
            took, numbers = transfer(source, target, count)
            assert numbers == sorted(numbers), "in order"
            # Within five standard deviations.
            assert 0.01 < 1 - len(numbers) / count < 0.03
            assert min(took) >= 0.05 and statistics.median(took) < 0.08
        took, numbers = transfer(first, third, 500)
        assert numbers == list(range(500)) and statistics.median(took) < 0.02
        network.hosts[1].cut()
        assert not reaches(first, second, 0.2)
        network.hosts[1].heal()
        wait_for(lambda: reaches(first, second, 0.5), "it is healed")
        for sock in sockets:
            sock.close()


def transfer(source: socket.socket, target: socket.socket, count: int) -> tuple[list[float], list[int]]:
    """Send this many numbered datagrams, 10,000 a second; how long those that came were on their way, and which."""
    took, numbers = [], []
    sent = [0.0] * count
    target.settimeout(0.5)

    def send() -> None:
        pause, started = threading.Event(), time.monotonic()
        for number in range(count):
            if number % 20 == 0:
                pause.wait(max(started + number / 10_000 - time.monotonic(), 0))
            sent[number] = time.monotonic()
            source.sendto(number.to_bytes(4, "big"), target.getsockname())

    sender = threading.Thread(target=send)
    sender.start()
    try:
        while True:
            data = target.recv(10)
            if len(data) != 4:
                continue  # of an earlier question
            number = int.from_bytes(data, "big")
            took.append(time.monotonic() - sent[number])
            numbers.append(number)
    except TimeoutError:
        sender.join()
    return took, numbers


def test_a_connection_over_a_bad_cable() -> None:
    """TCP repairs what the cable loses: the frames that arrive are whole."""
    data = os.urandom(1 << 20)
    with Network(hosts=2, impair={2: Impairment(loss=0.01)}) as network:
        one, two = network.hosts
        with two.inside():
            listener = socket.create_server((two.address, PORT))
        with one.inside():
            near = socket.create_connection((two.address, PORT), 20)
        far, _ = listener.accept()
        sender = threading.Thread(target=near.sendall, args=(data,))
        sender.start()
        with listener, near, far, far.makefile("rb") as stream:
            assert stream.read(len(data)) == data
            sender.join()


def test_two_networks_have_nothing_in_common() -> None:
    with Network(hosts=1) as one, Network(hosts=2) as other:
        with other.hosts[1].inside():
            listener = socket.create_server((other.hosts[1].address, PORT))
        with listener, one.hosts[0].inside(), pytest.raises(OSError):
            socket.create_connection(("10.77.0.2", PORT), 0.2)


def test_what_can_not_be_made_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the second host everything has been made, but it can't be told its address."""
    ip = tmp_path / "ip"
    ip.write_text(f'#!/bin/sh\ncase "$2" in *-host2) echo no luck >&2; exit 1;; esac\nexec {shutil.which("ip")} "$@"\n')
    ip.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(OSError, match=r"host2 .* no luck"):
        Network(hosts=3, impair={2: Impairment()})
