"""Killed at any moment, the same command resumes; the bytes are those of a run that was never stopped."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fewscope.pipeline.calibration.operating_point
import fewscope.pipeline.outputs.outlines
import fewscope.pipeline.outputs.pyramids
import fewscope.pipeline.outputs.segmentation
import fewscope.pipeline.report.builder
import fewscope.pipeline.run
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.plan import make_plan
from fewscope.pipeline.run import segment
from tests.helpers import fakes
from tests.helpers.machine import ROOT

FAKES = Path(fakes.__file__)


def markers(out: str) -> dict[str, tuple[int, int]]:
    """Units that are done, with what changes when a marker is written again."""
    found = (Path(out) / ".fewscope/markers").glob("r*.json")
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in found}


def start(config, pool: str, log: Path, seconds: float) -> subprocess.Popen:
    """The job as a program of its own, with a model that takes `seconds` a batch; Ray is that of ``RAY_ADDRESS``."""
    path = Path(f"{log}.config.json")
    path.write_text(json.dumps(dataclasses.asdict(config)))
    return subprocess.Popen(
        [sys.executable, FAKES, path, pool, log, str(seconds)],
        cwd=ROOT,  # from where Ray's workers import
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )


N_UNITS = 20  # of 128 px: more than Ray's workers have in flight when their driver is killed


def settings(slide: str, support: str, out: Path) -> SegmentConfig:
    return SegmentConfig(slide, support, str(out), shard=128, threshold=0.5, instances="components")


def finish(config: SegmentConfig) -> None:
    """Segment in this process, from wherever the folder stands."""
    with LocalPool(fakes.ByColour) as pool:
        segment(config, pool, fakes.ByColour())


@pytest.fixture(autouse=True, scope="module")
def no_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fewscope.pipeline.report.builder, "draw", fakes.no_pictures)
        yield


@pytest.fixture
def config(slide, support, tmp_path) -> SegmentConfig:
    return settings(slide, support, tmp_path / "out")


@pytest.fixture(scope="module")
def uninterrupted(slide, support, tmp_path_factory) -> dict[str, bytes]:
    """What a run that nobody stops leaves."""
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    finish(settings(slide, support, out))
    return fakes.outputs(out)


@pytest.fixture(scope="module")
def all_units_done(slide, support, tmp_path_factory) -> Path:
    """The folder of a run that was stopped when its last unit was done."""
    out = tmp_path_factory.mktemp("units") / "out"
    with pytest.MonkeyPatch.context() as faulty:
        faulty.setattr(fewscope.pipeline.run, "number_instances", None)
        with pytest.raises(TypeError):
            finish(settings(slide, support, out))
    assert len(markers(str(out))) == N_UNITS
    return out


@pytest.mark.slow
def test_kill_9_of_the_driver(config, tmp_path, uninterrupted):
    killed_and_resumed("local", config, tmp_path, uninterrupted)


def test_kill_9_of_the_driver_of_ray(config, tmp_path, uninterrupted, ray_head, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", ray_head.address)
    killed_and_resumed("ray", config, tmp_path, uninterrupted)


def killed_and_resumed(pool: str, config, tmp_path, uninterrupted) -> None:
    log = tmp_path / "log"
    job = start(config, pool, log, 1.5)
    limit = time.monotonic() + 120
    while len(markers(config.out)) < 2:
        assert job.poll() is None, job.stderr.read()
        assert time.monotonic() < limit
        time.sleep(0.05)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    job.stderr.close()
    if pool == "ray":  # its workers notice that their driver is gone, and may finish a unit until then
        done = {}
        while done != (done := markers(config.out)):
            time.sleep(2)
    before = markers(config.out)
    assert 2 <= len(before) < N_UNITS
    n_batches = len(log.read_text().splitlines())
    plan = make_plan(config)
    left = {path.stem for path in (Path(config.out) / ".fewscope/lent").glob("r*.npy")}
    needed = {
        f"r{tile.row_off:06d}_c{tile.col_off:06d}"
        for unit in plan.units
        if f"{unit.name}.json" not in before
        for tile in plan.grid.tiles_touching(unit.core)
        if plan.foreground.touches(tile)
    }

    with LocalPool(fakes.functools.partial(fakes.Slow, str(log), 0)) as again:
        segment(config, again, fakes.ByColour())
    after = markers(config.out)
    assert {name: after[name] for name in before} == before, "a finished unit was done again"
    assert len(after) == N_UNITS
    predicted = sum(int(line.split()[1]) for line in log.read_text().splitlines()[n_batches:])
    assert predicted == len(needed - left), "what is predicted is what is needed and was not left, each once"
    assert fakes.outputs(Path(config.out)) == uninterrupted


STAGES = [
    (fewscope.pipeline.run, "number_instances"),
    (fewscope.pipeline.run, "relabel_unit"),
    (fewscope.pipeline.outputs.pyramids, "build_pyramids"),
    (fewscope.pipeline.outputs.segmentation, "final_tables"),
    (fewscope.pipeline.outputs.outlines, "write_outlines"),
    (fewscope.pipeline.outputs.outlines, "outline_unit"),
    (fewscope.pipeline.outputs.outlines, "read_fragment"),
    (fewscope.pipeline.report.builder, "instance_statistics"),
    (fewscope.pipeline.report.builder, "write_report"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("module", "stage"), STAGES, ids=[stage for _, stage in STAGES])
def test_stopped_in_a_later_stage(config, monkeypatch, all_units_done, uninterrupted, module, stage):
    """A stage that does half of its work and fails: the same command resumes, and asks the model nothing."""
    shutil.copytree(all_units_done, config.out)
    wanted = getattr(module, stage)
    calls = []

    def half(*args, **options):
        calls.append(1)
        if stage not in ("relabel_unit", "outline_unit", "read_fragment") or len(calls) > 1:
            raise KeyboardInterrupt
        return wanted(*args, **options)

    with monkeypatch.context() as faulty:
        faulty.setattr(fakes.ByColour, "predict", None)
        faulty.setattr(module, stage, half)
        with pytest.raises(KeyboardInterrupt):
            finish(config)
    assert calls, "the stage was not reached"
    before = markers(config.out)
    assert len(before) == N_UNITS
    monkeypatch.setattr(fakes.ByColour, "predict", None)
    finish(config)
    assert markers(config.out) == before
    assert fakes.outputs(Path(config.out)) == uninterrupted


@pytest.mark.slow
def test_what_was_decided_stays_decided(config, monkeypatch):
    """A run resumed where leaving one out would choose otherwise keeps its threshold."""
    config = dataclasses.replace(config, threshold=None)
    with monkeypatch.context() as faulty:
        faulty.setattr(fewscope.pipeline.run, "run_units", None)
        with LocalPool(fakes.ByColour) as pool, pytest.raises(TypeError):
            segment(config, pool, fakes.ByColour())
    monkeypatch.setattr(fewscope.pipeline.calibration.operating_point, "EncodingCache", None)
    with LocalPool(fakes.ByColour) as pool:
        report = segment(config, pool, fakes.ByColour())
    assert report["run"]["options"]["threshold"] == report["quality"]["threshold"]
    assert report["quality"]["iou_held_out"] == 1.0
