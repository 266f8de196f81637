"""Measure what history costs, beside what a user would pick instead: ``benchmarks/history.py [--quick] [--json FILE]``
``[--only NAME]...``. Prints tables in Markdown.

**Systems.** Raiden with one worker: without history, with SQLite (`stored`: no flush; `synced`: a flush before the
answer), and with a Redis server, in memory or flushing each append. Nchan in an nginx with one worker: without a
buffer, with its buffer in shared memory, and with that Redis server. Redis Streams alone. Where a system's program is
missing, it is skipped, and the end says what to install. All servers are the benchmark's own, on loopback, with their
files in the temporary directory: TMPDIR says on which disk that is, and the first line what a flush costs there.

**Publishing.** `load.c` POSTs messages of 128 bytes on 64 connections to 100 channels, each connection as fast as
it is answered, after a warm-up that fills the channels' 100 messages twice, so that publishing also removes. Redis
alone gets XADD from `redis-benchmark`, in the same way: 64 connections, nothing pipelined. There are no subscribers. A
message that is not accepted fails the run, and so does one that Raiden does not answer as the system says: 200 where
the channel keeps history, 202 where it does not. The client's CPU is that of `load` or `redis-benchmark`.

**Replay.** One channel that holds 10,000 or 100,000 messages is read from the earliest to the last on one connection,
again and again for some seconds: Raiden's and Nchan's HTTP stream, Redis's XRANGE. What was read is compared with what
was published. The channel was filled in NDJSON batches (Raiden), POST by POST on one connection (Nchan, which has no
batches), and in pipelines (Redis). The more messages a channel of Nchan's holds, the more it takes for each; with
Redis, which makes it slower still, it is spared the larger channel.

CPU is user and system time, by /proc, of all processes of a system, Redis's included where it is the store; Redis's
part stands beside it. Rounds have every measurement once, each with servers of its own; the tables have the medians
over the rounds, with the least and the most; a ratio is taken within a round.
"""

from __future__ import annotations

import argparse
import csv
import grp
import os
import platform
import pwd
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import redis

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.processes import SEARCHED, Target, program, server, stop_all
from benchmarks.tables import Samples, cell, print_rows, ratios
from benchmarks.tools import Failed, compile_tools, run_load, write_json
from tests.daemons import Daemon, wait_for

BYTES = 128
CONNECTIONS = 64
CHANNELS = 100
SIZE = 100  # messages that a channel keeps
TTL = 300  # seconds
REPLAYED = (10_000, 100_000)  # messages
BATCH = 1000
CHANNEL = "bench000000"  # the first of those that are published to
MARK = b"~"  # the end of each message that is replayed, and of nothing else
PATIENCE = 30.0  # seconds without anything


class Lengths(NamedTuple):
    """How long the measurements take: messages and seconds of publishing, seconds of reading, and how many messages."""

    warm_up: int
    publishing: float
    replaying: float
    replayed: Sequence[int]


class Kind(NamedTuple):
    """How a system is spoken to."""

    publish: Callable[[Target, int, float], dict[str, Any]]  # so many messages to warm up, then for so many seconds
    fill: Callable[[Target, int], None]  # with so many messages
    replay: bytes  # the request that reads the channel


class System(NamedTuple):
    name: str
    label: str
    kind: Kind
    start: Callable[[Path, int], AbstractContextManager[Target]]  # with that many messages kept
    needs: Sequence[Callable[[], str | None]]  # what say what is missing
    base: str | None = None  # the same without history
    most: int = REPLAYED[-1]  # messages that are replayed, if any


# The systems.


@contextmanager
def redis_server(folder: Path, size: int = SIZE, *, flushes: bool) -> Iterator[Target]:
    own = folder / "redis"
    own.mkdir()

    def command(port: int) -> list[str]:
        options = {"port": str(port), "bind": "127.0.0.1", "dir": str(own), "save": ""}
        # A rewrite of the file in the middle of a measurement would be another one's.
        options |= {"appendonly": "yes" if flushes else "no", "auto-aof-rewrite-percentage": "0"}
        options |= {"appendfsync": "always"}
        return [program("redis-server"), *[word for name, value in options.items() for word in (f"--{name}", value)]]

    with server(own, command) as target:
        yield target


@contextmanager
def store_of(folder: Path, store: str) -> Iterator[tuple[str, dict[str, int]]]:
    """The URL and the processes of what a system stores in: itself, or a Redis server that is started for it."""
    if not store.startswith("redis"):
        yield store, {}
        return
    with redis_server(folder, flushes=store == "redis flushing") as target:
        yield f"redis://127.0.0.1:{target.port}/0", {"redis": target.processes["server"]}


@contextmanager
def raiden(folder: Path, size: int, *, store: str, ack: str | None = None) -> Iterator[Target]:
    settings: dict[str, Any] = {"workers": 1, "keepalive": 600.0, "drain_window": 0}
    with store_of(folder, store) as (url, processes):
        settings["store"] = url
        if ack:
            settings["channels"] = {"*": {"history_size": size, "history_ttl": TTL, "ack": ack}}
        daemon = Daemon(folder / "raiden", **settings)
        try:
            yield Target(daemon.port, {"server": daemon.pid, **processes}, daemon)
        finally:
            codes = stop_all([daemon])
        if any(codes):
            raise Failed(f"the node ended with {codes}: {daemon.log()}")


@contextmanager
def nchan(folder: Path, size: int, *, store: str) -> Iterator[Target]:
    own = folder / "nginx"
    own.mkdir()
    with store_of(folder, store) as (url, processes):
        if store == "none":
            keeping = "nchan_store_messages off;"
        else:
            keeping = f"nchan_message_buffer_length {size}; nchan_message_timeout {TTL}s;"
        through = f"upstream store {{ nchan_redis_server {url}; }}" if processes else ""
        keeping += " nchan_redis_pass store;" if processes else ""

        def command(port: int) -> list[str]:
            (own / "nginx.conf").write_text(nginx_configuration(port, keeping, through))
            return [program("nginx"), "-p", str(own), "-c", "nginx.conf", "-e", "error.log"]

        with server(own, command) as target:
            if processes:
                wait_until_stored(target.port, url)
            yield Target(target.port, {**target.processes, **processes})


def wait_until_stored(port: int, url: str) -> None:
    """Nchan accepts messages, and loses them, while it is not yet connected to its Redis server."""
    with redis.Redis.from_url(url, socket_timeout=PATIENCE) as client:

        def stored() -> bool:
            post(port, "/pub/ready", msgs=1)
            return bool(client.dbsize())

        wait_for(stored, "Nchan stores messages in Redis")


def nginx_configuration(port: int, keeping: str, through: str) -> str:
    # As root, nginx's workers would become somebody who may not enter the folder.
    user, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
    folders = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return f"""
load_module {nchan_module()};
{f"user {user} {group};" if os.geteuid() == 0 else ""}
worker_processes 1;
daemon off;
pid nginx.pid;
error_log error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 300s;
    tcp_nodelay on;
    client_body_buffer_size 64k;
    {" ".join(f"{name}_temp_path {name};" for name in folders)}
    nchan_shared_memory_size 512M;
    {through}
    server {{
        listen 127.0.0.1:{port};
        location ~ ^/pub/(\\w+)$ {{ nchan_publisher; nchan_channel_id $1; {keeping} }}
        location ~ ^/sub/(\\w+)$ {{
            nchan_subscriber http-chunked; nchan_channel_id $1; {keeping}
            nchan_subscriber_first_message oldest; nchan_subscriber_timeout 0;
        }}
    }}
}}
"""


def nchan_module() -> Path | None:
    nginx = shutil.which("nginx", path=SEARCHED)
    if not nginx:
        return None
    built = subprocess.run([nginx, "-V"], capture_output=True, text=True, timeout=20, check=False).stderr
    found = re.search(r"--modules-path=(\S+)", built)
    module = Path(found.group(1) if found else "/usr/lib/nginx/modules", "ngx_nchan_module.so")
    return module if module.exists() else None


def no_nchan() -> str | None:
    return None if nchan_module() else "nginx with Nchan (on Debian: nginx-light, libnginx-mod-nchan)"


def no_redis() -> str | None:
    found = all(shutil.which(name, path=SEARCHED) for name in ("redis-server", "redis-benchmark"))
    return None if found else "redis-server and redis-benchmark (on Debian: redis-server)"


# Publishing.


def publish_by_http(
    target: Target, warm_up: int, seconds: float, *, prefix: str, expected: tuple[str, ...]
) -> dict[str, Any]:
    load: dict[str, Any] = {"pubs": CONNECTIONS, "channels": CHANNELS}
    post(target.port, prefix, msgs=warm_up, **load)
    meter = target.meter()
    result = post(target.port, prefix, seconds=seconds, **load)
    cpu = meter.taken()
    if not set(result["statuses"]) <= set(expected):
        raise Failed(f"expected were {' and '.join(expected)}, but these came: {result['statuses']}")
    latency = result["pub_ack_us"]
    return {
        "published": result["pub_ok"],
        "publishes_per_s": result["pub_per_s"],
        "p50_us": latency["p50"],
        "p99_us": latency["p99"],
        "tool_cpu_s": result["load_cpu_s"],
        "cpu": cpu,
    }


def post(port: int, prefix: str, **load: float) -> dict[str, Any]:
    """POST messages that are as those of `message`."""
    options = ["--pub", "http", "--pub-addr", f"127.0.0.1:{port}", "--pub-path", f"{prefix}{{ch}}"]
    options += ["--pub-header", "Content-Type: application/json", "--pub-body", '"{msg}{seq}~"']
    load = {"subs": 0, "size": BYTES - 12, "settle": 0, "timeout": 120, **load}
    result = run_load(*options, "--channel-prefix", CHANNEL.rstrip("0"), **load)
    if result["pub_ok"] < result["published"] or result["pub_reconnects"]:
        raise Failed(f"not all were accepted, or a connection was closed: {result}")
    return result


def publish_by_xadd(target: Target, warm_up: int, seconds: float) -> dict[str, Any]:
    """As many messages as take about so long."""
    rate = xadd(target, warm_up)["publishes_per_s"]
    meter = target.meter()
    result = xadd(target, int(rate * seconds))
    result["cpu"] = meter.taken()
    return result


def xadd(target: Target, count: int) -> dict[str, Any]:
    # It puts a random number below that of -r where __rand_int__ stands, and pipelines nothing.
    command = [program("redis-benchmark"), "-h", "127.0.0.1", "-p", str(target.port), "-c", str(CONNECTIONS)]
    command += ["-n", str(count), "-r", str(CHANNELS), "--csv", "--precision", "3"]
    command += ["XADD", "s:__rand_int__", "MAXLEN", "~", str(SIZE), "*", "payload", "." * BYTES]
    before = children_cpu()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    used = children_cpu() - before
    lines = [line for line in done.stdout.splitlines() if line.startswith('"')]
    if done.returncode or len(lines) != 2:
        raise Failed(f"redis-benchmark: {done.stdout}{done.stderr}")
    row = next(csv.DictReader(lines))
    with redis_client(target) as client:
        calls: dict[str, Any] = client.info("commandstats")["cmdstat_xadd"]
        client.config_resetstat()
    if calls["calls"] < count or calls["failed_calls"] or calls["rejected_calls"]:
        raise Failed(f"of {count} XADD, these were done: {calls}")
    return {
        "published": calls["calls"],
        "publishes_per_s": float(row["rps"]),
        "p50_us": float(row["p50_latency_ms"]) * 1000,
        "p99_us": float(row["p99_latency_ms"]) * 1000,
        "tool_cpu_s": used,
    }


def children_cpu() -> float:
    """Seconds of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def redis_client(target: Target) -> redis.Redis:
    return redis.Redis(port=target.port, socket_timeout=PATIENCE)


def measure_publishing(samples: Samples, system: System, lengths: Lengths) -> None:
    with tempfile.TemporaryDirectory(prefix="raiden-bench-") as folder, system.start(Path(folder), SIZE) as target:
        result = system.kind.publish(target, lengths.warm_up, lengths.publishing)
    case = f"{system.name} publish"
    samples[f"{case} per_s"].append(result["publishes_per_s"])
    samples[f"{case} p50_ms"].append(result["p50_us"] / 1000)
    samples[f"{case} p99_ms"].append(result["p99_us"] / 1000)
    add_cpu(samples, case, result["published"], result["cpu"])
    samples[f"{case} client_us"].append(result["tool_cpu_s"] / result["published"] * 1e6)


def add_cpu(samples: Samples, case: str, count: int, cpu: dict[str, float]) -> None:
    samples[f"{case} cpu_us"].append((cpu["server"] + cpu.get("redis", 0.0)) / count * 1e6)
    if "redis" in cpu:
        samples[f"{case} redis_us"].append(cpu["redis"] / count * 1e6)


# Replay.


def message(number: int) -> bytes:
    return b'"%b%09d~"' % (b"." * (BYTES - 12), number)


def fill_raiden(target: Target, size: int) -> None:
    assert target.daemon
    connection = target.daemon.open()
    try:
        for at in range(0, size, BATCH):
            body = b"\n".join(message(number) for number in range(at, at + BATCH))
            connection.request("POST", f"/{CHANNEL}", body, {"Content-Type": "application/x-ndjson"})
            response = connection.getresponse()
            answer = response.read()
            if response.status != 200:
                raise Failed(f"a batch was answered {response.status}: {answer[:200]!r}")
    finally:
        connection.close()


def fill_nchan(target: Target, size: int) -> None:
    post(target.port, "/pub/", msgs=size)


def fill_redis(target: Target, size: int) -> None:
    with redis_client(target) as client:
        for at in range(0, size, BATCH):
            pipeline = client.pipeline(transaction=False)
            for number in range(at, at + BATCH):
                pipeline.xadd(CHANNEL, {"payload": message(number)}, maxlen=size, approximate=True)
            pipeline.execute()


def replay(port: int, request: bytes, size: int) -> tuple[bytes, float]:
    """All that came until the last of so many messages had come, and how long that took."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        parts: list[bytes] = []
        count, started = 0, time.monotonic()
        connection.sendall(request)
        while count < size:
            data = connection.recv(1 << 18)
            if not data:
                raise Failed(f"the connection was closed after {count} messages: {b''.join(parts)[:200]!r}")
            parts.append(data)
            count += data.count(MARK)
        return b"".join(parts), time.monotonic() - started


def check_replay(data: bytes, size: int) -> None:
    if data.startswith(b"HTTP/"):
        head, _, data = data.partition(b"\r\n\r\n")
        if b"\r\ntransfer-encoding: chunked" in head.lower():
            data = whole_chunks(data)
    numbers = [int(number) for number in re.findall(rb"\.(\d{9})~", data)]
    if numbers != list(range(size)):
        raise Failed(f"what was read is not what was published: {len(numbers)} messages, the first are {numbers[:3]}")


def whole_chunks(data: bytes) -> bytes:
    """A body without its chunks' sizes (RFC 9112 section 7.1), of which the last may have been read in part."""
    parts, at, end = [], 0, data.rindex(MARK) + 1
    while at < end:
        start = data.index(b"\r\n", at) + 2
        size = int(data[at:start], 16)
        parts.append(data[start : min(start + size, end)])
        at = start + size + 2
    return b"".join(parts)


def measure_replay(samples: Samples, system: System, lengths: Lengths, size: int) -> None:
    case = f"{system.name} replay {size}"
    with tempfile.TemporaryDirectory(prefix="raiden-bench-") as folder, system.start(Path(folder), size) as target:
        started = time.monotonic()
        system.kind.fill(target, size)
        samples[f"{case} filled_per_s"].append(size / (time.monotonic() - started))
        read: list[bytes] = []
        meter, seconds = target.meter(), 0.0
        while seconds < lengths.replaying and len(read) < 50:
            data, took = replay(target.port, system.kind.replay, size)
            seconds += took
            read.append(data)
        cpu = meter.taken()
    for data in read:
        check_replay(data, size)
    count = size * len(read)
    samples[f"{case} per_s"].append(count / seconds)
    samples[f"{case} client_us"].append(cpu["client"] / count * 1e6)
    add_cpu(samples, case, count, cpu)


# What is compared.


def get(path: str, *fields: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *fields, "", "")).encode()


def raiden_kind(expected: str) -> Kind:
    publish = partial(publish_by_http, prefix="/", expected=(expected,))
    return Kind(publish, fill_raiden, get(f"/{CHANNEL}?_since=earliest"))


RAIDEN, RAIDEN_WITHOUT = raiden_kind("200"), raiden_kind("202")
# 201: somebody got it; 202: nobody was there.
NCHAN = Kind(
    partial(publish_by_http, prefix="/pub/", expected=("201", "202")),
    fill_nchan,
    get(f"/sub/{CHANNEL}", "TE: chunked"),
)
REDIS = Kind(publish_by_xadd, fill_redis, f"XRANGE {CHANNEL} - +\r\n".encode())

SQLITE_STORED = partial(raiden, store="sqlite", ack="stored")
SQLITE_SYNCED = partial(raiden, store="sqlite", ack="synced")
REDIS_MEMORY = partial(raiden, store="redis", ack="shared")
REDIS_ALWAYS = partial(raiden, store="redis flushing", ack="shared")
NCHAN_REDIS = partial(nchan, store="redis")
REDIS_ALONE = partial(redis_server, flushes=False)
REDIS_ALONE_ALWAYS = partial(redis_server, flushes=True)
SYSTEMS = (
    System("raiden", "Raiden, no history", RAIDEN_WITHOUT, partial(raiden, store="none"), (), most=0),
    System("raiden-stored", "Raiden, SQLite, `stored`", RAIDEN, SQLITE_STORED, (), "raiden"),
    System("raiden-synced", "Raiden, SQLite, `synced`", RAIDEN, SQLITE_SYNCED, (), "raiden", 0),
    System("raiden-redis", "Raiden, Redis in memory", RAIDEN, REDIS_MEMORY, (no_redis,), "raiden"),
    System("raiden-redis-always", "Raiden, Redis, `always`", RAIDEN, REDIS_ALWAYS, (no_redis,), "raiden", 0),
    System("nchan", "Nchan, no buffer", NCHAN, partial(nchan, store="none"), (no_nchan,), most=0),
    System("nchan-memory", "Nchan, memory", NCHAN, partial(nchan, store="memory"), (no_nchan,), "nchan"),
    System("nchan-redis", "Nchan, Redis in memory", NCHAN, NCHAN_REDIS, (no_nchan, no_redis), "nchan", REPLAYED[0]),
    System("redis", "Redis alone, in memory", REDIS, REDIS_ALONE, (no_redis,)),
    System("redis-always", "Redis alone, `always`", REDIS, REDIS_ALONE_ALWAYS, (no_redis,), None, 0),
)


def plan(samples: Samples, systems: Sequence[System], lengths: Lengths) -> Iterator[tuple[str, Callable[[], None]]]:
    """The measurements of a round."""
    for system in systems:
        yield f"{system.label}, publishing", partial(measure_publishing, samples, system, lengths)
    for size in lengths.replayed:
        for system in systems:
            if size <= system.most:
                yield f"{system.label}, replay of {size:,}", partial(measure_replay, samples, system, lengths, size)


def measure_disk(samples: Samples, seconds: float) -> None:
    """The limit of what flushes: 4 KB appended to a file and flushed, one after the other."""
    with tempfile.TemporaryFile() as file:
        block, took, until = bytes(4096), [], time.monotonic() + seconds
        while time.monotonic() < until:
            started = time.monotonic()
            os.write(file.fileno(), block)
            os.fdatasync(file.fileno())
            took.append(time.monotonic() - started)
    samples["disk flush_us"].append(sum(took) / len(took) * 1e6)


# Tables.


def print_publishing(samples: Samples, systems: Sequence[System]) -> None:
    print(f"\n## Publishing {BYTES} bytes on {CONNECTIONS} connections to {CHANNELS} channels\n")
    rows = []
    for system in systems:
        case = f"{system.name} publish"
        row = [system.label, cell(samples[f"{case} per_s"], "{:,.0f}")]
        row += [cell(samples[f"{case} {what}"], "{:.1f}") for what in ("p50_ms", "p99_ms")]
        row += [cell_or_not(samples, f"{case} {what}") for what in ("cpu_us", "redis_us", "client_us")]
        for what in ("per_s", "cpu_us"):
            base = f"{system.base} publish {what}"
            row.append(cell(ratios(samples, f"{case} {what}", base), "{:.2f}") if base in samples else "-")
        rows.append(row)
    print_rows(
        (
            "",
            "publishes/s",
            "latency p50, ms",
            "p99, ms",
            "CPU us/publish",
            "of that Redis",
            "client",
            "publishes/s, to no history's",
            "CPU, to no history's",
        ),
        rows,
    )


def print_replay(samples: Samples, systems: Sequence[System], sizes: Sequence[int]) -> None:
    print(f"\n## Replay of messages of {BYTES} bytes\n")
    rows = []
    for size in sizes:
        for system in systems:
            case = f"{system.name} replay {size}"
            if f"{case} per_s" in samples:
                row = [f"{system.label}: {size:,}", cell(samples[f"{case} per_s"], "{:,.0f}")]
                row += [cell_or_not(samples, f"{case} {what}") for what in ("cpu_us", "redis_us", "client_us")]
                rows.append([*row, cell(samples[f"{case} filled_per_s"], "{:,.0f}")])
    print_rows(("", "messages/s", "CPU us/message", "of that Redis", "client", "filled, messages/s"), rows)


def cell_or_not(samples: Samples, name: str) -> str:
    return cell(samples[name], "{:.2f}") if name in samples else "-"


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what history costs on this machine.")
    parser.add_argument("--quick", action="store_true", help="one short round: does it work, roughly how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    names = [system.name for system in SYSTEMS]
    parser.add_argument(
        "--only", action="append", choices=names, metavar="NAME", help=f"measure only these: {', '.join(names)}"
    )
    arguments = parser.parse_args()
    lengths = (
        Lengths(CHANNELS * SIZE, 1.0, 0.2, REPLAYED[:1])
        if arguments.quick
        else Lengths(2 * CHANNELS * SIZE, 5.0, 2.0, REPLAYED)
    )
    rounds = 1 if arguments.quick else 3
    asked = [system for system in SYSTEMS if not arguments.only or system.name in arguments.only]
    missing = {system.label: [why for need in system.needs if (why := need())] for system in asked}
    systems = [system for system in asked if not missing[system.label]]
    samples: Samples = defaultdict(list)
    # So that what was started is ended then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        compile_tools("load")
        for number in range(1, rounds + 1):
            measure_disk(samples, lengths.publishing / 5)
            for doing, measure in plan(samples, systems, lengths):
                print(f"\r\033[Kround {number} of {rounds}: {doing} ", end="", file=sys.stderr, flush=True)
                try:
                    measure()
                except (Failed, AssertionError, subprocess.SubprocessError, redis.RedisError, OSError) as error:
                    raise Failed(f"{doing}: {str(error) or type(error).__name__}") from error
    except (Failed, subprocess.SubprocessError, OSError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print("\r\033[K", end="", file=sys.stderr)
    if arguments.json:
        write_json(arguments.json, quick=arguments.quick, samples=samples)
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}; {rounds} rounds; ", end="")
    print(f"in {tempfile.gettempdir()} a flush takes {cell(samples['disk flush_us'], '{:,.0f}')} us")
    print_publishing(samples, systems)
    print_replay(samples, systems, lengths.replayed)
    for label, needed in missing.items():
        if needed:
            print(f"\n{label} was not measured: it needs {' and '.join(needed)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
