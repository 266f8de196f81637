"""Settings: from a Python file, the environment and the command line, each overriding the one before.

`Settings` is the list of all settings: name, type, default, meaning, and whether a reload can change it in a running
node. conf/raiden.conf.py shows them all.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raiden.access.clients import clients
from raiden.access.keys import is_key
from raiden.backbone import discovery
from raiden.backbone.discovery import Address
from raiden.http import origins
from raiden.model.near import did_you_mean
from raiden.model.options import Channels, Durability
from raiden.protocols import hosts

# Variables that a container platform makes by itself for services that are called raiden, or raiden-something.
_FOREIGN = re.compile(r"RAIDEN_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)|RAIDEN_PORT")
_FOREIGN_VALUE = re.compile(r"(tcp|udp|sctp)://.*")


class ConfigError(Exception):
    """A setting is wrong; the text is one line that names the setting and says what to do."""


def _setting(default: Any, doc: str, *, reload: bool = False, least: float | None = None) -> Any:
    metadata = {"doc": doc, "reload": reload, "least": least}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def _state_directory() -> str:
    base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "raiden")


@dataclass
class Settings:
    """All settings of a node. Sizes are bytes and times are seconds unless said otherwise."""

    http_host: str = _setting("127.0.0.1", "address of the HTTP and WebSocket door")
    http_port: int = _setting(8088, "its port; 0 lets the kernel choose", least=0)
    open_to_the_world: bool = _setting(False, "allow http_host to be more than loopback: anyone may publish")
    workers: int = _setting(1, "worker processes that share the port; 0: one for each processor", least=0)
    data_dir: str = _setting(_state_directory(), "where the history, pid and log files live")
    pid_file: str | None = _setting(None, "by which stop, reload and status find it; None: raiden.pid in data_dir")
    log_file: str | None = _setting(None, "None: standard error; for 'raiden start' raiden.log in data_dir")
    log_format: str = _setting("text", "'text' for people, 'json' for machines")
    log_level: str = _setting("INFO", "DEBUG, INFO, WARNING or ERROR", reload=True)
    access_log: bool = _setting(False, "log each request; publishing and long-polls get slower by it", reload=True)
    drain_delay: float = _setting(
        0.0,
        "a node that is told to stop goes on for so long, with /-/ready at 503: balancers look elsewhere",
        least=0,
    )
    drain_timeout: float = _setting(10.0, "the rest of a stop takes no longer than this", least=0)
    drain_window: float = _setting(
        3.0, "where there are other nodes to go to, a stop spreads its clients' reconnects over this long", least=0
    )
    allowed_origins: list[str] = _setting(
        [], "pages that may use this node, like 'https://example.com'; its own always may; '*': any", reload=True
    )
    allowed_hosts: list[str] = _setting(
        [], "names in Host besides loopback's that a node on loopback answers for; on others, if set; '*': any",
        reload=True,
    )  # fmt: skip
    reserved_paths: list[str] = _setting(
        ["favicon.ico", "robots.txt", ".well-known/*", "metrics", "health", "healthz", "ready", "readyz"],
        "paths that are no channels, since browsers and probes ask for them by themselves",
        reload=True,
    )
    channel_builder: str | Callable[..., str] = _setting(
        "path", "the channel of a request: 'path', 'host_path', or a function of the webob request"
    )
    store: str = _setting("sqlite", "where history lives: 'sqlite' (in data_dir), 'redis://...', 'unix://...', 'none'")
    max_data: int = _setting(1 << 30, "of the history in data_dir; 0: no limit", least=0)
    channels: dict[str, Any] = _setting(
        {"*": {}}, "options by channel pattern, like history_size; the longest match wins"
    )
    gap_time: float = _setting(0.05, "a message that others overtook is waited for so long, then fetched", least=0)
    position_check: float = _setting(5.0, "between looks whether a channel's last messages were lost", least=0.1)
    ws_deflate: bool = _setting(True, "compress WebSocket messages for clients that offer it", reload=True)
    keepalive: float = _setting(25.0, "between pings or keep-alive lines", reload=True, least=0.5)
    max_gather: float = _setting(
        0.02, "under load, seconds that messages may wait for others to share sends with; 0: none", reload=True, least=0
    )
    max_connections: int = _setting(15_000, "per worker", reload=True, least=1)
    max_connections_per_address: int = _setting(15_000, "per worker and client address", reload=True, least=1)
    max_subscriptions: int = _setting(128, "per connection; also channels of one publish", reload=True, least=1)
    max_consumers: int = _setting(2000, "of durable subscriptions, per worker", reload=True, least=1)
    max_channels: int = _setting(100_000, "channels and patterns that a worker carries", reload=True, least=1)
    max_channel_bytes: int = _setting(
        4 << 20,
        "of the names that a worker carries; the backbones take 130 to 180 times as much",
        reload=True,
        least=255,
    )
    max_outbox: int = _setting(4 << 20, "what may wait for a slow consumer before it is closed", reload=True, least=1)
    max_body: int = _setting(1 << 20, "of a request", reload=True, least=1)
    max_batch: int = _setting(1000, "messages of a batch", reload=True, least=1)
    max_message: int = _setting(1 << 20, "of a message that goes out as JSON, wrapped", reload=True, least=4096)
    max_url: int = _setting(8192, "of a request", reload=True, least=16)
    max_header: int = _setting(16384, "of a request, names and values", reload=True, least=64)
    max_headers: int = _setting(100, "header fields of a request", reload=True, least=1)
    max_ws_message: int = _setting(1 << 20, "of a WebSocket message, counted after inflating", reload=True, least=1)
    max_unfinished: int = _setting(
        1 << 28, "of a worker's requests and messages that have not come whole, together", reload=True, least=1
    )
    max_wait: float = _setting(120.0, "a long-poll waits no longer, whatever it asks for", reload=True, least=0)
    session_window: float = _setting(
        120.0, "a WebSocket's session can be resumed for so long after it was lost", reload=True, least=1
    )
    request_timeout: float = _setting(30.0, "from a request's first byte to its last", reload=True, least=0.1)
    idle_timeout: float = _setting(75.0, "between the requests of a connection", reload=True, least=0.1)
    zmq_host: str = _setting("127.0.0.1", "address of the ZeroMQ doors; without zmq_key only this machine's")
    zmq_sub_port: int | None = _setting(None, "the door for SUB; None: closed, 0: the kernel chooses")
    zmq_push_port: int | None = _setting(None, "the door for PUSH")
    zmq_req_port: int | None = _setting(None, "the door for REQ and DEALER")
    zmq_key: str | None = _setting(None, "file with the doors' secret key, from 'raiden keygen FILE'; None: no keys")
    zmq_keys: dict[str, Any] = _setting({}, "who may come in by public key, and what each may do", reload=True)
    zmq_max_topics: int = _setting(1000, "topics of a SUB client", reload=True, least=1)
    zmq_heartbeat: float = _setting(0.0, "between messages on the topic '-/heartbeat'; 0: none", least=0)
    backbone_high_water: int = _setting(100_000, "messages that a backbone socket queues", least=1)
    backend_host: str = _setting("127.0.0.1", "address of the backbone's door, that other nodes connect to")
    backend_port: int = _setting(9989, "its port; 0 lets the kernel choose", least=0)
    open_backbone: bool = _setting(False, "allow backend_host to be more than loopback without keys")
    advertise: str | None = _setting(None, "the address that other nodes are told; None: backend_host and backend_port")
    peers: list[str] = _setting([], "'host:port' of nodes to know from the start; one is enough")
    discovery: list[str] = _setting([], "more sources of nodes: 'dns:NAME:PORT', 'srv:NAME', 'file:PATH'")
    min_peers: int = _setting(0, "nodes that must be connected before this one is ready", reload=True, least=0)
    ready_without_store: bool = _setting(
        False, "a node whose history can't be written is ready all the same (/-/ready)", reload=True
    )
    node_key: str | None = _setting(None, "file with this node's secret key, from 'raiden keygen'; None: no encryption")
    node_keys: list[str] = _setting([], "public keys of the nodes that may connect")

    def file(self, name: str) -> Path:
        """The path of the pid or log file: as set, or in data_dir."""
        told = getattr(self, f"{name}_file")
        return Path(told) if told else Path(self.data_dir) / f"raiden.{name}"

    @property
    def zmq_ports(self) -> dict[str, int]:
        """The ports of the ZeroMQ doors that are open, by the name of the door."""
        ports = {"sub": self.zmq_sub_port, "push": self.zmq_push_port, "req": self.zmq_req_port}
        return {name: port for name, port in ports.items() if port is not None}

    @property
    def routers(self) -> int:
        """The number of the node's processes with a router: its workers, and one for the ZeroMQ doors."""
        return self.workers + bool(self.zmq_ports)

    @property
    def keeps_history(self) -> bool:
        """Whether some channels have a history."""
        return self.store != "none" and any(options.keeps for options in Channels(self.channels).all())


FIELDS = {setting.name: setting for setting in dataclasses.fields(Settings)}
_TYPES = typing.get_type_hints(Settings)
ServiceBuilder = Callable[..., Any]


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
    return settings, service


def changes(old: Settings, new: Settings) -> tuple[dict[str, Any], list[str]]:
    """The settings that a reload can apply, by name, and the names of those that need a restart."""
    changed = [name for name in FIELDS if _code(getattr(old, name)) != _code(getattr(new, name))]
    can = {name: getattr(new, name) for name in changed if FIELDS[name].metadata["reload"]}
    return can, [name for name in changed if name not in can]


def _code(value: Any) -> Any:
    """The part of a value that is compared: reading a file again makes a new function of the same code."""
    return getattr(value, "__code__", value)


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
    if fits and isinstance(value, list):
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
    _check_pages(settings)
    _check_zmq(settings)
    _check_cluster(settings)
    _check_history(settings)
    if not settings.open_to_the_world and not hosts.is_loopback(settings.http_host):
        raise ConfigError(
            f"http_host = {settings.http_host!r} lets anyone who reaches this machine publish and subscribe; "
            "if that is what you want, set open_to_the_world = True"
        )


def _check_pages(settings: Settings) -> None:
    for name, check in (("allowed_origins", origins.check_allowed), ("allowed_hosts", hosts.check_allowed)):
        for entry in getattr(settings, name):
            try:
                check(entry)
            except ValueError as error:
                raise ConfigError(f"{name}: {error}") from None


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
