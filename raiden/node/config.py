"""Reading settings: from a Python file, the environment and the command line, each overriding the one before."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raiden.access.clients import clients
from raiden.access.keys import is_key
from raiden.access.rates import limits
from raiden.backbone import discovery
from raiden.backbone.discovery import Address
from raiden.connections import tls
from raiden.dialects.cable import config as cable
from raiden.dialects.centrifuge import rules as centrifuge
from raiden.dialects.streams import config as streams
from raiden.http import origins
from raiden.model.near import did_you_mean
from raiden.model.options import Channels, Durability
from raiden.node import dialect_names, permits, pusher, webhooks
from raiden.node.settings import ServiceBuilder, Settings
from raiden.protocols import hosts
from raiden.protocols.proxies import Proxies

# Variables that a container platform makes by itself for services that are called raiden, or raiden-something.
_FOREIGN = re.compile(r"RAIDEN_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)|RAIDEN_PORT")
_FOREIGN_VALUE = re.compile(r"(tcp|udp|sctp)://.*")


class ConfigError(Exception):
    """A setting is wrong; the text is one line that names the setting and says what to do."""


FIELDS = {setting.name: setting for setting in dataclasses.fields(Settings)}
_TYPES = typing.get_type_hints(Settings)
# Lists whose items are more than strings.
_MIXED = ("jwt_keys", "api_keys", "webhooks", "pusher_apps")


def load(
    path: str | None = None, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> tuple[Settings, ServiceBuilder | None]:
    """Read the settings and the file's ``service`` function, if it has one; raises ConfigError."""
    values: dict[str, Any] = {}
    service: ServiceBuilder | None = None
    if path is not None:
        values, service = _read_file(path)
    for variable, text in (os.environ if environ is None else environ).items():
        foreign = _FOREIGN.fullmatch(variable) or _FOREIGN_VALUE.fullmatch(text)
        if variable.startswith("RAIDEN_") and not foreign:
            name = _known(variable[len("RAIDEN_") :].lower(), variable)
            values[name] = _parse(name, text, variable)
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"-X {override!r}: write it as -X 'name = value'")
        name = _known(name.strip(), "-X")
        values[name] = _parse(name, text.strip(), "-X")
    settings = Settings()
    for name, value in values.items():
        setattr(settings, name, _checked(name, value))
    settings.workers = settings.workers or len(os.sched_getaffinity(0))
    _check_together(settings)
    settings.channels = pusher.channels(settings)
    return settings, service


def changes(old: Settings, new: Settings) -> tuple[dict[str, Any], list[str]]:
    """The settings that a reload can apply, by name, and the names of those that need a restart."""
    changed = [name for name in FIELDS if _code(getattr(old, name)) != _code(getattr(new, name))]
    can = {
        name: getattr(new, name) for name in changed if FIELDS[name].metadata["reload"] and _can_be_told(old, new, name)
    }
    return can, [name for name in changed if name not in can]


def _can_be_told(old: Settings, new: Settings, name: str) -> bool:
    """Whether running workers can be told of a setting's change: an object of the file's own is theirs from the
    start."""
    return name != "delegate" or not (_is_object(old.delegate) or _is_object(new.delegate))


def _is_object(value: Any) -> bool:
    return value is not None and not isinstance(value, Mapping)


def _code(value: Any) -> Any:
    """The part of a value that is compared: reading a file again makes a new function of the same code, and a new
    object of a class with the same methods."""
    if value is None or isinstance(value, str | bytes | int | float | list | tuple | dict):
        return value
    if hasattr(value, "__code__"):
        return value.__code__
    methods = {name: _code(each) for name, each in vars(type(value)).items() if hasattr(each, "__code__")}
    return type(value).__qualname__, methods, getattr(value, "__dict__", {})


def _read_file(path: str) -> tuple[dict[str, Any], ServiceBuilder | None]:
    try:
        tree = ast.parse(Path(path).read_text(), path)
        namespace: dict[str, Any] = {"__file__": path, "__name__": "raiden_config"}
        exec(compile(tree, path, "exec"), namespace)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read it: {error.strerror}") from None
    except SyntaxError as error:
        raise ConfigError(f"{path}:{error.lineno}: {error.msg}") from None
    except (Exception, SystemExit) as error:  # the file is the user's own program
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from None
    for line in tree.body:
        if isinstance(line, ast.Expr) and isinstance(line.value, ast.Dict | ast.Set | ast.Tuple | ast.Compare):
            raise ConfigError(f"{path}:{line.lineno}: this sets nothing: write each setting as name = value")
    service = namespace.pop("service", None)
    if service is not None and not callable(service):
        raise ConfigError(f"{path}: service must be a function")
    values = {}
    for name, value in namespace.items():
        is_helper = name.startswith("_") or inspect.ismodule(value) or (callable(value) and name not in FIELDS)
        if not is_helper:
            values[_known(name, path, in_file=True)] = value
    return values, service


def _known(name: str, where: str, *, in_file: bool = False) -> str:
    if name in FIELDS:
        return name
    hint = did_you_mean(name, FIELDS, "; conf/raiden.conf.py lists all")
    if in_file:
        hint += " (let names of your own begin with '_')"
    raise ConfigError(f"{where}: unknown setting {name!r}{hint}")


def _parse(name: str, text: str, where: str) -> Any:
    """Parse a Python literal; for a setting that is a string, also the bare text, and for a list of strings, also these
    with commas between them."""
    is_string, is_list = str in _kinds(name), list in _kinds(name)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        if is_string:
            return text
        if is_list and not text.startswith("["):
            return [item.strip() for item in text.split(",") if item.strip()]
        raise ConfigError(f"{where}: {name} = {text}: not a Python literal") from None
    if is_list and not isinstance(value, list):
        # To Python "a", "b" is a tuple, and a bare text that looks like a number is one, like 1.
        return list(value) if isinstance(value, tuple) else [value if isinstance(value, str) else text]
    return text if is_string and type(value) in (int, float) else value


def _kinds(name: str) -> tuple[Any, ...]:
    hint = _TYPES[name]
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return tuple(typing.get_origin(kind) or kind for kind in kinds)


def _checked(name: str, value: Any) -> Any:
    kinds = _kinds(name)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    fits = (isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)) or (
        callable(value) and len(kinds) > 1
    )
    if fits and isinstance(value, list) and name not in _MIXED:
        fits = all(isinstance(item, str) for item in value)
    if not fits:
        wanted = " or ".join("None" if kind is types.NoneType else kind.__name__ for kind in kinds)
        raise ConfigError(f"{name} must be {wanted}, not {value!r}")
    least = FIELDS[name].metadata["least"]
    if least is not None and value < least:
        raise ConfigError(f"{name} must be at least {least}, not {value!r}")
    return value


def _check_together(settings: Settings) -> None:
    if settings.log_format not in ("text", "json"):
        raise ConfigError(f"log_format must be 'text' or 'json', not {settings.log_format!r}")
    if settings.log_level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ConfigError(f"log_level must be DEBUG, INFO, WARNING or ERROR, not {settings.log_level!r}")
    if settings.http_port > 65535:
        raise ConfigError(f"http_port must be at most 65535, not {settings.http_port}")
    if isinstance(settings.channel_builder, str) and settings.channel_builder not in ("path", "host_path"):
        raise ConfigError("channel_builder must be 'path', 'host_path' or a function")
    if settings.drain_window > settings.drain_timeout and settings.drain_window != Settings.drain_window:
        raise ConfigError(
            f"drain_window = {settings.drain_window:g} must be at most drain_timeout = {settings.drain_timeout:g}: "
            "a stop that takes no longer can't spread reconnects over more"
        )
    try:
        limits(settings.rates)
    except ValueError as error:
        raise ConfigError(f"rates: {error}") from None
    _check_pages(settings)
    _check_tls(settings)
    _check_ports(settings)
    _check_zmq(settings)
    _check_cluster(settings)
    _check_history(settings)
    try:
        permits.check(settings)
        webhooks.check(settings)
        dialect_names.check(settings.dialects)
        cable.check(settings)
        centrifuge.check(settings)
        pusher.check(settings)
        streams.check(settings)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if (
        permits.policy(settings).has_open
        and not settings.open_to_the_world
        and (name := min(_open_hosts(settings), default=None)) is not None
    ):
        raise ConfigError(
            f"{name} = {getattr(settings, name)!r} lets anyone who reaches this machine do what channels are open for; "
            "set jwt_keys or api_keys; or, if that is what you want, set open_to_the_world = True"
        )


def warnings(settings: Settings) -> list[str]:
    """What an operator should know at each start."""
    kinds: tuple[Callable[[Settings], list[str]], ...] = (
        permits.warnings, dialect_names.warnings, cable.warnings, centrifuge.warnings
    )  # fmt: skip
    return [warning for kind in kinds for warning in kind(settings)]


def _open_hosts(settings: Settings) -> list[str]:
    """The names of the settings by which others than this machine reach the HTTP doors."""
    names = ["http_host"] if settings.control_port is None else ["http_host", "control_host"]
    return [name for name in names if not hosts.is_loopback(getattr(settings, name))]


def _check_pages(settings: Settings) -> None:
    for name, check in (("allowed_origins", origins.check_allowed), ("allowed_hosts", hosts.check_allowed)):
        for entry in getattr(settings, name):
            try:
                check(entry)
            except ValueError as error:
                raise ConfigError(f"{name}: {error}") from None
    try:
        Proxies(settings.trusted_proxies, settings.proxy_header)
    except ValueError as error:
        raise ConfigError(f"trusted_proxies, proxy_header: {error}") from None


def _check_ports(settings: Settings) -> None:
    for name in ("control_port", "http_redirect_port"):
        if not 0 <= (getattr(settings, name) or 0) <= 65535:
            raise ConfigError(f"{name} must be from 0 to 65535, not {getattr(settings, name)}")
    if settings.control_port and (settings.control_host, settings.control_port) == (
        settings.http_host, settings.http_port
    ):  # fmt: skip
        raise ConfigError(f"control_port = {settings.control_port} is the http_port, too: set another port")
    if settings.http_redirect_port is not None and settings.tls_cert is None:
        raise ConfigError("http_redirect_port leads to https, which http_port speaks with tls_cert: set tls_cert")
    for name in settings.proxy_protocol:
        if name not in ("http_port", "http_redirect_port"):
            raise ConfigError(f"proxy_protocol: {name!r} is no port: list 'http_port' or 'http_redirect_port', or both")
    if settings.proxy_protocol and not settings.trusted_proxies:
        raise ConfigError("proxy_protocol without trusted_proxies would let nobody in: set trusted_proxies")


def _check_tls(settings: Settings) -> None:
    if settings.tls_cert is None:
        for name in ("tls_key", "tls_client_ca"):
            if getattr(settings, name) is not None:
                raise ConfigError(f"{name} without tls_cert: set tls_cert, the file with the certificate")
        return
    try:
        tls.context(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    except tls.InvalidCertificate as error:
        raise ConfigError(str(error)) from None


def _check_zmq(settings: Settings) -> None:
    for name, port in settings.zmq_ports.items():
        if not 0 <= port <= 65535:
            raise ConfigError(f"zmq_{name}_port must be from 0 to 65535, not {port}")
    for key in settings.zmq_keys:
        if not isinstance(key, str) or not is_key(key.encode()):
            raise ConfigError(f"zmq_keys: {key!r} is no key: list the public keys that 'raiden keygen' printed")
    try:
        clients(settings.zmq_keys)
    except ValueError as error:
        raise ConfigError(f"zmq_keys: {error}") from None
    if settings.zmq_keys and not settings.zmq_key:
        raise ConfigError("zmq_keys without zmq_key: make the doors' key with 'raiden keygen FILE' and set zmq_key")
    if settings.zmq_ports and not settings.zmq_key and not hosts.is_loopback(settings.zmq_host):
        raise ConfigError(
            f"zmq_host = {settings.zmq_host!r} without keys lets anyone who reaches it publish and subscribe: set "
            "zmq_key and zmq_keys ('raiden keygen FILE' makes keys)"
        )


def _check_cluster(settings: Settings) -> None:
    if settings.backend_port > 65535:
        raise ConfigError(f"backend_port must be at most 65535, not {settings.backend_port}")
    try:
        for address in (*settings.peers, *([settings.advertise] if settings.advertise else [])):
            Address.parse(address)
        for source in settings.discovery:
            discovery.source(source, default_port=settings.backend_port or 1)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for key in settings.node_keys:
        if not is_key(key.encode()):
            raise ConfigError(f"node_keys: {key!r} is no key: list the public keys that 'raiden keygen' printed")
    if settings.node_keys and not settings.node_key:
        raise ConfigError("node_keys without node_key: make this node's key with 'raiden keygen' and set node_key")
    if not (settings.node_key or settings.open_backbone or hosts.is_loopback(settings.backend_host)):
        raise ConfigError(
            f"backend_host = {settings.backend_host!r} without keys lets anyone who reaches it read all and be a node: "
            "set node_key and node_keys ('raiden keygen' makes keys), or in a trusted network open_backbone = True"
        )
    if settings.backend_host in ("0.0.0.0", "::") and not settings.advertise:
        raise ConfigError(
            f"backend_host = {settings.backend_host!r} is nothing to connect to: set advertise, 'host:port'"
        )


def _check_history(settings: Settings) -> None:
    try:
        options = [found for found in Channels(settings.channels).all() if found.keeps]
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if settings.store not in ("sqlite", "none"):
        from raiden.history.redis import Redis  # its library takes long to import, and only this store needs it

        try:
            Redis(settings.store).close()
        except ValueError as error:
            raise ConfigError(f"store must be 'sqlite', 'none' or a URL: {error}") from None
    if not settings.keeps_history:
        return
    asked = {found.durability for found in options}
    if settings.store != "sqlite":
        if Durability.SYNCED in asked:
            raise ConfigError(
                "channels: ack = 'synced' is the promise of store = 'sqlite'; what a Redis server survives is its own "
                "configuration (appendfsync always): set ack = 'shared'"
            )
    elif Durability.SHARED in asked:
        raise ConfigError("channels: ack = 'shared' needs a store that nodes share: set store = 'redis://...'")
    elif settings.peers or settings.discovery:
        raise ConfigError(
            "the channels of a cluster can keep history only in a store that its nodes share: set store = "
            "'redis://host:port/0', or store = 'none' for a cluster without history"
        )
