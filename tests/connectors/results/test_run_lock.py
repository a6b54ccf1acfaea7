"""One driver on an output folder: who holds it is named, and the dead do not block."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fsspec
import pytest

from fewscope.connectors.results import run_lock
from fewscope.connectors.results.run_folder import WorkDir
from fewscope.connectors.results.run_lock import RunLock, process_started
from fewscope.errors import OutputError, RunInUse, RunMismatch


@pytest.fixture(params=["local", "memory"])
def out(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(run_lock, "READ_BACK_S", 0.01)
    return str(tmp_path / "out") if request.param == "local" else f"memory://lock-{tmp_path.name}"


def lock_of(out: str) -> tuple[fsspec.AbstractFileSystem, str]:
    fs, path = fsspec.core.url_to_fs(out)
    return fs, f"{path}/.fewscope/lock.json"


def change(out: str, **values: object) -> None:
    """Have a lock say something else, as if its holder had written it; in the form of versions without a digest."""
    fs, path = lock_of(out)
    record = json.loads(fs.cat_file(path)) | values
    del record["digest"]
    fs.pipe_file(path, json.dumps(record).encode())


def is_locked(out: str) -> bool:
    fs, path = lock_of(out)
    fs.invalidate_cache()
    return bool(fs.exists(path))


def test_a_second_driver_is_refused_in_one_line_that_says_who_holds_it(out: str) -> None:
    with WorkDir(out).hold(), pytest.raises(RunInUse) as caught, WorkDir(out).hold():
        pass
    said = str(caught.value)
    assert "\n" not in said
    assert f"is in use by process {os.getpid()} on {os.uname().nodename}" in said
    assert "use another --out" in said
    assert not is_locked(out), "released"
    with WorkDir(out).hold():
        assert is_locked(out)


def test_a_lock_is_released_when_its_driver_fails(out: str) -> None:
    with pytest.raises(KeyboardInterrupt), WorkDir(out).hold():
        raise KeyboardInterrupt
    assert not is_locked(out)


def test_many_at_once_and_one_gets_it(out: str) -> None:
    won, lost, all_tried = [], [], threading.Event()

    def drive() -> None:
        try:
            with RunLock(out, ".fewscope"):
                won.append(1)
                all_tried.wait(20)
        except RunInUse:
            lost.append(1)

    threads = [threading.Thread(target=drive) for _ in range(8)]
    for thread in threads:
        thread.start()
    limit = time.monotonic() + 20
    while len(lost) < 7 and time.monotonic() < limit:
        time.sleep(0.01)
    all_tried.set()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)


def test_a_lock_of_a_killed_process_does_not_block(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    program = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from fewscope.connectors.results.run_lock import RunLock\n"
        "with RunLock(sys.argv[2], '.fewscope'):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    root = str(Path(__file__).resolve().parents[3])
    holder = subprocess.Popen([sys.executable, "-c", program, root, out], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder, holder.stdout:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunInUse, match=f"process {holder.pid} on"), WorkDir(out).hold():
            pass
        os.kill(holder.pid, signal.SIGKILL)
        limit = time.monotonic() + 20
        while process_started(holder.pid) is not None:  # a zombie is dead
            assert time.monotonic() < limit
            time.sleep(0.01)
        with WorkDir(out).hold():
            assert is_locked(out)


def test_a_number_that_went_to_another_process_is_not_its_old_holder(out: str) -> None:
    with WorkDir(out).hold():
        change(out, process_started="long ago")
        with WorkDir(out).hold():
            pass


@pytest.mark.parametrize(("age_s", "blocks"), [(0, True), (200, True), (400, False)])
@pytest.mark.parametrize("other", [{"host": "elsewhere"}, {"container": "pid:[1]"}, {"boot": "another"}])
def test_a_holder_on_another_host_is_dead_when_its_heartbeat_is_old(
    out: str, other: dict[str, str], age_s: float, blocks: bool
) -> None:
    with WorkDir(out).hold():
        change(out, heartbeat=time.time() - age_s, **other)
        if blocks:
            with pytest.raises(RunInUse, match="last sign of life"), WorkDir(out).hold():
                pass
        else:
            with WorkDir(out).hold():
                pass


@pytest.mark.parametrize("text", ["", "{", "[]", '{"token": 1}', "\x00\xff"])
def test_a_damaged_lock_does_not_block(out: str, text: str) -> None:
    fs, path = lock_of(out)
    fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    fs.pipe_file(path, text.encode("latin1"))
    with WorkDir(out).hold():
        assert is_locked(out)


@pytest.mark.parametrize("name", ["host", "boot", "container", "pid", "token", "heartbeat", "digest"])
def test_a_flipped_bit_in_a_lock_does_not_block(out: str, name: str) -> None:
    """Formerly a lock that seemed to be of another host was waited for, five minutes."""
    with WorkDir(out).hold():
        fs, path = lock_of(out)
        record = json.loads(fs.cat_file(path))
        value = record[name]
        changed = value[:-1] + chr(ord(value[-1]) ^ 1) if isinstance(value, str) else value + 1
        fs.pipe_file(path, json.dumps(record | {name: changed}).encode())
        with WorkDir(out).hold():
            pass


def test_the_heart_beats_and_notices_that_the_folder_was_taken(
    out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "HEARTBEAT_S", 0.02)
    fs, path = lock_of(out)
    with WorkDir(out).hold() as lock:
        first = json.loads(fs.cat_file(path))["heartbeat"]
        limit = time.monotonic() + 20
        while json.loads(fs.cat_file(path))["heartbeat"] == first:
            assert time.monotonic() < limit, "no heartbeat"
            time.sleep(0.01)
        lock.check()
        change(out, token="another", host="elsewhere")
        while lock._taken_by is None:
            assert time.monotonic() < limit, "not noticed"
            time.sleep(0.01)
        with pytest.raises(RunInUse, match="on elsewhere"):
            lock.check()
    assert is_locked(out), "that of the other one stays"


def test_a_folder_of_someone_else_gets_no_lock(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(RunMismatch, match=r"thesis\.docx"):
        WorkDir(str(tmp_path)).hold()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.docx"]


def test_a_finished_result_on_a_disk_that_cannot_be_written_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "out")
    work = WorkDir(out)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    work.claim({"tile": 224})
    with monkeypatch.context() as patch:
        patch.setattr(os, "makedirs", refused)
        with pytest.raises(OutputError, match="use an --out that you may write to"), WorkDir(out).hold():
            pass
    work.finish()
    monkeypatch.setattr(os, "makedirs", refused)
    with WorkDir(out).hold() as lock:
        lock.check()
    assert not is_locked(out)


def test_a_lock_that_was_not_written_whole_is_removed_by_the_next_run(tmp_path: Path) -> None:
    work = WorkDir(str(tmp_path))
    work.claim({"tile": 224})
    folder = tmp_path / ".fewscope"
    (folder / ".lock-ab12cd34").mkdir()
    (folder / ".lock-ab12cd34/lock").write_text("{")
    (folder / f".lock-{'0' * 32}").write_text("{}")  # moved aside: another job may be about to put it back
    work.claim({"tile": 224})
    assert [path.name for path in folder.glob(".lock-*")] == [f".lock-{'0' * 32}"]
    os.utime(folder / f".lock-{'0' * 32}", (0, 0))
    work.claim({"tile": 224})
    assert not list(folder.glob(".lock-*"))


def test_a_lock_is_taken_although_its_unfinished_file_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the job that holds the folder, which removes what killed ones have left."""
    work = WorkDir(str(tmp_path))
    work.claim({"tile": 224})
    link, tried = os.link, []

    def link_late(source: str, target: str) -> None:
        tried.append(source)
        if len(tried) == 1:
            work.claim({"tile": 224})
        link(source, target)

    monkeypatch.setattr(os, "link", link_late)
    with work.hold():
        assert is_locked(str(tmp_path))
    assert len(tried) == 2
