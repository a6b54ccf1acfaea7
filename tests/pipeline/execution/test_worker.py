"""One unit: what is predicted, what is covered, what could not be read, who may write where."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
from rasterio.windows import Window

from fewscope.connectors.open import open_source
from fewscope.connectors.results.run_folder import WorkDir
from fewscope.connectors.results.store import ResultStore
from fewscope.connectors.results.store_layout import StoreSpec
from fewscope.pipeline.execution.job import Job
from fewscope.pipeline.execution.worker import UnitWorker, relabel_unit
from fewscope.pipeline.instances.split_rules import SplitRule
from fewscope.pipeline.tiling.blending import to_uint8
from fewscope.pipeline.tiling.foreground import Foreground, find_foreground
from fewscope.pipeline.tiling.grid import TileGrid, Unit, plan_units
from tests.helpers import fakes

HEIGHT, WIDTH, SHARD = fakes.HEIGHT, fakes.WIDTH, 128


@pytest.fixture
def job(slide, tmp_path) -> Job:
    work = WorkDir(str(tmp_path / "out"))
    work.claim({"a": 1})
    store = ResultStore(str(tmp_path / "out")).create(StoreSpec(HEIGHT, WIDTH, SHARD, 64))
    everything = Foreground(np.ones((50, 60), bool), (HEIGHT, WIDTH))
    return Job(
        key="test",
        source=open_source(slide),
        store=store,
        work=work,
        grid=TileGrid(HEIGHT, WIDTH),
        foreground=everything,
        features=None,
        thresholds=(128,),
        connectivity=2,
        rules=(None,),
    )


def only(job: Job, core: Window) -> Foreground:
    """A foreground that holds one window."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[core.toslices()] = True
    return dataclasses.replace(job.foreground, mask=mask)


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [0, 1, 31, 112])
def test_p_1_gives_1_on_every_pixel_at_every_overlap(job, overlap):
    job = dataclasses.replace(job, grid=TileGrid(HEIGHT, WIDTH, overlap=overlap))
    units = plan_units(HEIGHT, WIDTH, 256)
    worker = UnitWorker(fakes.Certain)
    rows = [worker(job, unit) for unit in units]
    assert (job.store.array("probability")[:] == 255).all()
    assert (job.store.array("scratch")[:] == 1).all()
    assert [row["labels"] for row in rows] == [1] * len(units)
    assert sum(row["unread_px"] for row in rows) == 0


def test_a_unit_writes_its_shards_and_no_others(job):
    unit = plan_units(HEIGHT, WIDTH, SHARD)[6]
    UnitWorker(fakes.Certain)(job, unit)
    written = job.store.array("probability")[:] > 0
    assert written[unit.core.toslices()].all()
    assert written.sum() == unit.core.height * unit.core.width


@pytest.mark.parametrize("core", [Window(64, 0, 128, 128), Window(0, 0, 128, 100), Window(0, 128, 200, 128)])
def test_a_unit_that_would_share_a_shard_is_refused(job, core):
    with pytest.raises(ValueError, match="whole shards"):
        UnitWorker(fakes.ByColour)(job, Unit(0, 0, 0, core))
    assert job.work.read_markers() == {}


def test_a_unit_done_twice_gives_the_same_bytes_twice(job):
    unit = plan_units(HEIGHT, WIDTH, 256)[0]
    worker, root = UnitWorker(fakes.ByPlace), job.store.out

    def everything():
        files = [path for path in Path(root).rglob("*") if path.is_file() and "markers" not in path.parts]
        return {path: path.read_bytes() for path in files}

    worker(job, unit)
    once = everything()
    worker(pickle.loads(pickle.dumps(job)), unit)
    assert everything() == once


def test_tiles_without_foreground_are_skipped(job):
    unit = plan_units(HEIGHT, WIDTH, 256)[0]
    corner = Window(0, 0, 10, 10)
    job = dataclasses.replace(job, foreground=only(job, corner))
    row = UnitWorker(fakes.Certain)(job, unit)
    assert row["tiles"] == 1
    assert (job.store.array("probability")[:] > 0).sum() == 224 * 224


def test_a_unit_of_glass_writes_nothing_and_is_done(job):
    units = plan_units(HEIGHT, WIDTH, 256)
    job = dataclasses.replace(job, foreground=only(job, Window(0, 0, 10, 10)))
    row = UnitWorker(fakes.Certain)(job, units[-1])
    assert (row["tiles"], row["labels"]) == (0, 0)
    assert list(job.work.read_markers()) == [units[-1].name]
    assert not job.store.array("probability")[:].any()


@pytest.mark.slow
@pytest.mark.parametrize("rule", [None, SplitRule(4.0)], ids=["components", "split"])
def test_what_a_unit_computes_does_not_depend_on_its_size(job, tmp_path, rule):
    """Probability of small units = of one unit for all; so are masks, and the number of object pixels."""
    whole = Unit(0, 0, 0, Window(0, 0, WIDTH, HEIGHT))
    job = dataclasses.replace(job, rules=(rule,))
    worker = UnitWorker(fakes.ByPlace)
    worker(job, whole)
    expected = job.store.array("probability")[:]
    other = dataclasses.replace(job, store=ResultStore(str(tmp_path / "b")).create(job.store.spec))
    for unit in plan_units(HEIGHT, WIDTH, SHARD):
        worker(other, unit)
    assert np.array_equal(other.store.array("probability")[:], expected)
    labelled = other.store.array("scratch")[:] > 0
    assert np.array_equal(labelled, expected >= job.thresholds[0])


def test_tiled_is_whole(job):
    """A model of single pixels: the stitched probability is the model of the whole picture, to the byte."""
    for unit in plan_units(HEIGHT, WIDTH, 256):
        UnitWorker(fakes.ByColour)(job, unit)
    expected = to_uint8(fakes.colour_probability(fakes.picture()))
    assert np.array_equal(job.store.array("probability")[:], expected)


def test_relabelling_writes_the_final_ids(job):
    unit = plan_units(HEIGHT, WIDTH, 256)[0]
    n = UnitWorker(fakes.ByColour)(job, unit)["labels"]
    lookup = np.arange(n + 1, dtype=np.uint32) * 10
    lookup[1] = 0  # dropped
    n_pixels = relabel_unit(job, unit, lookup)
    local = job.store.array("scratch")[:256, :256]
    assert np.array_equal(job.store.array("instances")[:256, :256], lookup[local])
    assert np.array_equal(job.store.array("semantic")[:256, :256], (local > 1).astype(np.uint8))
    assert n_pixels == (local > 1).sum()
    relabel_unit(job, unit, np.arange(n + 1, dtype=np.uint32))  # again, from the labels alone
    assert np.array_equal(job.store.array("semantic")[:256, :256], (local > 0).astype(np.uint8))


class Damaged:
    """A source with a bad block and a part outside the scan; what it says of itself is exact."""

    bad, outside = Window(200, 40, 100, 60), Window(0, 400, 600, 100)

    def __init__(self, source) -> None:
        self._source, self.info, self._failed = source, source.info, False

    def read(self, window):
        image, valid = self._source.read(window)
        rows = np.arange(window.row_off, window.row_off + window.height)[:, None]
        cols = np.arange(window.col_off, window.col_off + window.width)[None]
        for hole in (self.bad, self.outside):
            (top, bottom), (left, right) = hole.toranges()
            here = (rows >= top) & (rows < bottom) & (cols >= left) & (cols < right)
            self._failed |= hole is self.bad and bool(here.any())
            valid = valid & ~here
        return image, valid

    def unreadable(self, max_side=None):
        return (self.bad,) if self._failed else ()


@pytest.mark.parametrize("unit_px", [128, 256, 640])
def test_unreadable_is_what_failed_to_decode_and_not_what_lies_outside_the_scan(job, unit_px):
    job = dataclasses.replace(job, source=Damaged(job.source))
    worker = UnitWorker(fakes.Certain)
    rows = [worker(job, unit) for unit in plan_units(HEIGHT, WIDTH, unit_px)]
    assert sum(row["unread_px"] for row in rows) == 100 * 60
    expected = np.full((HEIGHT, WIDTH), 255)
    for hole in (Damaged.bad, Damaged.outside):
        expected[hole.toslices()] = 0
    assert np.array_equal(job.store.array("probability")[:], expected)


def test_unreadable_glass_is_no_loss(job):
    mask = np.ones((HEIGHT, WIDTH), bool)
    mask[:, 250:] = False
    job = dataclasses.replace(
        job, source=Damaged(job.source), foreground=dataclasses.replace(job.foreground, mask=mask)
    )
    worker = UnitWorker(fakes.Certain)
    rows = [worker(job, unit) for unit in plan_units(HEIGHT, WIDTH, 256)]
    assert sum(row["unread_px"] for row in rows) == 50 * 60


def test_places_of_the_overview_that_failed_are_worth_reading_and_those_outside_the_scan_are_not():
    overview = np.full((50, 60, 3), 250, np.uint8)  # glass, with tissue in one corner
    overview[30:, 30:] = (150, 60, 140)
    valid = np.ones((50, 60), bool)
    valid[:10] = False
    overview[~valid] = 255
    bad = Window(0, 0, 100, 55)  # of 500 x 600 px: rows 0..6, columns 0..10 of the overview
    found = find_foreground(overview, valid, [bad], (500, 600), "auto")
    assert found.mask[:6, :10].all()
    assert not found.mask[:10, 12:].any()
    assert found.mask[30:, 30:].all()
    everything = find_foreground(overview, valid, [bad], (500, 600), "all").mask
    assert everything[valid].all()
    assert not everything[:8, 12:].any()


def test_the_mask_on_a_window_is_the_mask():
    mask = np.random.default_rng(0).random((50, 60)) < 0.5
    whole = Foreground(mask, (500, 600))
    assert np.array_equal(whole.on_window(Window(0, 0, 600, 500)), np.kron(mask, np.ones((10, 10), bool)))
    crop = whole.on_window(Window(33, 71, 200, 100))
    assert np.array_equal(crop, np.kron(mask, np.ones((10, 10), bool))[71:171, 33:233])
