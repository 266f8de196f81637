"""Keys of tokens at a URL, of a server that may be slow, away, or lie."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import gevent
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from raiden.access import jwks
from raiden.access.jwks import KeysAway, KeySet, read
from raiden.access.tokens import InvalidToken, Tokens
from raiden.node import config
from tests.daemons import Daemon, wait_for
from tests.tokens import bearer

RSA = rsa.generate_private_key(65537, 2048)
EC, ED = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()


def row(private: Any, algorithm: Any, **more: Any) -> dict[str, Any]:
    return {**json.loads(algorithm.to_jwk(private.public_key())), **more}


ROWS = [
    row(RSA, RSAAlgorithm, kid="rsa", use="sig"), row(RSA, RSAAlgorithm, kid="ps", alg="PS256"),
    row(EC, ECAlgorithm, kid="ec"), row(ED, OKPAlgorithm, kid="ed"),
]  # fmt: skip
SIGNERS: dict[str, tuple[Any, str]] = {
    "rsa": (RSA, "RS256"),
    "ps": (RSA, "PS256"),
    "ec": (EC, "ES256"),
    "ed": (ED, "EdDSA"),
}


class Provider:
    """A server that answers each request as it is told."""

    def __init__(self) -> None:
        provider = self
        self.asked = 0
        self.status, self.fields, self.body = 200, dict[str, str](), json.dumps({"keys": ROWS}).encode()
        self.waits = threading.Event()
        self.waits.set()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                provider.waits.wait(30)
                self.send_response(provider.status)
                for name, value in provider.fields.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(provider.body)))
                self.end_headers()
                self.wfile.write(provider.body)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/keys"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self.waits.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@pytest.fixture
def provider() -> Iterator[Provider]:
    found = Provider()
    yield found
    found.close()


def signed(kid: str | None, **claims: Any) -> str:
    private, algorithm = SIGNERS[kid or "ed"]
    return jwt.encode({"sub": "ann", **claims}, private, algorithm, {"kid": kid} if kid else None)


def settled(keys: KeySet, kid: Any) -> list[Any]:
    """The keys, once they were fetched."""
    with gevent.Timeout(20):
        while True:
            try:
                return keys.of(kid)
            except KeysAway:
                gevent.sleep(0.01)


@pytest.mark.parametrize("kid", SIGNERS)
def test_each_kind_of_key(kid: str) -> None:
    keys = read(json.dumps({"keys": ROWS}).encode())
    verifier = Tokens([], lambda wanted: [key for key in keys if key.kid == wanted])
    assert verifier.client(signed(kid), 0.0).name == "ann"
    with pytest.raises(InvalidToken):
        verifier.client(jwt.encode({}, RSA, "RS256", {"kid": "ec"}), 0.0)


def test_keys_that_are_left_out() -> None:
    secret = {"kty": "oct", "k": "AAAA" * 20, "kid": "oct"}
    others: list[Any] = [
        secret, {**secret, "alg": "HS256"}, row(RSA, RSAAlgorithm, kid="enc", use="enc"), {"kty": "RSA", "n": "x"},
        {**ROWS[0], "alg": "none"}, {**ROWS[0], "kid": 7}, 7, None, {}, {**ROWS[2], "crv": "P-999"},
    ]  # fmt: skip
    assert [key.kid for key in read(json.dumps({"keys": [*others, *ROWS]}).encode())] == ["rsa", "ps", "ec", "ed"]


def test_a_set_is_fetched_once_and_kept_while_its_server_is_away(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = KeySet(provider.url)
    assert {key.kid for key in settled(keys, None)} == set(SIGNERS)
    assert [key.kid for key in keys.of("ec")] == ["ec"] and provider.asked == 1
    for kid in ("new", "../x", "new"):
        assert keys.of(kid) == [], "within a minute it is not asked again"
    assert provider.asked == 1
    monkeypatch.setattr(jwks, "EVERY", 0.0)
    provider.status, provider.body = 503, b""
    with pytest.raises(KeysAway):
        keys.of("new")
    assert [key.kid for key in keys.of("ec")] == ["ec"]
    wait_for(lambda: gevent.sleep(0.01) or provider.asked == 2, "it is asked")
    provider.status, provider.body = 200, json.dumps({"keys": [{**ROWS[2], "kid": "new"}]}).encode()
    with gevent.Timeout(20):
        while not any(key.kid == "new" for key in settled(keys, "new")):
            gevent.sleep(0.01)
    monkeypatch.setattr(jwks, "EVERY", 60.0)
    assert keys.of("ec") == [], "a key that was taken back is good no longer"


@pytest.mark.parametrize(
    ("status", "fields", "body"),
    [
        (500, {}, b""), (404, {}, b"{}"), (200, {}, b"nonsense"), (200, {}, b"[]"), (200, {}, b'{"keys": 1}'),
        (200, {}, b'{"keys": [' + b"{}," * 200 + b"{}]}"), (200, {}, b" " * (jwks.MAX_BYTES + 1)),
        (302, {"Location": "http://127.0.0.1:1/"}, b""), (200, {}, b"[" * 100_000),
    ],
)  # fmt: skip
def test_a_server_that_lies_is_no_worse_than_none(
    provider: Provider, status: int, fields: dict[str, str], body: bytes
) -> None:
    provider.status, provider.fields, provider.body = status, fields, body
    keys = KeySet(provider.url)
    with gevent.Timeout(20):
        while not provider.asked or keys._fetching:
            with pytest.raises(KeysAway):
                keys.of("ed")
            gevent.sleep(0.01)
    with pytest.raises(KeysAway, match="can't be fetched"):
        keys.of("ed")


@pytest.mark.parametrize("url", ["http://example.org/k", "ftp://127.0.0.1/k", "file:///etc/passwd", "https://", "k", 1])
def test_other_urls_are_refused(url: Any) -> None:
    with pytest.raises(config.ConfigError, match="https URL"):
        config.load(overrides=[f"jwt_keys = [{{'jwks': {url!r}}}]"], environ={})


def test_a_node(start: Callable[..., Daemon], provider: Provider) -> None:
    """Others are served while the keys are being fetched."""
    provider.waits.clear()
    node = start(jwt_keys=[{"jwks": provider.url}], channels={"open": {"publish": "anyone"}})
    headers = {"Content-Type": "application/json"}

    def publish(channel: str, credential: str | None) -> int:
        return node.request("POST", f"/{channel}", "1", {**headers, **bearer(credential)})[0]

    token = signed("ed", publish=["a"])
    assert publish("a", token) == 503 and publish("open", None) == 200
    provider.waits.set()
    wait_for(lambda: publish("a", token) == 200, "the keys are there")
    assert publish("b", token) == 403 and publish("a", signed(None, publish=["a"])) == 200
    assert publish("a", jwt.encode({"publish": ["a"]}, RSA, "RS256", {"kid": "none"})) == 401
    assert provider.asked == 1


def test_a_node_whose_provider_is_away(start: Callable[..., Daemon]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/"
    node = start(jwt_keys=[{"jwks": url}, {"alg": "HS256", "key": "k" * 32, "kid": "own"}])
    own = jwt.encode({"publish": ["a"]}, "k" * 32, "HS256", {"kid": "own"})
    headers = {"Content-Type": "application/json"}
    assert node.request("POST", "/a", "1", {**headers, **bearer(own)})[0] == 200
    assert node.request("POST", "/a", "1", {**headers, **bearer(signed("ed"))})[0] == 503
    wait_for(lambda: "keys of tokens were not fetched" in node.log(), "it is in the log")
