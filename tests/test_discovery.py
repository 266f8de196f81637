"""Where addresses come from: their text, files, and names that a real DNS server of the tests' own answers for."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from raiden.backbone.discovery import TIMEOUT, Address, NotFound, Static, resolve, source
from tests.daemons import ROOT, environment, wait_for

LONG = ".".join(["a" * 63] * 3 + ["a" * 61])  # 253 characters


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.1:9989", "10.0.0.1", 9989),
        ("node1.example:1", "node1.example", 1),
        ("node1.example.:65535", "node1.example.", 65535),
        ("node_1-a:80", "node_1-a", 80),
        ("knoten-ä.example:80", "knoten-ä.example", 80),
        (f"{LONG}:80", LONG, 80),
        ("[::1]:9989", "::1", 9989),
        ("[2001:DB8:0:0::1]:9989", "2001:db8::1", 9989),
        ("[fe80::1%eth0]:9989", "fe80::1%eth0", 9989),
    ],
)
def test_parse(text: str, host: str, port: int) -> None:
    address = Address.parse(text)
    assert address == (host, port)
    assert Address.parse(text, 7) == address
    assert Address.parse(str(address)) == address


def test_default_port() -> None:
    assert Address.parse("node1", 9989) == ("node1", 9989)
    assert Address.parse("[::1]", 9989) == ("::1", 9989)
    assert str(Address("::1", 9989)) == "[::1]:9989"
    assert str(Address("node1", 9989)) == "node1:9989"
    for text in ("node1", "10.0.0.1", "[::1]"):
        with pytest.raises(ValueError, match=r"write it as host:port"):
            Address.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "", ":", ":9989", "node1:", "node1:0", "node1:65536", "node1:123456", "node1:-1", "node1:+1", "node1:x",
        "node1: 1", "node1:1 ", " node1:1", "node1:1\n", "no de:1", "no\x00de:1", "no\x1fde:1", "node1:1:1", "node1:٣",
        "tcp://node1:1", "user@node1:1", "a,b:1", "a..b:1", ".a:1", ".:1", f"{'a' * 64}.example:1", f"a{LONG}:1",
        "::1", "::1:9989", "[::1", "[]:1", "[::1]1", "[::g]:1", "[node1]:1", "[10.0.0.1]:1", "[fe80::1%a b]:1",
        "[[::1]]:1", "9989", "10.0.0:1", "10.0.0.256:1", "10.0.0.01:1", "node.1:1", "a.²:1",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_what_to_write(text: str) -> None:
    for default_port in (None, 9989):
        with pytest.raises(ValueError, match=r"is no address: write it as host:port .* like 'node1") as error:
            Address.parse(text, default_port)
        assert str(error.value).isprintable()


def test_sources_know_their_names() -> None:
    for text in ("dns:node1", "dns:node1:80", "srv:_raiden._tcp.example", "file:/etc/nodes"):
        assert source(text, default_port=9989).name == text
    assert Static([]).name == "peers"


@pytest.mark.parametrize(
    "text", ["", "dns", "dns:", "node1:9989", "DNS:node1", "http://a", "srv:", "srv:a b", "srv:a:80", "file", "file:"]
)
def test_unknown_sources_are_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="write it as dns:NAME, srv:NAME or file:PATH"):
        source(text, default_port=9989)


@pytest.mark.parametrize("text", ["dns:a b", "dns:node1:0", "dns:node1:65536", "dns:::1"])
def test_a_name_that_is_none_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="write it as host:port with a port of 1 to 65535"):
        source(text, default_port=9989)


def test_static() -> None:
    first, second = Address("node1", 1), Address("node2", 2)
    assert Static([second, first, second]).look() == [second, first]
    assert Static([]).look() == []


def test_resolve_takes_numeric_addresses_as_they_are() -> None:
    for text in ("10.0.0.1:9989", "[2001:db8::1]:9989"):
        assert resolve(Address.parse(text)) == [Address.parse(text)]
    assert resolve(Address("fe80::1%lo", 1)) == [Address("fe80::1%lo", 1)]


@pytest.mark.parametrize("host", ["a" * 64, "a..b", "ä" * 63])
def test_names_that_can_not_be_asked_for_are_not_found(host: str) -> None:
    with pytest.raises(NotFound, match="does not resolve"):
        resolve(Address(host, 1))


def test_a_file_is_read_at_each_look(tmp_path: Path) -> None:
    path = tmp_path / "nodes"
    nodes = source(f"file:{path}", default_port=9989)

    def not_found() -> str:
        with pytest.raises(NotFound) as error:
            nodes.look()
        return str(error.value)

    assert f"{path} can't be read" in not_found() and "No such file" in not_found()
    path.write_text("# the cluster\n\n  node1\nnode2:80 # the second\r\n[::1]\n\nnode1:9989\n#node3")
    assert nodes.look() == [("node1", 9989), ("node2", 80), ("::1", 9989)]
    (tmp_path / "new").write_text("node4")
    (tmp_path / "new").rename(path)
    assert nodes.look() == [("node4", 9989)]
    path.write_text("node1\n\nnode2:x\n")
    assert f"{path}, line 3: 'node2:x' is no address: write it as" in not_found()
    for nothing in ("", "\n# node1\n"):
        path.write_text(nothing)
        assert not_found() == f"{path} has no address in it: write one a line"
    path.write_bytes(b"node1\n\xff\n")
    assert f"{path} can't be read" in not_found()
    path.unlink()
    path.mkdir()
    assert f"{path} can't be read" in not_found()
    path.rmdir()
    path.write_text("node5:1")
    assert nodes.look() == [("node5", 1)]


def test_a_path_that_is_none_is_not_found() -> None:
    with pytest.raises(NotFound, match="can't be read"):
        source("file:a\0b", default_port=9989).look()


# Keeps its sources from one look to the next, as a node does; ends itself if a look hangs.
PROBE = """
import json, signal, sys
from raiden.backbone.discovery import NotFound, source
sources = {}
for line in sys.stdin:
    signal.alarm(60)
    text = line.strip()
    known = sources.setdefault(text, source(text, default_port=9989))
    try:
        answer = [str(address) for address in known.look()]
    except NotFound as error:
        answer = f"not found: {error}"
    print(json.dumps(answer), flush=True)
    signal.alarm(0)
"""


class Names:
    """A network namespace with nothing in it but a DNS server and a process that looks names up there."""

    def __init__(self, folder: Path, cleanup: ExitStack) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root, for a network namespace")
        for tool in ("ip", "dnsmasq"):
            if shutil.which(tool) is None:
                pytest.skip(f"needs {tool}")
        name = f"raiden-discovery-{os.getpid()}"
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
        if made.returncode != 0:
            pytest.skip(f"needs a network namespace: {made.stderr.strip()}")
        cleanup.callback(subprocess.run, ["ip", "netns", "delete", name], check=True)
        self._inside = ["ip", "netns", "exec", name]
        self._folder = folder
        self._server: subprocess.Popen[bytes] | None = None

        etc = Path("/etc/netns", name)  # its files take the place of those in /etc
        if not etc.parent.exists():
            cleanup.callback(subprocess.run, ["rmdir", "--ignore-fail-on-non-empty", "/etc/netns"], check=True)
        etc.mkdir(parents=True)
        cleanup.callback(shutil.rmtree, etc)
        (etc / "resolv.conf").write_text("nameserver 127.0.0.1\nsearch cluster.example\n")
        (etc / "nsswitch.conf").write_text("hosts: files dns\n")
        (etc / "hosts").write_text("127.0.0.1 localhost\n")
        subprocess.run([*self._inside, "ip", "link", "set", "lo", "up"], check=True)

        self._probe = subprocess.Popen(
            [*self._inside, sys.executable, "-c", PROBE],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(), cwd=ROOT,
        )  # fmt: skip
        cleanup.callback(self._end_probe)
        cleanup.callback(self.stop)

    def serve(self, *records: str) -> None:
        """Start the server, again if it runs: ``ADDRESS NAME``, or ``NAME,TARGET,PORT,PRIORITY`` for SRV."""
        self.stop()
        hosts, log = self._folder / "hosts", self._folder / "log"
        hosts.write_text("".join(f"{record}\n" for record in records if " " in record))
        log.unlink(missing_ok=True)
        options = ["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", f"--log-facility={log}"]
        options += ["--user=root", "--listen-address=127.0.0.1", "--bind-interfaces"]
        # With nowhere else to ask it refuses what does not end in a name that is its own.
        options += ["--no-resolv", "--local=/example/", "--local=/_tcp/", "--no-hosts", f"--addn-hosts={hosts}"]
        options += [f"--srv-host={record}" for record in records if " " not in record]
        server = self._server = subprocess.Popen([*self._inside, "dnsmasq", *options])
        # It logs this with its socket bound and its records still to be read: queries wait meanwhile.
        wait_for(lambda: server.poll() is not None or (log.exists() and "started" in log.read_text()), "dnsmasq runs")
        assert server.poll() is None, log.read_text()

    def freeze(self) -> None:
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)

    def stop(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None

    def look(self, text: str) -> list[str] | str:
        """What the source that is called so names, or ``not found: ...``."""
        assert self._probe.stdin is not None and self._probe.stdout is not None
        self._probe.stdin.write(f"{text}\n")
        self._probe.stdin.flush()
        answer: list[str] | str = json.loads(self._probe.stdout.readline())
        return answer

    def not_found(self, text: str) -> str:
        answer = self.look(text)
        assert isinstance(answer, str), answer
        return answer

    def _end_probe(self) -> None:
        self._probe.kill()
        self._probe.communicate()


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Names]:
    with ExitStack() as cleanup:
        yield Names(tmp_path_factory.mktemp("names"), cleanup)


def test_every_address_of_a_name(names: Names) -> None:
    hosts = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "2001:db8::1", "2001:db8::2"]
    names.serve(*[f"{host} nodes.cluster.example" for host in hosts], "10.0.0.9 other.cluster.example")
    expected = sorted(str(Address(host, 9989)) for host in hosts)
    for text in ("dns:nodes.cluster.example", "dns:nodes.cluster.example.", "dns:nodes"):
        assert sorted(names.look(text)) == expected
    assert names.look("dns:other:80") == ["10.0.0.9:80"]


def test_addresses_that_change_are_seen_at_the_next_look(names: Names) -> None:
    names.serve("10.0.0.1 nodes.example", "10.0.0.2 nodes.example")
    assert sorted(names.look("dns:nodes.example")) == ["10.0.0.1:9989", "10.0.0.2:9989"]
    names.serve("10.0.0.2 nodes.example", "10.0.0.3 nodes.example")
    assert sorted(names.look("dns:nodes.example")) == ["10.0.0.2:9989", "10.0.0.3:9989"]
    names.serve("10.0.0.3 other.example")
    assert names.look("dns:nodes.example") == "not found: nodes.example does not resolve: Name or service not known"
    names.serve("10.0.0.3 nodes.example")
    assert names.look("dns:nodes.example") == ["10.0.0.3:9989"]


def test_services_by_priority(names: Names) -> None:
    service = "_raiden._tcp.cluster.example"
    names.serve(f"{service},c.example,3,30", f"{service},a.example,1,10", f"{service},b.example,2,20")
    for text in (f"srv:{service}", f"srv:{service}.", "srv:_raiden._tcp"):
        assert names.look(text) == ["a.example.:1", "b.example.:2", "c.example.:3"]


def test_services_that_change_are_seen_at_the_next_look(names: Names) -> None:
    service = "_raiden._tcp.example"
    names.serve(f"{service},a.example,1,10")
    assert names.look(f"srv:{service}") == ["a.example.:1"]
    names.serve(f"{service},a.example,2,10", f"{service},b.example,2,20")
    assert names.look(f"srv:{service}") == ["a.example.:2", "b.example.:2"]


def test_the_target_of_a_service_resolves(names: Names) -> None:
    names.serve("_raiden._tcp.example,a.example,80,1", "10.0.0.1 a.example", "2001:db8::1 a.example")
    assert names.look("srv:_raiden._tcp.example") == ["a.example.:80"]
    assert sorted(names.look("dns:a.example.:80")) == ["10.0.0.1:80", "[2001:db8::1]:80"]


def test_names_that_name_nothing(names: Names) -> None:
    names.serve("10.0.0.1 a.example", "_raiden._tcp.example,a.example,80,1", "_none._tcp.example")
    assert "does not resolve: Name or service not known" in names.not_found("dns:b.example")
    assert "does not resolve: No address" in names.not_found("dns:_raiden._tcp.example")
    assert "no SRV records of b.example: " in names.not_found("srv:b.example")
    assert "does not exist" in names.not_found("srv:b.example.")
    assert "does not contain an answer" in names.not_found("srv:a.example.")
    assert "say that there is no such service" in names.not_found("srv:_none._tcp.example")


def test_a_service_at_an_impossible_port_is_not_found(names: Names) -> None:
    names.serve("_raiden._tcp.example,a.example,80,1", "_raiden._tcp.example,b.example,0,1")
    assert "'b.example.:0' is no address" in names.not_found("srv:_raiden._tcp.example")


def test_a_server_that_refuses(names: Names) -> None:
    names.serve()
    assert "does not resolve" in names.not_found("dns:a.invalid.")
    assert "answered REFUSED" in names.not_found("srv:a.invalid.")


def test_a_server_that_is_not_there(names: Names) -> None:
    names.stop()
    assert "does not resolve: Temporary failure" in names.not_found("dns:a.example")
    begin = time.monotonic()
    assert "lifetime expired" in names.not_found("srv:a.example")
    assert time.monotonic() - begin < TIMEOUT + 3
    names.serve("10.0.0.1 a.example")
    assert names.look("dns:a.example") == ["10.0.0.1:9989"]


def test_a_server_that_does_not_answer(names: Names) -> None:
    names.serve("10.0.0.1 a.example")
    names.freeze()
    begin = time.monotonic()
    assert names.look("dns:a.example") == f"not found: a.example does not resolve: no answer within {TIMEOUT:g} s"
    assert time.monotonic() - begin < TIMEOUT + 3
    names.serve("10.0.0.1 a.example")
    assert names.look("dns:a.example") == ["10.0.0.1:9989"]
