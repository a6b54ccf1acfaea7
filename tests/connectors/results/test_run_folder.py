"""The working folder: atomic files, markers of one run, and claims that lose nothing."""

import contextlib
import errno
import json
import os
import pickle
import sqlite3
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fewscope.connectors.results import run_folder
from fewscope.connectors.results.manifest import hash_manifest
from fewscope.connectors.results.reader import open_result
from fewscope.connectors.results.run_folder import WorkDir
from fewscope.connectors.storage.download import local_copy
from fewscope.connectors.support.load import load_support
from fewscope.errors import OutputError, ResultNotFound, RunMismatch, SourceError, SupportError

MANIFEST = {"source": "slide.svs", "tile": 224, "model": {"name": "relation", "digest": "ab12"}}


class Crash(BaseException):
    """Stands for kill -9: nothing may catch it."""


@pytest.fixture(params=["local", "memory"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "out")
    return f"memory://{tmp_path.name}"


def claimed(out: str, manifest: dict[str, Any] | None = None) -> WorkDir:
    work = WorkDir(out)
    work.claim(manifest or MANIFEST)
    return work


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_new_then_resumed_then_finished(out: str) -> None:
    assert WorkDir(out).claim(MANIFEST) == "new"
    work = WorkDir(out)
    assert work.claim(dict(reversed(MANIFEST.items()))) == "resume"  # the order of keys says nothing
    work.finish()
    assert WorkDir(out).claim(MANIFEST) == "finished"


def test_a_tuple_in_the_manifest_equals_the_list_read_back(out: str) -> None:
    assert WorkDir(out).claim({"bands": (1, 2)}) == "new"
    assert WorkDir(out).claim({"bands": [1, 2]}) == "resume"


def test_another_run_is_refused_and_named_key_by_key(out: str) -> None:
    claimed(out).write_marker("u0", {"n": 1})
    other = {"source": "slide.svs", "tile": 192, "model": {"name": "relation", "digest": "ff00"}, "halo": 64}
    with pytest.raises(RunMismatch) as caught:
        WorkDir(out).claim(other)
    message = str(caught.value)
    assert "\n" not in message
    assert "halo: was absent, now 64; model.digest: was ab12, now ff00; tile: was 224, now 192;" in message
    assert "use --overwrite to start anew or another --out" in message
    assert "name" not in message  # equal keys are not named
    assert claimed(out).read_markers() == {"u0": {"n": 1}}  # and nothing was touched


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_someone_else_is_never_touched(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.docx").write_text("years of work")
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(RunMismatch, match=r"thesis\.docx|report\.html"):
        WorkDir(str(tmp_path)).claim(MANIFEST, overwrite=overwrite)
    assert tree(tmp_path) == {"thesis.docx", "report.html"}


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    assert WorkDir(str(tmp_path)).claim(MANIFEST) == "new"


def test_overwrite_removes_the_run_and_keeps_what_the_user_put_beside_it(tmp_path: Path) -> None:
    work = claimed(str(tmp_path))
    work.write_marker("u0", {"n": 1})
    work.save_text("u0", "old")
    (tmp_path / "result.zarr").mkdir()
    (tmp_path / "result.zarr" / "zarr.json").write_text("{}")
    (tmp_path / "report.html").write_text("old")
    (tmp_path / "notes.txt").write_text("keep me")
    again = WorkDir(str(tmp_path))
    assert again.claim(MANIFEST | {"tile": 192}, overwrite=True) == "new"
    assert tree(tmp_path) == {"notes.txt", ".fewscope/manifest.json"}
    assert again.read_markers() == {}


def test_overwrite_that_is_killed_half_way_is_completed_by_the_next_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = claimed(str(tmp_path))
    work.write_marker("u0", {"n": 1})
    (tmp_path / "report.html").write_text("of the old run")
    with monkeypatch.context() as patch:

        def killed(fs: object, path: str) -> None:
            raise Crash

        patch.setattr(run_folder, "remove", killed)
        with pytest.raises(Crash):
            WorkDir(str(tmp_path)).claim(MANIFEST | {"tile": 192}, overwrite=True)
    again = WorkDir(str(tmp_path))
    assert again.claim(MANIFEST | {"tile": 192}) == "new"  # and not "resume" over old shards
    assert tree(tmp_path) == {".fewscope/manifest.json"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_damaged_manifest_is_refused_unless_overwritten(tmp_path: Path, overwrite: bool) -> None:
    claimed(str(tmp_path))
    (tmp_path / "report.html").write_text("x")
    (tmp_path / ".fewscope" / "manifest.json").write_text('{"hash": "ab')
    if overwrite:
        assert WorkDir(str(tmp_path)).claim(MANIFEST, overwrite=True) == "new"
    else:
        with pytest.raises(RunMismatch, match="damaged or missing; use --overwrite"):
            WorkDir(str(tmp_path)).claim(MANIFEST)


def test_markers_of_another_run_and_half_written_ones_do_not_count(tmp_path: Path) -> None:
    work = claimed(str(tmp_path))
    work.write_marker("good", {"n": 7})
    markers = tmp_path / ".fewscope" / "markers"
    whole = (markers / "good.json").read_text()
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        (markers / f"cut{cut}.json").write_text(whole[:cut])
    (markers / "other.json").write_text(whole.replace(hash_manifest(MANIFEST), "0" * 64))
    (markers / "list.json").write_text("[1, 2]")
    (markers / "another_unit.json").write_text(whole)
    (markers / "infinite.json").write_text(whole.replace('"n":7', '"n":1e999'))
    (markers / ".good.json.1.ab.tmp").write_text(whole)
    assert work.read_markers() == {"good": {"n": 7}}


@pytest.mark.parametrize("moment", ["open", "fsync", "replace"])
@pytest.mark.parametrize("old", [None, {"n": 1}])
def test_a_crash_while_a_marker_is_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, old: dict[str, int] | None
) -> None:
    work = claimed(str(tmp_path))
    if old is not None:
        work.write_marker("u0", old)

    def killed(*args: object, **kwargs: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(os, moment, killed)
        patch.setattr(os, "unlink", killed)  # a killed process cleans nothing up
        with pytest.raises(Crash):
            work.write_marker("u0", {"n": 2})
    assert claimed(str(tmp_path)).read_markers() == ({} if old is None else {"u0": old})
    work.write_marker("u0", {"n": 3})  # and what is left over does not stand in the way
    assert work.read_markers() == {"u0": {"n": 3}}


def test_a_failed_write_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = claimed(str(tmp_path))
    before = tree(tmp_path)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError) as caught:
        work.write_marker("u0", {"n": 2})
    assert "No space left on device; free some space and run the same command again" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, OSError)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_read_only_disk_is_one_line_with_a_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refused(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "makedirs", refused)
    with pytest.raises(OutputError, match="use an --out that you may write to"):
        WorkDir(str(tmp_path / "out")).claim(MANIFEST)


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("I am a file")
    with pytest.raises(OutputError, match="is a file, not a folder"):
        WorkDir(str(tmp_path / "out")).claim(MANIFEST)
    with pytest.raises(OutputError, match="a file is where a folder should be"):
        WorkDir(str(tmp_path / "out" / "deeper")).claim(MANIFEST)
    assert (tmp_path / "out").read_text() == "I am a file"


def test_tables_arrays_and_texts_come_back(out: str) -> None:
    work = claimed(out)
    table = pa.table({"label": pa.array([1, 2, 3], pa.uint32()), "area": [10.5, 2.0, 1.0]})
    arrays = {"top": np.arange(5, dtype=np.uint32), "empty": np.zeros((0, 2), np.int64)}
    text = '1\t{"type":"Feature"}\n' * 100 + "müsli\n"
    work.save_table("u0", table)
    work.save_arrays("u0", **arrays)
    work.save_text("u0", text)
    assert work.load_table("u0") == table
    assert work.load_table("u0", columns=["area"]) == table.select(["area"])
    read = work.load_arrays("u0")
    assert read.keys() == arrays.keys()
    for key, array in arrays.items():
        assert read[key].dtype == array.dtype
        np.testing.assert_array_equal(read[key], array)
    assert work.load_text("u0") == text
    with pytest.raises(FileNotFoundError):
        work.load_table("u1")


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        work = claimed(str(tmp_path / folder))
        table = pa.table({"label": np.arange(100, dtype=np.uint32)})
        pieces = pa.concat_tables([table.slice(0, 7), table.slice(7)])
        work.save_table("u0", table if folder == "a" else pieces)
        work.save_arrays("u0", x=np.arange(3))
        work.save_text("u0", "text")
        work.write_marker("u0", {"a": 1, "b": 2} if folder == "a" else {"b": 2, "a": 1})
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    for name in tree(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_finish_keeps_the_markers_and_removes_the_temporary(tmp_path: Path) -> None:
    work = claimed(str(tmp_path))
    work.write_marker("u0", {"n": 1})
    work.save_table("u0", pa.table({"a": [1]}))
    work.save_arrays("u0", a=np.zeros(1))
    work.save_text("u0", "t")
    (tmp_path / ".fewscope" / "scratch.zarr").mkdir()
    (tmp_path / ".fewscope" / "scratch.zarr" / "zarr.json").write_text("{}")
    work.finish()
    assert tree(tmp_path / ".fewscope") == {"manifest.json", "finished.json", "markers/u0.json"}


def read_with_a_journal(path: Path) -> None:
    """As QGIS opens it."""
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    assert connection.execute("SELECT count(*) FROM water").fetchone() == (1000,)
    connection.close()


def test_a_geopackage_may_be_opened_but_not_damaged(tmp_path: Path) -> None:
    work, path = claimed(str(tmp_path)), tmp_path / "features.gpkg"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE water (name TEXT)")
        connection.executemany("INSERT INTO water VALUES (?)", [(f"lake {n}",) for n in range(1000)])
    work.finish()
    written = path.read_bytes()
    read_with_a_journal(path)
    assert path.read_bytes() != written
    assert WorkDir(str(tmp_path)).claim(MANIFEST) == "finished"

    flipped = bytearray(written)
    flipped[len(written) // 2] ^= 1
    for damaged in (b"", bytes(flipped), written[:-4096], None):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        with pytest.raises(RunMismatch, match=r"features\.gpkg is missing or was changed .* --overwrite"):
            WorkDir(str(tmp_path)).claim(MANIFEST)


def test_a_worker_gets_the_run_with_the_pickle(out: str) -> None:
    work = pickle.loads(pickle.dumps(claimed(out)))
    work.write_marker("u0", {"n": 1})
    assert claimed(out).read_markers() == {"u0": {"n": 1}}


def test_unclaimed_and_misnamed_are_errors(out: str) -> None:
    with pytest.raises(RuntimeError, match="not claimed"):
        WorkDir(out).write_marker("u0", {})
    for name in ("../u0", "", ".u0", "a/b"):
        with pytest.raises(ValueError, match="rename it"):
            claimed(out).write_marker(name, {})
    with pytest.raises(TypeError, match="numeric dtype"):
        claimed(out).save_arrays("u0", a=np.array([{}], dtype=object))


def test_the_manifest_on_disk_can_be_read_by_people(tmp_path: Path) -> None:
    claimed(str(tmp_path))
    record = json.loads((tmp_path / ".fewscope" / "manifest.json").read_text())
    assert record["manifest"] == MANIFEST
    assert record["hash"] == hash_manifest(MANIFEST)


def test_a_store_whose_metadata_nest_too_deep_is_damaged(tmp_path: Path) -> None:
    nested = "[" * 100_000 + "]" * 100_000
    (tmp_path / "result.zarr").mkdir()
    (tmp_path / "result.zarr" / "zarr.json").write_text(
        f'{{"zarr_format": 3, "node_type": "group", "attributes": {{"fewscope": {nested}}}}}'
    )
    with pytest.raises(ResultNotFound, match=r"zarr\.json is damaged.*--overwrite"):
        open_result(str(tmp_path))


@pytest.fixture
def without_s3fs(monkeypatch):
    """As a base install has it: no package for s3://."""
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)  # if it was imported


def test_s3_without_its_package_is_one_line_that_names_the_extra(without_s3fs):
    reads = (load_support, local_copy, open_result, claimed)
    for read, kind in zip(reads, (SupportError, SourceError, OutputError, OutputError), strict=True):
        with pytest.raises(kind) as error:
            read("s3://bucket/thing")
        said = str(error.value)
        assert said.startswith("s3://bucket/thing: ")
        assert "pip install 'fewscope[s3]'" in said
        assert "\n" not in said
