"""Damage to files is seen, of whatever kind."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from fewscope.connectors.storage.digests import damaged_files, digest_file, n_bytes


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[fsspec.AbstractFileSystem, str]:
    uri = str(tmp_path) if request.param == "local" else f"memory://digests-{tmp_path.name}"
    return fsspec.core.url_to_fs(uri)


def test_whatever_is_not_as_recorded_is_named(folder: tuple[fsspec.AbstractFileSystem, str]) -> None:
    fs, root = folder
    content = {name: name.encode() * 1_000_000 for name in ("a", "b", "c", "d")} | {"empty": b""}
    for name, data in content.items():
        fs.pipe_file(f"{root}/{name}", data)
    recorded = {name: digest_file(fs, f"{root}/{name}") for name in content} | {"none": None}
    assert damaged_files(fs, root, recorded) == []
    assert n_bytes(recorded.values()) == 4_000_000
    flipped = bytearray(content["a"])
    flipped[500_000] ^= 1
    fs.pipe_file(f"{root}/a", bytes(flipped))
    fs.pipe_file(f"{root}/b", content["b"][:-1])
    fs.rm_file(f"{root}/c")
    fs.pipe_file(f"{root}/empty", b"x")
    fs.pipe_file(f"{root}/none", b"a shard where all was zero")
    assert damaged_files(fs, root, recorded) == ["a", "b", "c", "empty", "none"]
