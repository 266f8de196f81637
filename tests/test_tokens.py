"""Tokens: what is accepted, and each way in which one may be bad, which is refused with the reason."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from raiden.access.clients import Patterns
from raiden.access.permit import Permits
from raiden.access.policy import Policy
from raiden.access.tokens import MAX_TOKEN, EarlyToken, ExpiredToken, InvalidToken, Key, Tokens
from tests.tokens import OTHER, SECRET

NOW = 1_000_000_000.0
HS = {"alg": "HS256", "key": SECRET}


def public(private: Any) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    pem: bytes = private.public_key().public_bytes(serialization.Encoding.PEM, form)
    return pem.decode()


RSA, EC, ED = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1()), None
ED = ed25519.Ed25519PrivateKey.generate()
EC384, EC521 = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP521R1())
SIGNERS: dict[str, tuple[Any, str]] = {
    "HS256": (SECRET, SECRET), "HS384": (2 * SECRET, 2 * SECRET), "HS512": (2 * SECRET, 2 * SECRET),
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256"), (RSA, public(RSA))),
    "ES256": (EC, public(EC)), "ES384": (EC384, public(EC384)), "ES512": (EC521, public(EC521)),
    "EdDSA": (ED, public(ED)),
}  # fmt: skip


def tokens(*keys: Any, **options: Any) -> Tokens:
    return Tokens([Key.of(key) for key in keys or [HS]], **options)


def signed(claims: Any, secret: Any = SECRET, algorithm: str = "HS256", **head: Any) -> str:
    return jwt.encode(claims, secret, algorithm, head or None)


def raw(head: bytes, claims: bytes, secret: str = SECRET) -> str:
    """A token with these very bytes, well signed."""
    data = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (head, claims))
    signature = Key.of({"alg": "HS256", "key": secret})
    made = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(data, signature.key)
    return (data + b"." + base64.urlsafe_b64encode(made).rstrip(b"=")).decode()


HEAD = b'{"alg":"HS256","typ":"JWT"}'


def why(token: str, verifier: Tokens | None = None) -> str:
    with pytest.raises(InvalidToken) as refused:
        (verifier or tokens()).client(token, NOW)
    assert refused.value.status == 401 and refused.value.bad
    assert SECRET not in refused.value.detail
    return refused.value.detail


# What is accepted.


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_each_algorithm(algorithm: str, tmp_path: Path) -> None:
    private, known = SIGNERS[algorithm]
    token = signed({"sub": "ann", "publish": ["a"]}, private, algorithm)
    (tmp_path / "key").write_text(known + "\n")
    for key in ({"alg": algorithm, "key": known}, {"alg": algorithm, "file": str(tmp_path / "key")}):
        client = tokens(key).client(token, NOW)
        assert (client.name, client.subject, client.may("publish")) == ("ann", "ann", Patterns.of(["a"]))
    assert "signature" in why(token[:-6] + "AAAAAA", tokens({"alg": algorithm, "key": known}))


def test_claims() -> None:
    client = tokens().client(
        signed({"sub": "ann", "jti": "7", "exp": NOW + 5, "info": {"a": 1}, "subscribe": ["me.{sub}", "news.*"]}), NOW
    )
    assert (client.id, client.expires, client.info) == ("7", NOW + 5 + 10, {"a": 1})
    assert client.may("subscribe") == client.may("history") == Patterns.of(["me.ann", "news.*"])
    assert client.may("publish") == client.may("manage") == Patterns.of([])
    assert tokens().client(signed({"subscribe": ["a"], "history": []}), NOW).may("history") == Patterns.of([])


def test_keys_by_their_kid() -> None:
    rotating = tokens({**HS, "kid": "old"}, {"alg": "HS256", "key": OTHER, "kid": "new"})
    for secret, kid in ((SECRET, "old"), (OTHER, "new")):
        assert rotating.client(signed({"sub": kid}, secret, kid=kid), NOW).name == kid
        assert rotating.client(signed({"sub": kid}, secret), NOW).name == kid, "without a kid, all are tried"
    assert "signature" in why(signed({}, OTHER, kid="old"), rotating)
    for kid in ("other", "../../etc/passwd", "https://evil.example/key", "' OR 1=1", ""):
        assert "no key has that" in why(signed({}, kid=kid), rotating)


def test_times() -> None:
    for claims, good in (
        ({"exp": NOW + 1}, True), ({"exp": NOW - 9}, True), ({"exp": NOW - 10}, False), ({"exp": NOW - 11}, False),
        ({"nbf": NOW - 1}, True), ({"nbf": NOW + 10}, True), ({"nbf": NOW + 11}, False),
    ):  # fmt: skip
        if good:
            tokens().client(signed(claims), NOW)
        else:
            assert "time" in why(signed(claims))
    assert "over" in why(signed({"exp": NOW - 1}), tokens(leeway=0.0))
    for claims, kind in (({"exp": NOW - 99}, ExpiredToken), ({"nbf": NOW + 99}, EarlyToken)):
        assert tokens().claims(signed(claims)) == claims
        with pytest.raises(kind):
            tokens().check(claims, NOW)


def test_a_token_ends_in_time() -> None:
    verifier, token = tokens(leeway=0.0), signed({"exp": NOW + 5})
    assert verifier.client(token, NOW) == verifier.client(token, NOW + 4)
    with pytest.raises(InvalidToken):
        verifier.client(token, NOW + 5)


def test_permits_are_remembered_within_bounds_and_until_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    permits = Permits(Policy({}, guarded=True), tokens(leeway=0.0))
    lasting, short = signed({"sub": "ann", "exp": now + 600}), signed({"sub": "ann", "exp": now + 60})
    assert permits.of(lasting) is permits.of(lasting) is not permits.of(short)
    monkeypatch.setattr("raiden.access.permit.time.time", lambda: now + 61)
    with pytest.raises(InvalidToken, match="over"):
        permits.of(short)
    first = permits.of(lasting)
    monkeypatch.setattr("raiden.access.permit.REMEMBERED_BYTES", 2 * len(lasting))
    for number in range(5):
        permits.of(signed({"sub": str(number)}))
    assert permits.of(lasting) is not first


def test_audience_and_issuer() -> None:
    verifier = tokens(audience="raiden", issuer="shop")
    for audience in ("raiden", ["other", "raiden"]):
        verifier.client(signed({"aud": audience, "iss": "shop"}), NOW)
    for claims in (
        {"iss": "shop"},
        {"aud": "other", "iss": "shop"},
        {"aud": [], "iss": "shop"},
        {"aud": {"raiden": 1}},
    ):
        assert "audience" in why(signed(claims), verifier)
    for claims in ({"aud": "raiden"}, {"aud": "raiden", "iss": "other"}):
        assert "issuer" in why(signed(claims), verifier)
    tokens().client(signed({"aud": "anything", "iss": "anything"}), NOW)


# What is not.


def unsigned(head: Any, claims: Any, signature: str = "") -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (head, claims)]
    return ".".join([*parts, signature])


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None, 1, ["HS256"], "HS1", "A128KW"])
def test_an_algorithm_that_is_none(algorithm: Any) -> None:
    for signature in ("", "AAAA"):
        assert "algorithm" in why(unsigned({"alg": algorithm}, {"sub": "admin"}, signature))


def test_a_public_key_is_no_secret() -> None:
    """A token that is signed by HMAC with the bytes of a public key, which everybody has (RFC 8725 section 2.1)."""
    pem = public(RSA)
    data = unsigned({"alg": "HS256"}, {"sub": "admin"}).rstrip(".").encode()
    made = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(data, pem.encode())
    forged = f"{data.decode()}.{base64.urlsafe_b64encode(made).rstrip(b'=').decode()}"
    assert "no such key is for that" in why(forged, tokens({"alg": "RS256", "key": pem}))
    with pytest.raises(ValueError, match="not a public key"):
        Key.of({"alg": "HS256", "key": pem})


@pytest.mark.parametrize("name", ["crit", "jku", "jwk", "x5u", "x5c", "b64", "zip"])
def test_a_head_that_brings_its_own_key_or_more(name: str) -> None:
    assert name in why(unsigned({"alg": "HS256", name: ["exp"]}, {}, "AAAA"))


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "...", "a.b", "a.b.c", "a.b.c.d", "ä.ö.ü", "a b.c.d", "=.=.=", "\0.\0.\0", "null.null.null",
     base64.urlsafe_b64encode(b"[]").decode().rstrip("=") + ".e30.AAAA"],
)  # fmt: skip
def test_what_is_no_token(token: str) -> None:
    assert "not accepted" in why(token)


def test_a_token_that_is_too_large_or_too_deep() -> None:
    assert f"may have {MAX_TOKEN}" in why(signed({"sub": "a", "info": "x" * 100_000}))
    deep = b'{"info":' + b"[" * 1500 + b"]" * 1500 + b"}"
    assert "no JSON object" in why(raw(HEAD, deep))
    begin = time.process_time()
    for _ in range(100):
        why("a" * 100_000 + ".a.a")
    assert time.process_time() - begin < 10


@pytest.mark.parametrize(
    "claims",
    [b'{"sub":"a","sub":"b"}', b'{"publish":[],"publish":["*"]}', b'{"info":{"a":1,"a":2}}', b"[1]", b"1", b"", b"{",
     b'{"exp":NaN}', b'{"sub":"\xff"}', b"\xef\xbb\xbf{}"],
)  # fmt: skip
def test_claims_that_are_no_json_object_or_come_twice(claims: bytes) -> None:
    assert "no JSON object" in why(raw(HEAD, claims))
    assert "its head" in why(raw(HEAD[:-1] + b',"alg":"HS256"}', b"{}"))


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"exp": "soon"}, "exp is no time"), ({"exp": True}, "exp is no time"), ({"exp": 1e300}, "exp is no time"),
        ({"exp": []}, "exp is no time"), ({"nbf": "x"}, "nbf is no time"), ({"sub": 1}, "sub is no string"),
        ({"sub": ""}, "sub is no string"), ({"sub": "x" * 256}, "sub is no string"), ({"jti": []}, "jti is no string"),
        ({"sub": "\ud800"}, "sub is no string"), ({"info": "x" * 5000}, "info has more"),
        ({"publish": "*"}, "publish is no list"), ({"publish": {"a": 1}}, "publish is no list"),
        ({"publish": [1]}, "no text"), ({"publish": ["-/x"]}, "no channel"), ({"publish": [""]}, "no channel"),
        ({"publish": ["a\n"]}, "no channel"), ({"sub": "*", "publish": ["me.{sub}"]}, "make a pattern"),
        ({"sub": "a*", "publish": ["{sub}"]}, "make a pattern"),
    ],
)  # fmt: skip
def test_claims_that_mean_nothing(claims: Any, said: str) -> None:
    assert said in why(signed(claims))


def test_a_subject_makes_no_wider_name() -> None:
    client = tokens().client(signed({"sub": "b.*.c", "publish": ["a.{sub}"]}), NOW)
    assert client.may("publish").allows("a.b.*.c") and not client.may("publish").allows("a.b.x.c")


# Keys.


def wrong(options: Any) -> str:
    with pytest.raises(ValueError) as error:
        Key.of(options)
    assert "too short a secret" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("HS256", "each is a dict"), ({}, "alg is one of"), ({"alg": "none", "key": "x"}, "alg is one of"),
        ({"alg": "HS256"}, "as key, or the path"), ({"alg": "HS256", "key": "x", "file": "y"}, "as key, or the path"),
        ({"alg": "HS256", "key": "too short a secret"}, "has 18 bytes, and needs 32"),
        ({"alg": "HS512", "key": SECRET}, "needs 64"), ({"alg": "HS256", "key": 1}, "key is a string"),
        ({"alg": "HS256", "key": ""}, "key is a string"), ({**HS, "kdi": "a"}, "unknown option 'kdi'"),
        ({**HS, "kid": 1}, "kid is a string"), ({"alg": "RS256", "key": SECRET}, "public key in PEM"),
        ({"alg": "ES256", "key": public(RSA)}, "public key in PEM"), ({"alg": "EdDSA", "file": "/none"}, "cannot read"),
        ({"alg": "EdDSA", "key": "-----BEGIN PRIVATE KEY-----"}, "is private: 'openssl pkey"),
    ],
)  # fmt: skip
def test_keys_that_are_wrong(options: Any, said: str) -> None:
    assert said in wrong(options)


def test_a_weak_key_must_be_wanted() -> None:
    weak = {"alg": "HS256", "key": "weak", "weak": True}
    assert tokens(weak).client(signed({"sub": "a"}, "weak"), NOW).name == "a"
    assert wrong({**weak, "weak": 1})
