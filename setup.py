import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup

REQUIRES = [
    "gevent>=24.2",  # greenlets, and libev watchers for the connections
    "pyzmq>=26.0",  # the backbone
    "ujson>=5.10",  # reading and writing JSON fast
    "msgspec>=0.18.6",  # objects for messages, which are made in a fraction of the time
    "webob>=1.8.8",  # requests and responses
    "httptools>=0.6.4,!=0.7.0",  # parsing HTTP with llhttp
    "websockets>=14.0",  # the WebSocket handshake, inbound frames and deflate, without I/O
    "prometheus_client>=0.20",  # the metrics' text format
    "dnspython>=2.6",  # SRV records of the roster's sources
    "redis>=5.1",  # the shared store
    "pyjwt[crypto]>=2.8",  # the signatures of tokens
    "pynacl>=1.5",  # the cryptography of CURVE
]
WHEEL = [
    "mypy>=2.4",  # types, and its compiler
    "setuptools>=70.1",  # the wheel
]
TESTS = [
    *WHEEL,
    "pytest>=8.0",  # the tests' runner
    "pytest-xdist>=3.7",  # several processes that run them: they mostly wait
    "ruff>=0.6",  # style
    "standardwebhooks>=1.0",  # verifies the signatures of webhooks
    "pusher>=3.3.4",  # the clients of the dialect pusher: publishing, and
    "pysher>=1.0.8",  # subscribing
    "centrifuge-python>=0.7",  # whose suite is run against the dialect centrifuge
    "flask>=3.0",  # the application of examples/chat
    "durable-streams>=0.1.0",  # a client of the dialect streams
]
BENCH = [
    *WHEEL,
    "matplotlib>=3.9",  # the plots of docs/benchmarks.md
    "py-spy>=0.3.14",  # where a process spends its time: benchmarks/profile.py
]

# What a message passes through. `make wheel` compiles it.
COMPILED = [
    "access/clients", "access/permit", "access/policy", "access/tokens", "backbone/alone", "backbone/frames",
    "backbone/line", "backbone/nodes", "backbone/rounds", "backend", "connections/connection", "connections/door",
    "connections/pieces", "connections/states", "connections/wheel", "delivery/answers", "delivery/brought",
    "delivery/connection_ids", "delivery/deltas", "delivery/ends", "delivery/fan_out", "delivery/order",
    "delivery/orders", "delivery/pace", "delivery/prefixes", "delivery/publisher", "delivery/selection",
    "delivery/sends", "delivery/sorted_names", "delivery/table", "dialects/cable/socket", "dialects/centrifuge/socket",
    "dialects/centrifuge/stream", "dialects/pusher/refused", "dialects/pusher/socket", "dialects/socket",
    "dialects/streams/events", "dialects/streams/long_poll", "dialects/streams/polls", "gateway", "history/appending",
    "history/calls", "history/channel_row", "history/client", "history/clock", "history/file", "history/pages",
    "history/pipe", "history/server", "history/sqlite", "history/wal", "hooks/guest", "http/door", "http/ended",
    "http/plans", "http/publishing", "http/reader", "model/chain", "model/encoding", "model/payload",
    "model/strict_json", "protocols/fossil_delta", "protocols/framing", "protocols/heads", "protocols/parser",
    "protocols/unfinished", "protocols/websocket", "router", "runtime/receive", "runtime/stats", "sessions/bell",
    "sessions/commands", "sessions/consume", "sessions/durable", "sessions/in_band", "sessions/lasting",
    "sessions/multiplex", "sessions/poll", "sessions/publishing", "sessions/recovery", "sessions/replies",
    "sessions/resume", "sessions/session", "sessions/socket", "sessions/stream", "sessions/transports", "zeromq/doors",
    "zeromq/flow", "zeromq/topics",
]  # fmt: skip


def extensions() -> list[Extension]:
    # pip asks for a wheel's name and metadata before the wheel: these need nothing compiled.
    if not os.environ.get("RAIDEN_COMPILE") or {"egg_info", "dist_info"} & set(sys.argv):
        return []
    from mypyc.build import mypycify

    for left in Path("build").glob("lib*"):
        shutil.rmtree(left)  # or what an earlier build compiled would come along
    level = os.environ.get("RAIDEN_OPTIMIZE", "3")  # the C compiler's: less takes a fraction of its two minutes
    paths = [f"raiden/{name}.py" for name in COMPILED]
    made = mypycify(paths, group_name="raiden", opt_level=level, debug_level="0")
    for each in made:
        # To look for what to warn of takes longer than to compile, and so do the assertions of Python's headers, which
        # level 0 would have.
        each.extra_compile_args = [*each.extra_compile_args, "-w", "-Wno-all", "-DNDEBUG"]
    return made


setup(
    name="raiden-server",  # "raiden" is another project's package
    version=Path("raiden/__init__.py").read_text().split('"')[-2],
    description="A realtime pub/sub messaging server: publish and subscribe with curl, browsers, WebSocket and ZeroMQ",
    long_description=Path("README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["raiden", "raiden.*"]),
    package_data={"raiden": ["http/page.html", "py.typed"]},
    ext_modules=extensions(),
    install_requires=REQUIRES,
    extras_require={"wheel": WHEEL, "test": TESTS, "bench": BENCH},
    entry_points={"console_scripts": ["raiden = raiden.cli:main"]},
)
