"""What a run has left is verified before it is believed: damage is mended or named, and the result is the same."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fewscope.pipeline.report.builder
import fewscope.pipeline.run
from fewscope.errors import RunMismatch
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.run import segment
from tests.helpers import fakes


def flip(path: Path) -> None:
    """One bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGE = (flip, truncate, empty, Path.unlink)


@pytest.fixture(autouse=True, scope="module")
def no_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fewscope.pipeline.report.builder, "draw", fakes.no_pictures)
        yield


@pytest.fixture(scope="module")
def finished(support: str, tmp_path_factory: pytest.TempPathFactory) -> SegmentConfig:
    """A run of ten units, and of two levels, that nobody stops."""
    folder = tmp_path_factory.mktemp("finished")
    slide = fakes.write_slide(folder / "slide.tif", fakes.picture(240, 520))
    options = {"shard": 128, "threshold": 0.5, "instances": "components", "outlines": "points"}
    config = SegmentConfig(slide, support, str(folder / "out"), **options)
    finish(config)
    return config


def finish(config: SegmentConfig) -> None:
    with LocalPool(fakes.ByColour) as pool:
        segment(config, pool, fakes.ByColour())


@pytest.fixture(scope="module")
def stopped_once(finished: SegmentConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run has left that was stopped when all its units were done."""
    out = tmp_path_factory.mktemp("stopped") / "out"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fewscope.pipeline.run, "number_instances", stop)
        with pytest.raises(KeyboardInterrupt):
            finish(dataclasses.replace(finished, out=str(out)))
    return out


@pytest.fixture
def stopped(finished: SegmentConfig, stopped_once: Path, tmp_path: Path) -> SegmentConfig:
    """That run, in a folder of the test's own."""
    shutil.copytree(stopped_once, tmp_path / "out")
    return dataclasses.replace(finished, out=str(tmp_path / "out"))


KINDS = {
    "probability": "result.zarr/0/c/*/*",
    "scratch": ".fewscope/scratch.zarr/0/c/*/*",
    "tables": ".fewscope/tables/r*.parquet",
    "arrays": ".fewscope/arrays/r*.npz",
    "markers": ".fewscope/markers/r*.json",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_units_whose_files_are_damaged_are_done_again_and_no_others(
    stopped: SegmentConfig,
    finished: SegmentConfig,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A file of each kind at once, each of another unit."""
    out = Path(stopped.out)
    hit = [sorted(out.glob(pattern))[2 * place] for place, pattern in enumerate(KINDS.values())]
    before = {path: path.stat().st_mtime_ns for path in (out / ".fewscope/markers").glob("r*.json")}
    for path in hit:
        damage(path)
    with caplog.at_level(logging.INFO):
        finish(stopped)
    said = [record.getMessage() for record in caplog.records if "done again" in record.getMessage()]
    assert len(said) == len(KINDS) - 1, "a line for each, but not for the marker"
    for path in hit[:-1]:
        assert any(str(path.relative_to(out)) in line for line in said), path
    again = [path for path, then in before.items() if path.stat().st_mtime_ns != then]
    assert len(again) == len(KINDS)
    assert fakes.outputs(out) == fakes.outputs(Path(finished.out))


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize(
    "name",
    [
        ".fewscope/manifest.json",
        ".fewscope/markers/decision.json",
        ".fewscope/arrays/decision.npz",
        ".fewscope/scratch.zarr/zarr.json",
        ".fewscope/scratch.zarr/0/zarr.json",
        "result.zarr/zarr.json",
        "result.zarr/1/zarr.json",
        "result.zarr/labels/zarr.json",
    ],
)
def test_files_of_the_whole_run_are_made_again(
    stopped: SegmentConfig,
    finished: SegmentConfig,
    name: str,
    damage: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damage(Path(stopped.out) / name)
    monkeypatch.setattr(
        "fewscope.pipeline.execution.worker.UnitWorker.__call__", None
    )  # no unit is done again
    finish(stopped)
    assert fakes.outputs(Path(stopped.out)) == fakes.outputs(Path(finished.out))


def test_units_done_under_another_decision_are_done_again(
    stopped: SegmentConfig, finished: SegmentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decision is lost, and made again on another machine it comes out differently."""
    (Path(stopped.out) / ".fewscope/arrays/decision.npz").unlink()
    to_arrays = fewscope.pipeline.calibration.operating_point.to_arrays
    monkeypatch.setattr(
        fewscope.pipeline.calibration.operating_point,
        "to_arrays",
        lambda encoding: to_arrays(encoding) | {"0.another": to_arrays(encoding)["fit"]},
    )
    before = {path: path.stat().st_mtime_ns for path in Path(stopped.out).glob(KINDS["markers"])}
    finish(stopped)
    assert all(path.stat().st_mtime_ns != then for path, then in before.items())
    assert fakes.outputs(Path(stopped.out)) == fakes.outputs(Path(finished.out))


FILES_OF_A_RESULT = [
    "report.json",
    "report.html",
    "instances.parquet",
    "instances.geojson.gz",
    "result.zarr/zarr.json",
    "result.zarr/labels/instances/1/zarr.json",
    "result.zarr/labels/instances/0/c/1/1",
    "result.zarr/1/c/0/0",
    ".fewscope/finished.json",
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_finished_result_that_was_damaged_is_named_in_one_line_with_the_cure(
    finished: SegmentConfig, damage: Callable[[Path], None]
) -> None:
    for name in FILES_OF_A_RESULT:
        if name.endswith("finished.json") and damage is Path.unlink:
            continue  # then it is not finished
        path = Path(finished.out) / name
        whole = path.read_bytes()
        try:
            damage(path)
            with pytest.raises(RunMismatch) as caught:
                finish(finished)
        finally:
            path.write_bytes(whole)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)
        assert "--overwrite" in str(caught.value)
    finish(finished)  # as it was, it is believed


def test_a_result_without_its_finishing_mark_is_made_again(finished: SegmentConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(finished, out=str(tmp_path / "out"))
    shutil.copytree(finished.out, config.out)
    (tmp_path / "out/.fewscope/finished.json").unlink()
    finish(config)
    assert fakes.outputs(Path(config.out)) == fakes.outputs(Path(finished.out))
