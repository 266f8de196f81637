"""TLS on the HTTP door: protocols, certificates and their change, and what clients do wrong below HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import resource
import select
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Origin

from raiden.connections.tls import Tls, TlsSocket, context
from raiden.node import config
from raiden.node.config import ConfigError
from tests.certificates import NAME, Authority
from tests.daemons import PATIENCE, Daemon, Stream, command, environment, memory, wait_for
from tests.test_clients import tool
from tests.test_packed import answers_in_order

JSON = {"Content-Type": "application/json"}

T = TypeVar("T")


class TlsDaemon(Daemon):
    """A node with TLS, whose clients trust its authority."""

    context: ssl.SSLContext

    def connect(self, timeout: float = PATIENCE) -> ssl.SSLSocket:
        sock = socket.create_connection((self.host, self.port), timeout)
        return self.context.wrap_socket(sock, server_hostname=NAME)

    def plain(self) -> socket.socket:
        return super().connect()

    def publish(self, channel: str, value: Any) -> None:
        try:
            super().publish(channel, value)
        except ssl.SSLError:  # the kept connection was closed meanwhile
            self._publisher = self.open()
            super().publish(channel, value)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("authority")
    return Authority(folder, "intermediate", Authority(folder))


@pytest.fixture(scope="module")
def root(authority: Authority) -> Path:
    return authority.folder / "root.pem"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, authority: Authority, root: Path) -> Iterator[TlsDaemon]:
    """A node that many tests share."""
    cert, key = authority.issue(NAME, into="shared")
    TlsDaemon.context = ssl.create_default_context(cafile=root)
    node = TlsDaemon(tmp_path_factory.mktemp("node"), tls_cert=cert, tls_key=key)
    node.context = TlsDaemon.context
    yield node
    assert node.stop() == 0
    assert "Traceback" not in node.log(), node.log()


@pytest.fixture
def start_tls(tmp_path: Path, authority: Authority, root: Path) -> Iterator[Callable[..., TlsDaemon]]:
    nodes: list[TlsDaemon] = []

    def start(client: tuple[str, str] | None = None, **settings: Any) -> TlsDaemon:
        cert, key = authority.issue(NAME, into=f"node{len(nodes)}")
        TlsDaemon.context = ssl.create_default_context(cafile=root)
        if client is not None:
            TlsDaemon.context.load_cert_chain(*client)
        node = TlsDaemon(tmp_path / f"node{len(nodes)}", **{"tls_cert": cert, "tls_key": key, **settings})
        node.context = TlsDaemon.context
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        assert node.stop() == 0
        assert "Traceback" not in node.log(), node.log()


class Shared:
    """A client's TLS socket for two threads, of which one reads: OpenSSL forbids to use a connection in two at the same
    time, and Python 3.11 does not keep them apart, so that what is sent is lost once in some hundred handshakes."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        sock.settimeout(0)
        self._sock = sock
        self._lock = threading.Lock()
        self._timeout: float | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def settimeout(self, timeout: float | None) -> None:
        self._timeout = timeout

    def recv(self, size: int) -> bytes:
        return self._when_ready(lambda: self._sock.recv(size))

    def sendall(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self._when_ready(lambda: self._sock.send(left)) :]  # noqa: B023

    def _when_ready(self, work: Callable[[], T]) -> T:
        while True:
            with self._lock:
                try:
                    return work()
                except ssl.SSLWantReadError:
                    reading = True
                except ssl.SSLWantWriteError:
                    reading = False
            here, none = [self._sock], list[ssl.SSLSocket]()
            if not any(select.select(here if reading else none, none if reading else here, none, self._timeout)):
                raise TimeoutError


def shared(sock: ssl.SSLSocket) -> socket.socket:
    """As a `Shared` socket."""
    return cast(socket.socket, Shared(sock))


def s_client(node: Daemon, *options: str, given: bytes = b"Q\n") -> str:
    """What openssl's client says."""
    words = [tool("openssl"), "s_client", "-connect", f"127.0.0.1:{node.port}", "-servername", NAME, *options]
    done = subprocess.run(words, input=given, capture_output=True, timeout=PATIENCE)
    return (done.stdout + done.stderr).decode("latin-1")


# Protocols, certificates.


def test_protocols(node: TlsDaemon, root: Path) -> None:
    for protocol in ("-tls1", "-tls1_1"):
        said = s_client(node, protocol, "-cipher", "ALL:@SECLEVEL=0")
        assert "alert protocol version" in said and "Cipher is (NONE)" in said, said
    for protocol, name in (("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")):
        said = s_client(node, protocol, "-CAfile", str(root), "-verify_return_error", "-alpn", "h2,http/1.1")
        assert f"New, {name}" in said and "Verify return code: 0 (ok)" in said, said
        assert "ALPN protocol: http/1.1" in said
    for cipher in ("NULL", "AES128-SHA", "AES128-GCM-SHA256"):  # without encryption, or without forward secrecy
        said = s_client(node, "-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0")
        assert "Cipher is (NONE)" in said, said


def test_the_chain_is_sent(node: TlsDaemon) -> None:
    said = s_client(node, "-showcerts")
    assert re.findall(r"s:CN = (\w+)", said) == [NAME, "intermediate"]


def test_curl(node: TlsDaemon, root: Path) -> None:
    words = [tool("curl"), "-s", "--cacert", str(root), "--json", '{"n": 1}', f"https://{NAME}:{node.port}/a"]
    words[1:1] = ["--resolve", f"{NAME}:{node.port}:127.0.0.1"]
    done = subprocess.run(words, capture_output=True, check=True, timeout=PATIENCE)
    assert "cursor" in json.loads(done.stdout)
    assert f"https://127.0.0.1:{node.port}" in node.banner()


def test_clients_show_certificates(start_tls: Callable[..., TlsDaemon], authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger").issue("eve")
    mine = authority.issue("ann")
    node = start_tls(mine, tls_client_ca=str(authority.folder / "root.pem"), store="none")
    assert node.request("GET", "/-/health")[0] == 200
    node.context = ssl.create_default_context(cafile=authority.folder / "root.pem")
    for shown in (None, stranger):
        if shown:
            node.context.load_cert_chain(*shown)
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            node.request("GET", "/-/health")  # with TLS 1.3 the client hears of it after the handshake
    for protocol, alert in (("-tls1_2", "handshake failure"), ("-tls1_3", "certificate required")):
        assert f"alert {alert}" in s_client(node, protocol, "-ign_eof", given=b"").replace("sslv3 ", "")
    node.context.load_cert_chain(*mine)
    wait_for(lambda: node.metric("raiden_refused_handshakes_total") >= 2, "they are counted")
    assert "a TLS handshake failed" in node.log() and "certificate" in node.log()


def test_a_client_certificate_may_be_optional(
    start_tls: Callable[..., TlsDaemon], authority: Authority, tmp_path: Path
) -> None:
    node = start_tls(tls_client_ca=str(authority.folder / "root.pem"), tls_client_required=False, store="none")
    assert node.request("GET", "/-/health")[0] == 200
    node.context.load_cert_chain(*Authority(tmp_path, "stranger").issue("eve"))
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        node.request("GET", "/-/health")


def test_early_data_is_not_accepted(node: TlsDaemon, tmp_path: Path) -> None:
    """It could be sent again by anyone who has seen it (RFC 8446 section 8)."""
    session, early = tmp_path / "session", tmp_path / "early"
    request = b"GET /-/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    said = s_client(node, "-tls1_3", "-ign_eof", "-sess_out", str(session), given=request)
    assert "Max Early Data: 0" in said and '{"status":"ok"}' in said, said
    early.write_bytes(
        b"POST /early HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\nx"
    )
    said = s_client(node, "-tls1_3", "-ign_eof", "-sess_in", str(session), "-early_data", str(early), given=request)
    assert "Early data was not sent" in said or "Early data was rejected" in said, said
    assert node.request("GET", "/early?_wait=0&_since=earliest")[0] == 204


# Files of certificates, and their change.


def test_bad_files_are_refused(tmp_path: Path, authority: Authority) -> None:
    cert, key = authority.issue("good")
    other = authority.issue("other")[1]
    garbage = tmp_path / "garbage"
    garbage.write_text("no certificate\n")
    locked = tmp_path / "locked"
    words = [tool("openssl"), "pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", str(locked)]
    subprocess.run(words, check=True, capture_output=True)

    def why(**settings: Any) -> str:
        with pytest.raises(ConfigError) as failure:
            config.load(None, [f"{name} = {str(value)!r}" for name, value in settings.items()], {})
        return str(failure.value)

    assert "cannot read it: No such file" in why(tls_cert=tmp_path / "none", tls_key=key)
    assert "tls_key" in why(tls_cert=cert, tls_key=tmp_path / "none")
    assert "no certificate" in why(tls_cert=garbage, tls_key=key)
    assert "no certificate" in why(tls_cert=cert, tls_key=garbage)
    assert "not that of the certificate" in why(tls_cert=cert, tls_key=other)
    assert "password" in why(tls_cert=cert, tls_key=locked)
    assert "tls_key" in why(tls_cert=cert)
    assert "tls_client_ca" in why(tls_cert=cert, tls_key=key, tls_client_ca=garbage)
    assert "without tls_cert" in why(tls_client_ca=cert)
    both = tmp_path / "both"
    both.write_bytes(Path(cert).read_bytes() + Path(key).read_bytes())
    assert config.load(None, [f"tls_cert = {str(both)!r}"], {})[0].tls_key is None
    line = command("check", data_dir=tmp_path, tls_cert=str(garbage))
    done = subprocess.run(line, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("raiden: tls_cert") and done.stderr.count("\n") == 1


def serial(node: TlsDaemon) -> str:
    with node.connect() as sock:
        assert isinstance(sock, ssl.SSLSocket)
        found = sock.getpeercert()
        assert found is not None
        return str(found["serialNumber"])


def test_the_certificate_changes_under_open_connections(
    start_tls: Callable[..., TlsDaemon], authority: Authority
) -> None:
    """A thousand connections hear each message, before and after; new ones get the new certificate; a broken one is
    refused."""
    count = 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, count + 1000)), hard))
    node = start_tls(workers=2)
    with ThreadPoolExecutor(4) as pool:
        streams = list(pool.map(lambda _: Stream(node, "/a"), range(count)))
    first = serial(node)
    node.publish("a", 1)
    authority.issue(NAME, into="node0")
    node.signal(signal.SIGHUP)
    wait_for(lambda: serial(node) != first and serial(node) != first, "new connections get the new certificate")
    second = serial(node)
    node.publish("a", 2)
    Path(authority.folder / "node0.crt").write_text("broken")
    node.signal(signal.SIGHUP)
    wait_for(lambda: "not reloaded: tls_cert" in node.log(), "the broken file is refused")
    assert serial(node) == second
    node.publish("a", 3)
    for stream in streams:
        assert [stream.value() for _ in range(3)] == [1, 2, 3]
    for stream in streams:
        stream.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# What is sent through TLS.


def test_websocket(node: TlsDaemon) -> None:
    origin = Origin(f"https://{NAME}:{node.port}")
    with connect(f"ws://{NAME}:{node.port}/a", sock=shared(node.connect()), origin=origin) as ws:
        big = json.dumps("x" * 900_000)
        for text in ("1", big, "2"):
            ws.send(text)
            assert ws.recv(timeout=PATIENCE) == text


def test_the_same_origin_is_https(node: TlsDaemon) -> None:
    host = f"{NAME}:{node.port}"
    for scheme, status in (("https", 200), ("http", 403)):
        fields = {**JSON, "Host": host, "Origin": f"{scheme}://{host}"}
        for _ in range(2):
            assert node.request("POST", "/a", "1", fields)[0] == status


def test_pipelined_requests_in_few_and_in_many_records(node: TlsDaemon) -> None:
    request = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n%d"
    with Stream(node, "/a") as stream:
        for pieces in (
            [b"".join(request % n for n in range(10))],
            [bytes([byte]) for byte in b"".join(request % n for n in range(10))],  # a record for each byte
        ):
            with node.connect() as sock:
                for piece in pieces:
                    sock.send(piece)
                got = b""
                while got.count(b"HTTP/1.1 200") < 10:
                    got += sock.recv(65536)
            assert [stream.value() for _ in range(10)] == list(range(10))


def test_a_large_body_comes_whole(node: TlsDaemon) -> None:
    value = os.urandom(400_000).hex()
    assert node.post_json("/a", value)[0] == 200
    assert json.loads(node.request("GET", "/a?_wait=1&_last=1")[2])["messages"][0]["data"] == value


def test_who_closes_says_so(node: TlsDaemon) -> None:
    """The node's end of an answer is a close_notify, by which a client knows that the answer was not cut off; and the
    node takes a client's for the end."""
    with node.connect() as sock:
        assert isinstance(sock, ssl.SSLSocket)
        sock.suppress_ragged_eofs = False  # type: ignore[attr-defined]
        sock.sendall(b"GET /-/health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        got = b""
        while data := sock.recv(65536):  # would raise SSLEOFError
            got += data
        assert got.endswith(b'{"status":"ok"}')
    with Stream(node, "/a") as stream:
        wait_for(lambda: node.metric("raiden_connections", transport="stream") == 1, "it is subscribed")
        raw = stream._connection.sock
        assert isinstance(raw, ssl.SSLSocket)
        raw.setblocking(False)
        with contextlib.suppress(ssl.SSLWantReadError):
            raw.unwrap()  # TCP stays open
        wait_for(lambda: node.metric("raiden_connections", transport="stream") == 0, "it has ended")


def test_a_slow_reader_gets_all_that_its_outbox_holds(start_tls: Callable[..., TlsDaemon]) -> None:
    node = start_tls(max_outbox=8 << 20)
    values = [os.urandom(150_000).hex() for _ in range(20)]
    with Stream(node, "/a") as stream:
        for value in values:
            node.publish("a", value)
        assert [stream.value() for _ in values] == values


def test_a_reader_that_is_too_slow_is_told_and_closed(start_tls: Callable[..., TlsDaemon]) -> None:
    """The outbox's bound holds; of what was sent all can be opened, up to the close frame; and others hear all."""
    node = start_tls(max_outbox=1 << 20, ws_deflate=False, store="none")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((node.host, node.port))
    with Stream(node, "/a") as other, connect(
        f"ws://{NAME}:{node.port}/a", sock=shared(node.context.wrap_socket(sock, server_hostname=NAME)), max_queue=1
    ) as ws:  # fmt: skip
        worker = node.workers()["worker 0"]
        before = memory(worker)
        sent = 0
        while node.metric("raiden_slow_consumers_total") == 0:
            value = f"{sent}" + "x" * 100_000
            node.publish("a", value)
            assert other.value() == value
            sent += 1
            assert sent < 500
        assert memory(worker) - before < 24 << 20
        number = 0
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                assert json.loads(ws.recv(timeout=PATIENCE)).strip("x") == str(number)
                number += 1
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 4001
        assert 0 < number < sent


# What clients do wrong.


def test_plain_http_is_told_to_use_https(node: TlsDaemon) -> None:
    for method in ("GET", "DELETE", "POST"):
        with node.plain() as sock:
            sock.sendall(f"{method} /a HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n".encode() + b"x" * 100_000)
            response = http.client.HTTPResponse(sock)
            response.begin()
            assert response.status == 400 and json.loads(response.read())["detail"] == "this port speaks TLS: use https"
            assert sock.recv(1) == b""
    assert node.request("GET", "/-/health")[0] == 200
    assert "plain HTTP was sent to the port of TLS" in node.log()


def test_garbage_ends_its_own_connection(start_tls: Callable[..., TlsDaemon]) -> None:
    node = start_tls(store="none", request_timeout=1)
    with Stream(node, "/a") as stream:
        for garbage in (
            b"\x16\x03\x01\xff\xff" + b"x" * 70_000, b"\x16\x03\x01\x00\x05hello", b"\0" * 1000, b"\x15\x03\x03",
        ):  # fmt: skip
            with node.plain() as sock:
                try:
                    sock.sendall(garbage)
                    while sock.recv(65536):
                        pass
                except ConnectionError:
                    pass
        with node.connect() as client:
            assert client.version() == "TLSv1.3"
            os.write(client.fileno(), b"\x17\x03\x03\x00\x20" + b"x" * 32)  # a record that nobody has sealed
            with pytest.raises((ssl.SSLError, ConnectionError)):
                if not client.recv(100):
                    raise ConnectionError
        node.publish("a", 1)
        assert stream.value() == 1


def test_bytes_behind_the_end_reach_nobody(node: TlsDaemon) -> None:
    """All connections share the memory that OpenSSL reads from: what one leaves there would be another's."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = node.context.wrap_bio(incoming, outgoing, server_hostname=NAME)
    with Stream(node, "/a") as stream, node.plain() as sock:
        while client.version() is None:
            with contextlib.suppress(ssl.SSLWantReadError):
                client.do_handshake()
            sock.sendall(outgoing.read())
            if client.version() is None:
                incoming.write(sock.recv(65536))
        with contextlib.suppress(ssl.SSLWantReadError):
            client.unwrap()
        sock.sendall(outgoing.read() + b"x" * 5000)
        assert node.request("GET", "/-/health")[0] == 200
        node.publish("a", 1)
        assert stream.value() == 1


def test_a_handshake_that_stalls_is_ended(start_tls: Callable[..., TlsDaemon]) -> None:
    """However its bytes trickle in; and many take little memory."""
    node = start_tls(store="none", request_timeout=2)
    hello = client_hello(node.context)
    socks = [node.plain() for _ in range(300)]
    worker = node.workers()["worker 0"]
    before = memory(worker)
    for number, sock in enumerate(socks):
        # Nothing; a part; all of it, without what should follow; one that says that it is longer than it may be.
        sock.sendall((b"", hello[:100], hello, b"\x16\x03\x01\x40\x00\x01\x01\xff\x00" + b"x" * 16_000)[number % 4])
    assert node.request("GET", "/-/health")[0] == 200
    assert memory(worker) - before < 300 * 48 * 1024
    trickling = node.plain()
    began = time.monotonic()
    for byte in hello:
        try:
            trickling.sendall(bytes([byte]))
        except OSError:
            break
        if select.select([trickling], [], [], 0.05)[0]:
            break
    for sock in (*socks, trickling):
        sock.settimeout(PATIENCE)
        try:
            while sock.recv(65536):
                pass
        except ConnectionError:
            pass
        sock.close()
    assert time.monotonic() - began < PATIENCE / 2
    wait_for(lambda: node.metric("raiden_connections", transport="http") <= 2, "all were ended")


def test_connections_over_their_rate_are_closed_before_a_handshake(
    start_tls: Callable[..., TlsDaemon], here: str
) -> None:  # fmt: skip
    """An answer would take a handshake, which costs more than all that the limit is to save."""
    node = start_tls(store="none", rates={"connect": (0.01, 2)})
    for number in range(4):
        with socket.create_connection((node.host, node.port), PATIENCE, (here, 0)) as sock:
            if number < 2:
                with node.context.wrap_socket(sock, server_hostname=NAME) as sealed:
                    sealed.sendall(b"GET /-/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    assert sealed.recv(65536).startswith(b"HTTP/1.1 200 ")
            else:
                assert sock.recv(65536) == b"", "nothing was asked for, and nothing is said"


def test_handshakes_under_way_are_bounded_together(start_tls: Callable[..., TlsDaemon]) -> None:
    """By `max_unfinished`: more are not begun; and those that have ended make room."""
    node = start_tls(store="none", max_unfinished=1 << 20)
    hello = client_hello(node.context)
    socks = [node.plain() for _ in range(60)]
    for sock in socks:
        sock.sendall(hello)
    answered = [sock for sock in socks if first_byte(sock)]
    assert len(answered) == (1 << 20) // (48 << 10)
    for sock in socks:
        sock.close()
    wait_for(lambda: can_connect(node), "there is room again")
    for _ in range(2 * len(answered)):
        assert node.request("GET", "/-/health")[0] == 200
    assert "too many handshakes at once" in node.log()


def first_byte(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1)
    except ConnectionError:
        return b""


def can_connect(node: TlsDaemon) -> bool:
    try:
        return node.request("GET", "/-/health")[0] == 200
    except OSError:
        return False


def client_hello(context: ssl.SSLContext) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=NAME).do_handshake()
    return outgoing.read()


def test_a_client_may_not_renegotiate(node: TlsDaemon) -> None:
    said = s_client(node, "-tls1_2", given=b"R\nGET /-/health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert "no renegotiation" in said or "handshake failure" in said or "unexpected" in said, said


@pytest.mark.parametrize(("protocol", "letter"), [("-tls1_3", "K"), ("-tls1_3", "k"), ("-tls1_2", "R")])
def test_a_flood_of_messages_below_http_disturbs_nobody(node: TlsDaemon, protocol: str, letter: str) -> None:
    """Keys that are changed again and again, in TLS 1.3, and renegotiations: others are served meanwhile, and the
    answers to a client that reads none of them are bounded."""
    words = [tool("openssl"), "s_client", "-connect", f"127.0.0.1:{node.port}", "-servername", NAME, protocol]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with (
        subprocess.Popen(["yes", letter], stdout=subprocess.PIPE) as yes,
        subprocess.Popen(words, stdin=yes.stdout, **quiet) as flood,  # type: ignore[call-overload]
        Stream(node, "/a") as stream,
    ):
        worker = node.workers()["worker 0"]
        before = memory(worker)
        try:
            for number in range(200):
                node.publish("a", number)
                assert stream.value() == number
            assert memory(worker) - before < 16 << 20
        finally:
            for process in (flood, yes):
                process.kill()


def test_what_comes_by_tls_is_taken_in_order(start_tls: Callable[..., TlsDaemon]) -> None:
    node = start_tls(workers=1)
    with node.connect() as sock:
        answers_in_order(sock, 3000)


def test_a_read_without_bytes_has_taken_none(authority: Authority) -> None:
    """Else the door would look again and again for what is behind them."""
    one, other = socket.socketpair()
    with one, other, TlsSocket(other, Tls(context(*authority.issue(NAME)), lambda: None, lambda: 1 << 20)) as tls:
        one.sendall(b"\x16\x03\x01")
        for took in (3, 0):
            with pytest.raises(BlockingIOError):
                tls.recv_into(bytearray(100), 100)
            assert tls.took == took
