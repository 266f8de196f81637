"""The nodes' keys."""

from __future__ import annotations

from pathlib import Path

import pytest
import zmq

from raiden.access.keys import InvalidKey, generate, is_key, load


def test_a_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "state" / "raiden.key"
    public = generate(path)
    assert is_key(public.encode()) and path.stat().st_mode & 0o777 == 0o600
    assert zmq.curve_public(path.read_bytes().strip()).decode() == public
    with pytest.raises(InvalidKey, match="is there already"):
        generate(path)
    keys = load(path, ["other"])
    assert keys.public.decode() == public and keys.allowed == {public.encode(), b"other"}


def test_what_is_no_key(tmp_path: Path) -> None:
    with pytest.raises(InvalidKey, match="cannot read"):
        load(tmp_path / "none", [])
    for content in (b"", b"short", b"\xff" * 40, b"~" * 40, b"a" * 41):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(InvalidKey, match="raiden keygen"):
            load(tmp_path / "bad", [])


def test_what_can_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidKey, match="cannot write"):
        generate(tmp_path / ("x" * 300))
