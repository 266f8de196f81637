"""The modules' layers, read from their source: no cycles, and pure modules know nothing of sockets."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PURE = [
    "model.message", "model.names", "model.encoding", "model.filters", "model.options", "model.payload", "model.fields",
    "model.charsets", "model.chain", "model.page", "model.strict_json", "model.near", "model.refusals",
    "backbone.addresses", "backbone.frames", "backbone.roster",
    "sessions.in_band", "http", "websocket", "stats", "history.store", "order", "asks", "reader",
    "parameters", "sessions.commands", "hosts", "curve", "zmtp", "auth", "topics", "table", "prefixes", "sorted_names",
    "brought", "selection", "accept", "reserved", "page", "channel_builders",
]  # fmt: skip


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in (ROOT / "raiden").rglob("*.py")}


def imports(module: str) -> set[str]:
    """The full names of what a module imports anywhere in it; modules of the package as modules."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{module}: imports are absolute here"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = names & MODULES.keys()
            # `from raiden import config` needs only config; `from raiden import __version__` needs raiden itself.
            found |= modules | ({node.module} if names - modules else set())
    return found


GRAPH = {module: imports(module) for module in MODULES}


def test_the_graph_is_the_packages() -> None:
    assert {f"raiden.{name}" for name in PURE} <= MODULES.keys()
    assert "raiden.gateway" in GRAPH["raiden.worker"] and "gevent" in GRAPH["raiden.http_door"]


def test_no_cycles() -> None:
    inside = {module: needs & MODULES.keys() for module, needs in GRAPH.items()}
    order = list(TopologicalSorter(inside).static_order())  # raises CycleError, which names the cycle
    assert set(order) == MODULES.keys()


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_know_no_sockets(name: str) -> None:
    todo, reached = [f"raiden.{name}"], set[str]()
    while todo:
        module = todo.pop()
        if module not in reached:
            reached.add(module)
            todo += GRAPH[module] & MODULES.keys()
    for module in reached:
        assert not {needed.partition(".")[0] for needed in GRAPH[module]} & {"gevent", "zmq", "socket"}, module


@pytest.mark.parametrize("gateway", ["raiden.gateway", "raiden.zmq_gateway"])
def test_only_workers_use_a_gateway(gateway: str) -> None:
    users = {module for module, needs in GRAPH.items() if any(f"{n}.".startswith(f"{gateway}.") for n in needs)}
    assert users == {"raiden.worker"}


def test_a_node_imports_nothing_large_that_it_may_not_need() -> None:
    """Each of its processes would have that in its memory, and each start would take a third longer."""
    large = ("asyncio", "redis", "zmq.auth")
    code = f"import sys, raiden.cli; print([name for name in {large} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
