"""The list of all settings: name, type, default, meaning, and whether a reload can change it in a running node.

conf/raiden.conf.py shows them all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raiden.model.options import Channels

ServiceBuilder = Callable[..., Any]
"""An application's function that builds its services."""


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
    control_host: str = _setting("127.0.0.1", "address of the port for those who look after the node")
    control_port: int | None = _setting(
        None,
        "its port, which alone serves /-/metrics, /-/channels and the like then; None: http_port does",
    )
    http_redirect_port: int | None = _setting(None, "a port of http_host that leads to https; None: none")
    open_to_the_world: bool = _setting(False, "allow http_host to be more than loopback: anyone may publish")
    workers: int = _setting(1, "worker processes that share the port; 0: one for each processor", least=0)
    data_dir: str = _setting(_state_directory(), "where the history, pid and log files live")
    pid_file: str | None = _setting(None, "by which stop, reload and status find it; None: raiden.pid in data_dir")
    log_file: str | None = _setting(None, "None: standard error; for 'raiden start' raiden.log in data_dir")
    log_format: str = _setting("text", "'text' for people, 'json' for machines")
    log_level: str = _setting("INFO", "DEBUG, INFO, WARNING or ERROR", reload=True)
    access_log: bool = _setting(False, "log each request; publishing and long-polls get slower by it", reload=True)
    audit_log: str | None = _setting(
        None, "file of refusals and of what managers did; 'log': the ordinary log, None: nowhere", reload=True
    )
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
    tls_cert: str | None = _setting(
        None, "file with the certificate and its chain, in PEM; the HTTP door speaks TLS then; None: it does not",
        reload=True,
    )  # fmt: skip
    tls_key: str | None = _setting(None, "file with the certificate's key; None: it is in tls_cert", reload=True)
    tls_client_ca: str | None = _setting(
        None, "file with the certificates that sign those of clients; None: clients need none", reload=True
    )
    tls_client_required: bool = _setting(True, "with tls_client_ca: whether a client must show one", reload=True)
    trusted_proxies: list[str] = _setting(
        [], "networks of proxies that tell the client's address, like '10.0.0.0/8'; of others nothing is believed",
        reload=True,
    )  # fmt: skip
    proxy_header: str = _setting(
        "X-Forwarded-For", "the field in which they tell it: 'X-Forwarded-For' or 'Forwarded'", reload=True
    )
    proxy_protocol: list[str] = _setting(
        [], "ports, of 'http_port' and 'http_redirect_port', to which trusted proxies connect by the PROXY protocol"
    )
    reserved_paths: list[str] = _setting(
        ["favicon.ico", "robots.txt", ".well-known/*", "metrics", "health", "healthz", "ready", "readyz"],
        "paths that are no channels, since browsers and probes ask for them by themselves",
        reload=True,
    )
    dialects: list[str] = _setting([], "protocols of other servers that are spoken too: see docs/dialects.md")
    cable_path: str = _setting("/cable", "the path of Action Cable's clients")
    cable_secret: str | list[str] = _setting(
        [], "signs streams and tokens, and gives the broadcast key; several: old ones are good, too", reload=True
    )
    cable_streams_secret: str | list[str] = _setting([], "signs streams, instead of cable_secret", reload=True)
    cable_turbo_secret: str | list[str] = _setting([], "signs streams of Turbo; else the one of streams", reload=True)
    cable_cableready_secret: str | list[str] = _setting(
        [], "signs streams of CableReady; else the one of streams", reload=True
    )
    cable_jwt_secret: str | list[str] = _setting([], "signs tokens, instead of cable_secret", reload=True)
    cable_broadcast_key: str | list[str] = _setting(
        [], "by which the application publishes, instead of one of cable_secret", reload=True
    )
    cable_token_required: bool = _setting(False, "clients of Action Cable need a token", reload=True)
    cable_token_param: str = _setting("jid", "the query parameter with it; with X- before it, the field", reload=True)
    cable_public: bool = _setting(
        False, "streams need no signature; whispers and presence on those without one", reload=True
    )
    cable_whispers: bool = _setting(False, "whispers and presence on signed streams, too", reload=True)
    cable_sessions: float = _setting(
        300.0, "a client that was lost can come back to its streams for so long; 0: not", reload=True, least=0
    )
    cable_pong_timeout: float = _setting(
        0.0, "a client that answers pings, and stops to, is closed after so long; 0: it is not", reload=True, least=0
    )
    streams_prefix: str = _setting("", "begins the names of channels that are streams: see docs/dialects/streams.md")
    streams_poll: float = _setting(25.0, "seconds: a long-poll of a stream waits no longer", reload=True, least=0)
    streams_sse: float = _setting(
        60.0, "seconds after which an event stream of the dialect streams ends; 0: never", reload=True, least=0
    )
    centrifuge_anonymous: bool = _setting(False, "whether a Centrifuge client may connect without a token")
    centrifuge_subscribers: list[str] = _setting(
        [], "what a Centrifuge client may do to a channel that it is subscribed to: 'publish', 'history', 'presence'"
    )
    centrifuge_presence: bool = _setting(True, "whether Centrifuge clients may ask who is at a channel")
    centrifuge_join_leave: bool = _setting(False, "tell them who joins and leaves a channel, asked or not")
    centrifuge_personal: bool = _setting(False, "subscribe a Centrifuge client to the channel '#USER' of its token")
    centrifuge_delta: bool = _setting(True, "whether Centrifuge clients that ask for deltas get them")
    centrifuge_api_key: str | None = _setting(None, "the key of Centrifugo's server API; None: there is no such API")
    pusher_apps: list[Any] = _setting(
        [], "apps of the dialect pusher, like {'id': '1', 'key': '...', 'secret': '...'}: see docs/dialects/pusher.md"
    )
    pusher_path: str = _setting("", "the beginning of the paths of the dialect pusher, like '/ws'")
    pusher_max_watched: int = _setting(5000, "users that a worker watches for Pusher clients' watchlists", least=0)
    channel_builder: str | Callable[..., str] = _setting(
        "path", "the channel of a request: 'path', 'host_path', or a function of the webob request"
    )
    jwt_keys: list[Any] = _setting([], "keys that sign tokens, like {'alg': 'HS256', 'key': '...'}", reload=True)
    jwt_audience: str | None = _setting(None, "the audience that a token must be for; None: any", reload=True)
    jwt_issuer: str | None = _setting(None, "the issuer that a token must be of; None: any", reload=True)
    jwt_leeway: float = _setting(10.0, "by which clocks may differ: a token's times are taken so", reload=True, least=0)
    token_cookie: str | None = _setting(None, "the cookie that may hold a browser's token; None: none", reload=True)
    api_keys: list[Any] = _setting(
        [], "keys of servers, like {'name': 'shop', 'sha256': '...', 'publish': ['*']}, from 'raiden key'", reload=True
    )
    rates: dict[str, Any] = _setting(
        {}, "how much a client may do, a second and at once, like {'publish': (100, 200)}; {}: no limit", reload=True
    )
    webhooks: list[Any] = _setting(
        [], "endpoints that are told of events, like {'url': 'https://...', 'secret': 'whsec_...', 'events': [...]}",
        reload=True,
    )  # fmt: skip
    webhook_attempts: int = _setting(50, "to send an event, which is given up then", reload=True, least=1)
    webhook_queue: int = _setting(100_000, "events that may wait for an endpoint", reload=True, least=1)
    webhook_settle: float = _setting(
        3.0, "for which a channel must have no subscribers to be told as vacated", reload=True, least=0
    )
    delegate: object | None = _setting(
        None, "the application decides what tokens don't: {'url': 'https://...'}, or an object; None: nobody asks it",
        reload=True,
    )  # fmt: skip
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
    max_streams: int = _setting(1000, "publishes of a worker's clients that are streaming", reload=True, least=1)
    max_requests: int = _setting(
        10_000, "open requests of a worker's clients, which servers answer", reload=True, least=1
    )
    max_presence: int = _setting(
        1000, "members of a channel that presence lists; of more only the number", reload=True, least=0
    )
    presence_linger: float = _setting(
        5.0, "a member that has left a channel may come back for so long before others are told", reload=True, least=0
    )
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
    stream_timeout: float = _setting(120.0, "without a byte of a streaming publish", reload=True, least=0.1)
    zmq_host: str = _setting("127.0.0.1", "address of the ZeroMQ doors; without zmq_key only this machine's")
    zmq_sub_port: int | None = _setting(None, "the door for SUB; None: closed, 0: the kernel chooses")
    zmq_push_port: int | None = _setting(None, "the door for PUSH")
    zmq_req_port: int | None = _setting(None, "the door for REQ and DEALER")
    zmq_key: str | None = _setting(None, "file with the doors' secret key, from 'raiden keygen FILE'; None: no keys")
    zmq_keys: dict[str, Any] = _setting({}, "who may come in by public key, and what each may do", reload=True)
    zmq_max_topics: int = _setting(1000, "topics of a SUB client, channels that a DEALER serves", reload=True, least=1)
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
    def http_ports(self) -> list[tuple[str, str, int]]:
        """The ports of the HTTP doors that are open: the names of their settings, those of their hosts without
        ``_host``, and the ports."""
        ports = (
            ("http_port", "http", self.http_port), ("control_port", "control", self.control_port),
            ("http_redirect_port", "http", self.http_redirect_port),
        )  # fmt: skip
        return [(name, kind, port) for name, kind, port in ports if port is not None]

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
    def has_webhooks(self) -> bool:
        """Whether there are webhooks, of the node or of apps of the dialect pusher."""
        apps = self.pusher_apps if "pusher" in self.dialects else []
        return bool(self.webhooks) or any([isinstance(app, dict) and app.get("webhooks") for app in apps])

    @property
    def keeps_history(self) -> bool:
        """Whether there is a store: for channels that have a history, or for webhooks."""
        kept = self.has_webhooks or any(options.keeps for options in Channels(self.channels).all())
        return self.store != "none" and kept
