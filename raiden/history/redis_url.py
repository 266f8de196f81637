"""URLs of Redis servers, read and checked without connecting.

``redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/SERVICE/DB`` names Sentinels (port 26379 if none is said), which
are asked for the service's master whenever a connection begins. User and password are the master's; the Sentinels must
ask for none, and there is no TLS by way of them.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

FORMS = (
    "redis://HOST:PORT/DB, rediss://HOST:PORT/DB for TLS, unix:///PATH?db=DB, or"
    " redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB, with USER:PASSWORD@ before the host where it is needed"
)
SENTINEL_PORT = 26379


def clients(url: str, timeout: float) -> list[redis.Redis]:
    """The client of the server, and those of its Sentinels; ``timeout`` seconds bound connecting and each answer.
    Raises ValueError where the URL has none of the `FORMS`, without telling what may be a password."""
    options = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),  # redis-py would send an append again that may have been done
        "protocol": 2,  # where a server wants a password, its answer to the other one's greeting does not say so
    }
    try:
        found = _by_sentinels(url, options) if url.startswith("redis+sentinel://") else [_direct(url, options)]
        pool = found[0].connection_pool
        if len(found) == 1:
            pool.connection_class(**pool.connection_kwargs)  # only this finds unknown options
    except (ValueError, TypeError, redis.RedisError):
        scheme = url.partition("://")[0] if "://" in url else ""
        raise ValueError(f"this {scheme or 'text'} is no URL of a Redis server: write {FORMS}") from None
    return found


def without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _direct(url: str, options: dict[str, Any]) -> redis.Redis:
    parts = urlsplit(url)
    database = parts.path[1:]
    if parts.scheme == "unix":
        if not database or parts.hostname:
            raise ValueError
    elif parts.port == 0 or (database and not database.isdecimal()):  # asking for a bad port raises it, too
        raise ValueError
    return redis.Redis.from_url(url, **options)


def _by_sentinels(url: str, options: dict[str, Any]) -> list[redis.Redis]:
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    service, _, database = parts.path[1:].partition("/")
    if not service or parts.query or parts.fragment or (database and not database.isdecimal()):
        raise ValueError
    sentinels = []
    for host in hosts.split(","):
        address = urlsplit(f"//{host}")
        if not address.hostname or address.port == 0:
            raise ValueError
        sentinels.append((address.hostname, address.port or SENTINEL_PORT))
    manager = Sentinel(sentinels, sentinel_kwargs=options, **options)
    login = {"username": unquote(user) or None, "password": unquote(password) or None}
    return [manager.master_for(unquote(service), db=int(database or 0), **login), *manager.sentinels]
