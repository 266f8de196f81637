"""URLs of an application, as settings name them. Pure."""

from __future__ import annotations

from urllib.parse import urlsplit

from raiden.protocols.hosts import is_loopback


class Target:
    """A URL taken apart. ``insecure``: it may be http to another machine than this one. Raises ValueError, which says
    how to write it."""

    def __init__(self, url: object, *, insecure: bool = False) -> None:
        if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("url is a text like 'https://app.example/raiden', of ASCII characters")
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.is_secure = parts.scheme == "https"
        if parts.scheme not in ("https", "http") or not self.host or "@" in parts.netloc:
            raise ValueError("url is like 'https://app.example/raiden', without a name and a password")
        if not (self.is_secure or insecure or is_loopback(self.host)):
            raise ValueError("url is https, or http on this machine; 'insecure': True allows http elsewhere")
        self.port = parts.port or (443 if self.is_secure else 80)
        self.path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.authority = parts.netloc
