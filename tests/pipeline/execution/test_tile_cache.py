"""A tile that several units need is predicted once, and that cannot be seen in the result."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fewscope.connectors.open import open_source
from fewscope.connectors.results.run_folder import WorkDir
from fewscope.connectors.results.store import ResultStore
from fewscope.connectors.results.store_layout import StoreSpec
from fewscope.pipeline.execution.job import Job
from fewscope.pipeline.execution.worker import UnitWorker
from fewscope.pipeline.instances.split_rules import SplitRule
from fewscope.pipeline.tiling.foreground import Foreground
from fewscope.pipeline.tiling.grid import TileGrid, plan_units
from tests.helpers import fakes

SHARD = 128
UNITS = tuple(plan_units(fakes.HEIGHT, fakes.WIDTH, SHARD))


class Counting(fakes.ByPlace):
    """Counts how often it is asked for what a tile shows."""

    def __init__(self) -> None:
        self.asked: Counter[bytes] = Counter()

    def predict(self, tiles: np.ndarray, features: fakes.Features) -> np.ndarray:
        self.asked.update(tile.tobytes() for tile in tiles)
        return super().predict(tiles, features)


def make_job(slide: str, out: Path, rule: SplitRule | None = None) -> Job:
    work = WorkDir(str(out))
    work.claim({"a": 1})
    return Job(
        key="test",
        source=open_source(slide),
        store=ResultStore(str(out)).create(StoreSpec(fakes.HEIGHT, fakes.WIDTH, SHARD, 64)),
        work=work,
        grid=TileGrid(fakes.HEIGHT, fakes.WIDTH),
        foreground=Foreground(np.ones((50, 60), bool), (fakes.HEIGHT, fakes.WIDTH)),
        features=None,
        thresholds=(128,),
        connectivity=2,
        rules=(rule,),
        units=UNITS,
    )


def lent(job: Job) -> list[Path]:
    return sorted((Path(job.store.out) / ".fewscope" / "lent").glob("*"))


def probability(job: Job) -> np.ndarray:
    return np.asarray(job.store.array("probability")[:])


@pytest.fixture
def alone(slide, tmp_path) -> np.ndarray:
    """The probability where nothing is shared."""
    job = dataclasses.replace(make_job(slide, tmp_path / "alone"), units=())
    worker = UnitWorker(fakes.ByPlace)
    assert sum(worker(job, unit)["tiles"] for unit in UNITS) > 2 * job.grid.n_tiles
    assert not lent(job)
    return probability(job)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [None, SplitRule(4.0)], ids=["components", "split"])
@pytest.mark.parametrize("order", ["forwards", "backwards", "shuffled"])
def test_each_tile_is_predicted_once_in_any_order_of_the_units(slide, tmp_path, alone, order, rule):
    job = make_job(slide, tmp_path / "out", rule)
    model = Counting()
    worker = UnitWorker(lambda: model)
    units = {
        "forwards": UNITS,
        "backwards": UNITS[::-1],
        "shuffled": np.random.default_rng(0).permutation(UNITS),
    }
    rows = [worker(job, unit) for unit in units[order]]
    assert set(model.asked.values()) == {1}
    assert sum(row["tiles"] for row in rows) == job.grid.n_tiles
    assert sum(row["tiles_found"] for row in rows) > job.grid.n_tiles
    assert np.array_equal(probability(job), alone)
    assert not lent(job), "something is left that no unit needs"


@pytest.mark.slow
def test_units_at_work_at_once_may_both_predict_and_nothing_is_left(slide, tmp_path, alone, monkeypatch):
    """Two units that look before the other one leaves anything, as on two machines."""
    job = make_job(slide, tmp_path / "out")
    worker = UnitWorker(fakes.ByPlace)
    with monkeypatch.context() as blind:
        blind.setattr(WorkDir, "find_kept", lambda *_: None)
        first = [worker(job, unit) for unit in UNITS[:2]]
    assert [row["tiles_found"] for row in first] == [0, 0]
    for unit in UNITS[2:]:
        worker(job, unit)
    assert np.array_equal(probability(job), alone)
    assert not lent(job)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "empty", "zeros", "shape"])
def test_a_damaged_file_is_as_good_as_none(slide, tmp_path, alone, damage):
    job = make_job(slide, tmp_path / "out")
    worker = UnitWorker(fakes.ByPlace)
    worker(job, UNITS[0])
    left = lent(job)
    assert left
    for path in left:
        data = path.read_bytes()
        if damage == "shape":
            job.work.keep_array(path.stem, np.zeros((2, 224, 224), np.float32))
        else:
            path.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "zeros": bytes(len(data))}[damage])
    for unit in UNITS[1:]:
        worker(job, unit)
    assert np.array_equal(probability(job), alone)
    assert not lent(job)


@pytest.mark.slow
def test_a_unit_that_is_done_again_finds_what_it_left_itself(slide, tmp_path, alone):
    """As after a crash between its last tile and its marker."""
    job = make_job(slide, tmp_path / "out")
    worker = UnitWorker(fakes.ByPlace)
    tiles = worker(job, UNITS[0])["tiles"]
    (Path(job.store.out) / ".fewscope" / "markers" / f"{UNITS[0].name}.json").unlink()
    again = worker(job, UNITS[0])
    assert (again["tiles"], again["tiles_found"]) == (0, tiles)  # of a unit as small as a tile all are shared
    for unit in UNITS[1:]:
        worker(job, unit)
    assert np.array_equal(probability(job), alone)
    assert not lent(job)


def test_nothing_is_lent_where_files_are_slow(slide, tmp_path):
    job = make_job(slide, tmp_path / "out")
    remote = dataclasses.replace(job, work=WorkDir("memory://shared-tiles/out", run_hash="a"))
    remote.work.claim({"a": 1})
    worker = UnitWorker(fakes.ByPlace)
    assert [worker(remote, unit)["tiles_found"] for unit in UNITS[:3]] == [0, 0, 0]
