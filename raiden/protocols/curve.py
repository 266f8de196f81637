"""CURVE without sockets, the server's half: a ZeroMQ client proves its key, and messages are sealed (RFC 26, CurveZMQ).

The handshake is HELLO, WELCOME, INITIATE, READY; then each frame of each message is a box of its own. The keys, and the
RFC's names for the public and the secret one:

    ============  =====  ==========================================================================
    server key    S, s   for years; the client has S beforehand, and so knows the server
    client key    C, c   for years; the server's list has C, and so knows the client
    short keys    S', s' made for this connection; with them gone, what was recorded of it can't be
                  C', c' opened any more, whoever has the keys above
    ============  =====  ==========================================================================

HELLO shows that the client has S and c'; WELCOME brings S'. INITIATE shows that the client has c, by a vouch for C'
that only the owner of s' can open. All that follows is sealed between C' and S'. A nonce never comes twice with a key:
those of WELCOME, the cookie and the vouch are random, all others are numbers that grow.
"""

from __future__ import annotations

from base64 import b85encode
from collections.abc import Callable

from nacl.bindings import (
    crypto_box_afternm,
    crypto_box_beforenm,
    crypto_box_keypair,
    crypto_box_open_afternm,
    crypto_scalarmult_base,
    crypto_secretbox,
    randombytes,
)
from nacl.exceptions import CryptoError

MORE, COMMAND = 1, 2  # a message's flags

_HELLO = b"\5HELLO"
_HELLO_BYTES = 200
_VERSION = b"\1\0" + bytes(72)  # with HELLO's padding, which keeps WELCOME from being longer than what it answers
_INITIATE = b"\x08INITIATE"
_MIN_INITIATE_BYTES = 257
_MESSAGE = b"\7MESSAGE"

_Z85 = bytes.maketrans(  # from Python's digits of base 85 to those of RFC 32
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~",
    b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#",
)


class InvalidHandshake(Exception):
    """The client's bytes are not CURVE, or were forged; the text says why. The connection is of no use any more."""


class Refused(InvalidHandshake):
    """The client is who it says it is, but its key is not listed."""


class Curve:
    """CURVE on one connection. The first exception ends its handshake for good; nothing is opened before the handshake
    is complete."""

    __slots__ = (
        "_allows", "_client", "_cookie", "_expected", "_metadata", "_public", "_received", "_secret", "_sent",
        "_shared", "_short_public", "_short_secret", "key",
    )  # fmt: skip

    # Bytes that `seal` adds: the command's name, a nonce, the box's proof, the flags.
    ADDS = len(_MESSAGE) + 8 + 16 + 1

    def __init__(self, secret: bytes, metadata: bytes, allows: Callable[[bytes], bool]) -> None:
        """``secret`` is the server's key, 32 bytes; ``metadata`` is READY's, encoded; ``allows`` tells whether a client
        with this public key, as Z85, may come in."""
        self._secret, self._public = secret, crypto_scalarmult_base(secret)
        self._short_public, self._short_secret = crypto_box_keypair()
        self._metadata = metadata
        self._allows = allows
        self._expected = _HELLO
        self._client = b""  # its short public key
        self._cookie = b""
        self._shared = b""  # the key that seals this connection's messages
        self._received = bytes(8)  # the latest nonce; big endian, so that bytes compare as numbers
        self._sent = 1  # READY's nonce; messages count on from there
        self.key = b""
        """The client's public key in Z85, once INITIATE was accepted."""

    def handshake(self, command: bytes) -> tuple[bytes, bytes | None]:
        """Answer a client's command: HELLO with WELCOME and None, INITIATE with READY and the client's metadata.
        Raises InvalidHandshake, or Refused."""
        expected, self._expected = self._expected, b""  # nothing is tried twice
        if not expected:
            raise InvalidHandshake("a handshake's command came after its end")
        if not command.startswith(expected):
            raise InvalidHandshake(f"{command[:9]!r} came where {expected[1:].decode()} was expected")
        if expected == _HELLO:
            return self._welcome(command), None
        return self._ready(command)

    def _welcome(self, hello: bytes) -> bytes:
        if len(hello) != _HELLO_BYTES:
            raise InvalidHandshake(f"HELLO has {len(hello)} bytes, not {_HELLO_BYTES}")
        if hello[6:80] != _VERSION:
            raise InvalidHandshake("HELLO is not of version 1.0, or its padding is not zeros")
        client, nonce, box = hello[80:112], hello[112:120], hello[120:]
        try:
            shared = crypto_box_beforenm(client, self._secret)
            proof = crypto_box_open_afternm(box, b"CurveZMQHELLO---" + nonce, shared)
        except CryptoError:
            raise InvalidHandshake("HELLO can't be opened: the client expects a server with another key") from None
        if proof != bytes(64):
            raise InvalidHandshake("HELLO's box holds something else than zeros")
        # Only a server without state would have to open the cookie again: here its key is gone at once.
        nonce = randombytes(16)
        sealed = crypto_secretbox(client + self._short_secret, b"COOKIE--" + nonce, randombytes(32))
        self._client, self._cookie = client, nonce + sealed
        self._expected = _INITIATE
        nonce = randombytes(16)
        box = crypto_box_afternm(self._short_public + self._cookie, b"WELCOME-" + nonce, shared)
        return b"\7WELCOME" + nonce + box

    def _ready(self, initiate: bytes) -> tuple[bytes, bytes]:
        if len(initiate) < _MIN_INITIATE_BYTES:
            raise InvalidHandshake(f"INITIATE has {len(initiate)} bytes, at least {_MIN_INITIATE_BYTES} are needed")
        if initiate[9:105] != self._cookie:
            raise InvalidHandshake("INITIATE brings another cookie than WELCOME gave")
        nonce, box = initiate[105:113], initiate[113:]
        try:
            shared = crypto_box_beforenm(self._client, self._short_secret)
            plain = crypto_box_open_afternm(box, b"CurveZMQINITIATE" + nonce, shared)
            public, vouch_nonce, vouch, metadata = plain[:32], plain[32:48], plain[48:128], plain[128:]
            vouching = crypto_box_beforenm(public, self._short_secret)
            vouched = crypto_box_open_afternm(vouch, b"VOUCH---" + vouch_nonce, vouching)
        except CryptoError:
            raise InvalidHandshake("INITIATE can't be opened") from None
        if vouched != self._client + self._public:
            raise InvalidHandshake("INITIATE vouches for another client or another server")
        key = b85encode(public).translate(_Z85)
        if not self._allows(key):
            raise Refused(f"the client's key is not listed: {key.decode()}")
        self.key, self._shared, self._received = key, shared, nonce
        nonce = self._sent.to_bytes(8, "big")
        box = crypto_box_afternm(self._metadata, b"CurveZMQREADY---" + nonce, shared)
        return b"\5READY" + nonce + box, metadata

    def open(self, body: bytes) -> tuple[int, bytes]:
        """The flags (MORE, COMMAND) and the content of a frame that came after the handshake. Raises InvalidHandshake
        for a frame that is forged, truncated, or not newer than those before."""
        nonce = body[8:16]
        if not body.startswith(_MESSAGE) or nonce <= self._received:
            raise InvalidHandshake("what came is no MESSAGE, or one from before: a nonce must grow")
        try:
            plain = crypto_box_open_afternm(body[16:], b"CurveZMQMESSAGEC" + nonce, self._shared)
        except CryptoError:
            raise InvalidHandshake("a MESSAGE can't be opened") from None
        if not plain:
            raise InvalidHandshake("a MESSAGE has no flags")
        self._received = nonce
        return plain[0] & (MORE | COMMAND), plain[1:]

    def seal(self, flags: int, content: bytes) -> bytes:
        """Return the body of a frame, which must be the next one that is sent. Only after the handshake."""
        self._sent += 1
        nonce = self._sent.to_bytes(8, "big")
        box = crypto_box_afternm(b"%c%b" % (flags, content), b"CurveZMQMESSAGES" + nonce, self._shared)
        return _MESSAGE + nonce + box
