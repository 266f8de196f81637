"""The layers of docs/architecture.md, held against the source: no import runs up, there is no circle, and what is pure
knows nothing of sockets."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs/architecture.md").read_text()
LISTED = re.search(r"<!-- layers -->\n(.*?)<!-- end of layers -->", TEXT, re.DOTALL)
assert LISTED is not None
# From top to bottom: folders, and modules that stand by themselves.
LAYERS = [name.removesuffix("/").removesuffix(".py") for name in re.findall(r"(?m)^\| `([^`]+)`", LISTED[1])]
FILES = [
    (file, what)
    for files, what in re.findall(r"(?m)^\| (`[a-z_]+/[^|]*\.py`) \| (.*) \|$", TEXT)
    for file in re.findall(r"`([^`]+)`", files)
]
PURE = sorted({file for file, what in FILES if re.search(r"\bpure$", what)})
# These belong to no layer: the version, the command, and a name that configurations import.
OUTSIDE = {"raiden", "raiden.__main__", "raiden.service"}
IMPURE = {"gevent", "zmq", "socket", "selectors", "asyncio"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in (ROOT / "raiden").rglob("*.py")}


def imports(source: str) -> set[str]:
    """The full names of what a module imports anywhere in it; modules of the package as modules."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute here"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = names & MODULES.keys()
            # `from raiden.node import config` needs only config; `from raiden import __version__` needs raiden itself.
            found |= modules | ({node.module} if names - modules else set())
    return found


@functools.cache
def graph() -> dict[str, set[str]]:
    """What each module imports. To read it takes a second, which each process that runs tests would take for itself."""
    return {module: imports(path.read_text()) for module, path in MODULES.items()}


def layer(module: str) -> int:
    """Its place in the list, from the top."""
    return LAYERS.index(module.split(".")[1])


def upward(module: str, needs: Iterable[str]) -> list[str]:
    """What a module imports from a layer above its own."""
    return [each for each in needs if each in MODULES.keys() - OUTSIDE and layer(each) < layer(module)]


def test_all_folders_and_files_are_listed() -> None:
    folders = {name.split(".")[1] for name in MODULES.keys() - OUTSIDE}
    assert sorted(folders) == sorted(LAYERS)
    files = {path.relative_to(ROOT / "raiden").as_posix() for path in MODULES.values() if path.name != "__init__.py"}
    described = {file for file in files if "/" in file and not file.startswith("cli/")}
    assert sorted(file for file, _ in FILES) == sorted(described)


def test_no_file_has_more_than_one_concept() -> None:
    """What grows over 400 lines is to be split."""
    long = {module: size for module, path in MODULES.items() if (size := path.read_text().count("\n")) > 400}
    assert not long


@pytest.mark.parametrize("module", sorted(MODULES.keys() - OUTSIDE))
def test_no_import_runs_up(module: str) -> None:
    assert not upward(module, graph()[module])


def test_an_import_that_runs_up_is_found() -> None:
    assert upward("raiden.model.message", imports("from raiden.sessions import poll")) == ["raiden.sessions.poll"]
    assert upward("raiden.backend", imports("from raiden.router import Router")) == ["raiden.router"]
    assert not upward("raiden.router", imports("from raiden.model.message import Message\nimport gevent"))


def test_no_circle() -> None:
    inside = {module: needs & MODULES.keys() for module, needs in graph().items()}
    order = list(TopologicalSorter(inside).static_order())  # raises CycleError, which names the circle
    assert set(order) == MODULES.keys()


def bases(source: str) -> set[tuple[str, str]]:
    """The classes that are a base of one in a module, as it imports them: module and name."""
    tree = ast.parse(source)
    imported = {
        alias.asname or alias.name: (node.module or "", alias.name)
        for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }  # fmt: skip
    found = [base.id for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
             for base in node.bases if isinstance(base, ast.Name)]  # fmt: skip
    return {imported[name] for name in found if name in imported}


def test_a_class_with_a_compiled_base_is_compiled() -> None:
    """The compiled server could not load another one."""
    listed = re.search(r"COMPILED = \[(.*?)\]  # fmt", (ROOT / "setup.py").read_text(), re.DOTALL)
    assert listed is not None
    compiled = {"raiden." + name.replace("/", ".") for name in re.findall(r'"([^"]+)"', listed[1])}
    assert compiled <= MODULES.keys()
    for module in MODULES.keys() - compiled:
        source = MODULES[module].read_text()
        found = {base for base in bases(source) if base[0] in compiled and not is_plain(*base)}
        assert not found, f"{module} is to be in COMPILED: {found}"


def is_plain(module: str, name: str) -> bool:
    """Whether a class may be the base of any: a protocol, a tuple of fields, what is no class of the module."""
    for node in ast.parse(MODULES[module].read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return any(isinstance(base, ast.Name) and base.id in ("Protocol", "NamedTuple") for base in node.bases)
    return True


def reached(module: str) -> set[str]:
    """What a module imports, and what that imports."""
    todo, found = [module], set[str]()
    while todo:
        each = todo.pop()
        if each not in found:
            found.add(each)
            todo += graph()[each] & MODULES.keys()
    return found


@pytest.mark.parametrize("file", PURE)
def test_what_is_pure_knows_no_sockets(file: str) -> None:
    for module in reached(module_name(ROOT / "raiden" / file)):
        assert not {needed.partition(".")[0] for needed in graph()[module]} & IMPURE, module


def test_much_is_pure() -> None:
    pure = {file.partition("/")[0] for file in PURE}
    assert {"model", "protocols", "sessions", "delivery", "backbone", "history", "http"} <= pure and len(PURE) > 40
    for name in ("model", "protocols"):
        assert {file for file, _ in FILES if file.startswith(f"{name}/")} <= set(PURE), f"all of {name} is pure"


@pytest.mark.parametrize("gateway", ["raiden.gateway", "raiden.zeromq.doors", "raiden.node.dialects"])
def test_only_workers_use_a_gateway(gateway: str) -> None:
    users = {module for module, needs in graph().items() if any(f"{n}.".startswith(f"{gateway}.") for n in needs)}
    # A dialect serves its paths at a gateway, and only a worker has dialects.
    dialects = {module for module in users if f"{module}.".startswith(("raiden.dialects.", "raiden.node.dialects."))}
    assert users - dialects == {"raiden.node.worker"}


def test_a_node_imports_nothing_large_that_it_may_not_need() -> None:
    """Each of its processes would have that in its memory, and each start would take a third longer."""
    large = ("asyncio", "redis", "zmq.auth")
    code = f"import sys, raiden.cli; print([name for name in {large} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
