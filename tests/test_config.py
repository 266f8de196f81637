"""Settings: where they come from, which are refused and how, and that conf/raiden.conf.py shows them all."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from raiden.node.config import FIELDS, ConfigError, changes, load
from raiden.node.settings import Settings
from raiden.runtime.service import Service
from tests.daemons import ROOT

SHOWN = (ROOT / "conf/raiden.conf.py").read_text()
SHOWN_SETTING = re.compile(r"^# (\w+) = (.+)$", re.MULTILINE)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "raiden.conf.py"


def read(file: Path, text: str) -> Settings:
    """The settings of a file alone."""
    file.write_text(text)
    return load(str(file), environ={})[0]


def from_environment(**variables: str) -> Settings:
    return load(environ=variables)[0]


# Sources.


def test_each_source_overrides_the_one_before(file: Path) -> None:
    file.write_text("workers = 2\nmax_body = 2\nmax_url = 22\n")
    settings, service = load(str(file), ["workers = 4"], {"RAIDEN_WORKERS": "3", "RAIDEN_MAX_BODY": "3"})
    assert (settings.workers, settings.max_body, settings.max_url, settings.max_headers) == (4, 3, 22, 100)
    assert service is None
    assert load(None, ["workers=5", "workers = 6"], {})[0].workers == 6


def test_defaults_are_not_shared() -> None:
    load(environ={})[0].allowed_origins.append("https://example.com")
    assert load(environ={})[0].allowed_origins == []


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("HTTP_PORT", "80", 80),
        ("WS_DEFLATE", "False", False),
        ("LOG_LEVEL", "DEBUG", "DEBUG"),
        ("LOG_LEVEL", "'DEBUG'", "DEBUG"),
        ("DATA_DIR", "/srv/a b", "/srv/a b"),
        ("DATA_DIR", "2026", "2026"),
        ("LOG_FILE", "None", None),
        ("ALLOWED_ORIGINS", "http://localhost:5173,http://x", ["http://localhost:5173", "http://x"]),
        ("ALLOWED_ORIGINS", " http://x , *, ", ["http://x", "*"]),
        ("ALLOWED_ORIGINS", "'http://x', 'http://y'", ["http://x", "http://y"]),
        ("ALLOWED_ORIGINS", "'http://x'", ["http://x"]),
        ("ALLOWED_HOSTS", "127.0.0.2", ["127.0.0.2"]),
        ("ALLOWED_HOSTS", "10", ["10"]),
        ("ALLOWED_HOSTS", "", []),
        ("ALLOWED_HOSTS", "['a:1']", ["a:1"]),
        ("LOG_FILE", "/tmp/log", "/tmp/log"),
        ("ALLOWED_ORIGINS", "['https://example.com']", ["https://example.com"]),
        ("KEEPALIVE", "3", 3.0),
    ],
)
def test_environment(name: str, text: str, value: Any) -> None:
    found = getattr(from_environment(**{f"RAIDEN_{name}": text}), name.lower())
    assert found == value and type(found) is type(value)


def test_what_a_container_platform_sets_is_ignored() -> None:
    variables = {
        "RAIDEN_SERVICE_HOST": "10.0.0.1",
        "RAIDEN_SERVICE_PORT": "8088",
        "RAIDEN_SERVICE_PORT_HTTP": "8088",
        "RAIDEN_NODES_SERVICE_HOST": "10.0.0.2",
        "RAIDEN_NODES_PORT": "tcp://10.0.0.2:9989",
        "RAIDEN_NODES_PORT_9989_TCP_ADDR": "10.0.0.2",
        "RAIDEN_PORT": "tcp://10.0.0.1:8088",
        "RAIDEN_PORT_8088_TCP": "tcp://10.0.0.1:8088",
        "RAIDEN_PORT_8088_TCP_ADDR": "10.0.0.1",
        "OTHER": "x",
    }
    assert from_environment(**variables) == Settings()


def test_file_may_have_helpers(file: Path) -> None:
    settings = read(
        file,
        "import os\nfrom pathlib import Path\n_base = '/srv'\n"
        "def helper(): return os.path.join(_base, 'x')\n"
        "data_dir = helper()\n"
        "def channel_builder(request): return 'all'\n",
    )
    assert settings.data_dir == "/srv/x"
    assert callable(settings.channel_builder)


def test_a_worker_for_each_processor(file: Path) -> None:
    assert read(file, "workers = 0").workers == len(os.sched_getaffinity(0))


def test_a_shorter_stop_needs_no_other_setting(file: Path) -> None:
    assert read(file, "drain_timeout = 1").drain_timeout == 1


def test_service(file: Path) -> None:
    file.write_text("def service(worker): return worker + 1\n")
    _, service = load(str(file), environ={})
    assert service is not None and service(1) == 2


# Refusals.


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("http_porf = 1", "unknown setting 'http_porf'; did you mean http_port?"),
        ("zzz = 1", "unknown setting 'zzz'; conf/raiden.conf.py lists all"),
        ("http_port = '80'", "http_port must be int, not '80'"),
        ("workers = True", "workers must be int, not True"),
        ("workers = 1.0", "workers must be int, not 1.0"),
        ("ws_deflate = 1", "ws_deflate must be bool, not 1"),
        ("keepalive = True", "keepalive must be float, not True"),
        ("log_file = 1", "log_file must be str or None, not 1"),
        ("allowed_origins = '*'", "allowed_origins must be list, not '*'"),
        ("allowed_origins = [1]", "allowed_origins must be list"),
        ("workers = -1", "workers must be at least 0, not -1"),
        ("helper = 1", "let names of your own begin with '_'"),
        ("{'http_port': 80}", "raiden.conf.py:1: this sets nothing"),
        ("drain_window = 20", "drain_window = 20 must be at most drain_timeout = 10"),
        ("http_port = 65536", "http_port must be at most 65535"),
        ("http_port = -1", "http_port must be at least 0"),
        ("log_format = 'xml'", "log_format must be 'text' or 'json'"),
        ("log_level = 'LOUD'", "log_level must be DEBUG"),
        ("channel_builder = 'url'", "channel_builder must be"),
        ("http_host = '0.0.0.0'", "set open_to_the_world = True"),
        ("http_host = '::'", "set open_to_the_world = True"),
        ("service = 1", "service must be a function"),
        ("workers = ", "raiden.conf.py:1: invalid syntax"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_refused_in_a_file(file: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(file, text + "\n")
    assert says in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("workers", "write it as -X 'name = value'"),
        ("workers = two", "workers = two: not a Python literal"),
        ("workers = {[]: 1}", "not a Python literal"),
        ("wurkers = 2", "did you mean workers?"),
        ("wurkers = two", "did you mean workers?"),
        ("workers = '2'", "workers must be int, not '2'"),
    ],
)
def test_refused_on_the_command_line(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        load(None, [override], {})


def test_refused_in_the_environment() -> None:
    with pytest.raises(ConfigError, match="RAIDEN_MAX_BODI: unknown setting 'max_bodi'; did you mean max_body"):
        from_environment(RAIDEN_MAX_BODI="1")


def test_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read it: Is a directory"):
        load(str(tmp_path), environ={})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_opening(host: str) -> None:
    assert from_environment(RAIDEN_HTTP_HOST=host).http_host == host


def test_open_to_the_world() -> None:
    settings = from_environment(RAIDEN_HTTP_HOST="0.0.0.0", RAIDEN_OPEN_TO_THE_WORLD="True")
    assert settings.http_host == "0.0.0.0"


# Reload.


def test_changes(file: Path) -> None:
    new = read(file, "max_body = 5\nlog_level = 'DEBUG'\nworkers = 2\nhttp_port = 1\n")
    assert changes(Settings(), new) == ({"log_level": "DEBUG", "max_body": 5}, ["http_port", "workers"])
    assert changes(new, new) == ({}, [])


def test_reading_a_file_again_changes_nothing(file: Path) -> None:
    text = "def channel_builder(request): return 'all'\n"
    assert changes(read(file, text), read(file, text)) == ({}, [])
    assert changes(read(file, text), read(file, text.replace("all", "one"))) == ({}, ["channel_builder"])


# conf/raiden.conf.py.


def test_every_setting_is_shown_in_order() -> None:
    assert [name for name, _ in SHOWN_SETTING.findall(SHOWN)] == list(FIELDS)


def test_what_is_shown_changes_nothing(file: Path) -> None:
    assert read(file, SHOWN) == Settings()


@pytest.mark.parametrize(("name", "text"), [pair for pair in SHOWN_SETTING.findall(SHOWN) if pair[0] != "data_dir"])
def test_default_is_shown(file: Path, name: str, text: str) -> None:
    found, default = getattr(read(file, f"{name} = {text}\n"), name), getattr(Settings(), name)
    assert found == default and type(found) is type(default)


def test_what_a_reload_changes_is_marked() -> None:
    marked = re.findall(r"\[reload\]\n# (\w+) =", SHOWN)
    assert marked == [name for name, setting in FIELDS.items() if setting.metadata["reload"]]


def test_service_example(file: Path) -> None:
    example = SHOWN[SHOWN.index("# import time") :]
    file.write_text(re.sub(r"^# ?", "", example, flags=re.MULTILINE))
    _, service = load(str(file), environ={})
    assert service is not None

    class Worker:
        router = None

        class stats:
            worker = 0

    assert isinstance(service(Worker), Service)
    Worker.stats.worker = 1
    assert service(Worker) == []
