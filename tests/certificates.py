"""Certificates for tests: a root, an intermediate one that it signs, and certificates of servers and clients."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAME = "localhost"


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """An authority that signs certificates, itself signed by ``above``. ``file`` has its certificate."""

    def __init__(self, folder: Path, name: str = "root", above: Authority | None = None) -> None:
        self.folder = folder
        self.name = name
        self._above = above
        self._key = ec.generate_private_key(ec.SECP256R1())
        signer = above or self
        self.pem = signer._sign(name, self._key, authority=True).public_bytes(serialization.Encoding.PEM)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self.pem)

    def _sign(self, name: str, key: ec.EllipticCurvePrivateKey, *, authority: bool = False) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        names = [
            x509.DNSName(NAME),
            x509.DNSName("chat.example.com"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )
        return builder.sign(self._key, hashes.SHA256())

    def issue(self, name: str, *, into: str = "") -> tuple[str, str]:
        """Make a certificate of this name; return the files with its chain and with its key, which are named for
        ``into``."""
        key = ec.generate_private_key(ec.SECP256R1())
        pem = self._sign(name, key).public_bytes(serialization.Encoding.PEM)
        cert, secret = self.folder / f"{into or name}.crt", self.folder / f"{into or name}.key"
        cert.write_bytes(pem + (self.pem if self._above else b""))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return str(cert), str(secret)
