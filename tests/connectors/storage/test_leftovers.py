"""What killed processes leave is removed by the next run: only ours, only in our folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fewscope.connectors.results.run_folder import WorkDir
from fewscope.connectors.storage import atomic, download
from fewscope.connectors.storage.atomic import remove_leftovers

WRITER = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from fewscope.connectors.storage.atomic import atomic_file
with atomic_file(sys.argv[2]) as path:
    open(path, "w").write("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_while_writing(path: Path) -> None:
    root = str(Path(__file__).resolve().parents[3])
    done = subprocess.run([sys.executable, "-c", WRITER, root, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_next_run_removes_them(tmp_path: Path, overwrite: bool) -> None:
    work = WorkDir(str(tmp_path))
    work.claim({"tile": 224})
    kill_while_writing(tmp_path / "report.html")
    kill_while_writing(tmp_path / ".fewscope/markers/u0.json")
    shard = tmp_path / "result.zarr/0/c/1"
    shard.mkdir(parents=True)
    (shard / f"0.{'0af' * 10}01.partial").write_bytes(b"half")
    (shard / "0").write_bytes(b"whole")
    mine = ["notes.partial", ".fewscope-notes", "deeper/.fewscope-ab12cd34/mine"]
    for name in mine:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("keep me")
    before = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert len([name for name in before if name.endswith((".html", "u0.json", ".partial"))]) == 4

    WorkDir(str(tmp_path)).claim({"tile": 224}, overwrite=overwrite)
    after = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert after == {".fewscope/manifest.json", *mine} | (set() if overwrite else {"result.zarr/0/c/1/0"})
    assert not list(tmp_path.glob(".fewscope-????????"))


def test_unfinished_downloads_of_yesterday_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(download.CACHE_VARIABLE, str(tmp_path))
    for name in ("aaaaaaaa", "bbbbbbbb"):
        (tmp_path / f".fewscope-{name}").mkdir()
        (tmp_path / f".fewscope-{name}/slide.svs").write_bytes(b"half")
    os.utime(tmp_path / ".fewscope-aaaaaaaa", (0, 0))
    download._cache_folder()
    assert [path.name for path in tmp_path.iterdir()] == [".fewscope-bbbbbbbb"]


def test_the_names_are_those_that_are_made(tmp_path: Path) -> None:
    with atomic.atomic_file(str(tmp_path / "a")) as path:
        assert atomic.is_leftover(Path(path).parent.name)
        Path(path).write_text("x")
    assert remove_leftovers(str(tmp_path), below=True) == 0
