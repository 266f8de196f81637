"""``raiden token``: make a token, or check one."""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import Any

import gevent

from raiden.access import jwks
from raiden.access.tokens import HMAC, InvalidToken
from raiden.model.options import ACTIONS
from raiden.node import permits
from raiden.node.config import ConfigError
from raiden.node.settings import Settings

HELP = "make a token with the first secret of jwt_keys, or check one"


def add_arguments(parser: ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    make = actions.add_parser("make", help="make a token, for trying things out", description="Make a token.")
    make.add_argument("sub", metavar="SUBJECT", help="who the token is for")
    make.add_argument("--ttl", type=float, default=3600.0, metavar="SECONDS", help="how long it lasts (3600)")
    make.add_argument(
        "--info", type=_json, metavar="JSON", help='what others are shown of its subject, like \'{"color": "red"}\''
    )
    for action in ACTIONS:
        make.add_argument(
            f"--{action}", action="append", metavar="CHANNEL", help=f"a channel or pattern for {action}; repeatable"
        )
    check = actions.add_parser("check", help="say what a token permits, or why it is refused")
    check.add_argument("token", metavar="TOKEN", help="the token; -: it is read from standard input")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise ArgumentTypeError(f'{text!r} is not JSON, like \'{{"color": "red"}}\'') from None


def command(settings: Settings, options: Namespace) -> int:
    return _make(settings, options) if options.action == "make" else _check(settings, options.token)


def _make(settings: Settings, options: Namespace) -> int:
    keys = [key for key in permits.keys(settings) if key.algorithm in HMAC]
    if not keys:
        raise ConfigError("jwt_keys has no secret, like {'alg': 'HS256', 'key': '...'}: only its owner can sign")
    import jwt  # as in `raiden.access.tokens`, only where there are keys

    now = int(time.time())
    claims: dict[str, Any] = {"sub": options.sub, "iat": now, "exp": now + int(options.ttl)}
    claims |= {"aud": settings.jwt_audience} if settings.jwt_audience else {}
    claims |= {"iss": settings.jwt_issuer} if settings.jwt_issuer else {}
    claims |= {} if options.info is None else {"info": options.info}
    claims |= {action: listed for action in ACTIONS if (listed := getattr(options, action))}
    print(jwt.encode(claims, keys[0].key, keys[0].algorithm, {"kid": keys[0].kid} if keys[0].kid else None))
    return 0


def _check(settings: Settings, token: str) -> int:
    token = sys.stdin.read().strip() if token == "-" else token
    known = permits.of(settings)
    until = time.monotonic() + jwks.TIMEOUT
    while True:
        try:
            client = known.of(token).client
            break
        except InvalidToken as error:
            print(f"raiden: {error}", file=sys.stderr)
            return 1
        except jwks.KeysAway as error:
            if time.monotonic() > until:
                print(f"raiden: {error}", file=sys.stderr)
                return 1
            gevent.sleep(0.05)
    told: dict[str, Any] = {"client": client.name}
    if client.expires is not None:
        told["expires_in"] = round(client.expires - time.time())
    if client.info is not None:
        told["info"] = client.info
    for action, patterns in client.permissions.items():
        told[action] = [*[f"{prefix}*" for prefix in patterns.prefixes], *sorted(patterns.names)]
    for action, entries in client.filtered.items():
        told[action] = told.get(action, []) + [
            {"channel": channel, "filters": filters.values()} for channel, filters in entries
        ]
    print(json.dumps(told, indent=2))
    return 0
