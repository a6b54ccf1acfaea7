"""What one worker does: read a unit, predict its tiles, blend, threshold, label, write. No Ray here.

A `UnitWorker` holds a model and does one unit at a time per thread; two threads share one worker, so that one unit is
read and another one written while the model works on a third. Everything it writes is a function of the job and the
unit alone: a unit that is done twice gives the same bytes twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from rasterio.windows import Window

from fewscope.pipeline.execution.job import Job
from fewscope.pipeline.execution.tile_cache import SharedTiles
from fewscope.pipeline.instances.class_map import assign_classes, label_classes, winning_probability
from fewscope.pipeline.instances.measurements import measure_unit
from fewscope.pipeline.predictor import Model, predict_maps
from fewscope.pipeline.tiling.blending import Blender, weights
from fewscope.pipeline.tiling.grid import Unit, grow

TILES_AT_ONCE = 64
"""Tiles handed to the model in one call: bounds the copy of them (10 MB), and is a whole number of its batches."""


class UnitWorker:
    """A model and what it does to units.

    Parameters
    ----------
    load_model : makes the model; called once, in the worker's process
    """

    def __init__(self, load_model: Callable[[], Model]) -> None:
        self._model = load_model()
        self._turn = threading.Lock()  # one unit at a time has the model: the others read or write meanwhile

    def __call__(self, job: Job, unit: Unit) -> dict[str, Any]:
        """Do one unit and mark it as done.

        Returns
        -------
        The row that is also in the done-marker: numbers of tiles predicted, and found as another unit predicted them,
        of labels and of unread pixels, and seconds spent.
        """
        began = time.perf_counter()
        around = grow(unit.core, job.halo, job.grid.height, job.grid.width)
        tiles = [t for t in job.grid.tiles_touching(around) if job.foreground.touches(t)]
        row: dict[str, Any] = {"tiles": 0, "tiles_found": 0, "labels": 0, "unread_px": 0}
        row |= {"read_s": 0.0, "wait_s": 0.0, "model_s": 0.0, "post_s": 0.0}
        shared = SharedTiles(job.work, unit, job.units, job.grid, job.halo)
        if tiles:
            maps = self._predict(job, unit, around, tiles, shared, row)
        else:
            maps = np.zeros((job.n_maps, around.height, around.width), np.uint8)
        then = time.perf_counter()
        self._finish(job, unit, around, maps, row)
        row["post_s"] = time.perf_counter() - then
        row["total_s"] = time.perf_counter() - began
        job.work.write_marker(unit.name, row)
        shared.clean()
        return row

    def _predict(
        self,
        job: Job,
        unit: Unit,
        around: Window,
        tiles: list[Window],
        shared: SharedTiles,
        row: dict[str, Any],
    ) -> np.ndarray:
        """Probability, and depth where it is needed, of each class on the window `around`: (n_maps, h, w) uint8."""
        began = time.perf_counter()
        window = _bounds(tiles)
        image, valid = job.source.read(window)
        tiles = [t for t in tiles if valid[_slices(t, window)].any()]  # the others would be wiped out below
        row["read_s"] = time.perf_counter() - began

        blender = Blender(around, weights(job.grid.tile, job.grid.overlap), job.n_maps)
        with self._turn:
            row["wait_s"] = time.perf_counter() - began - row["read_s"]
            for tile, p in self._maps_of(job, tiles, image, window, shared, row):
                blender.add(tile, p)
        del image
        maps = blender.stored()
        real = np.zeros((around.height, around.width), bool)
        inside = _overlap(window, around)
        real[_slices(inside, around)] = valid[_slices(inside, window)]
        maps[:, ~real] = 0
        row["unread_px"] = _unreadable_px(job, _overlap(inside, unit.core), real, around)
        return maps

    def _maps_of(
        self,
        job: Job,
        tiles: list[Window],
        image: np.ndarray,
        window: Window,
        shared: SharedTiles,
        row: dict[str, Any],
    ) -> Iterator[tuple[Window, np.ndarray]]:
        """Each tile of an image of `window`, in their order, with its maps: found, or predicted."""
        shape = job.n_maps, job.grid.tile, job.grid.tile
        some: list[tuple[Window, np.ndarray | None]] = []
        n_missing = 0
        for i, tile in enumerate(tiles, start=1):
            some.append((tile, shared.find(tile, shape)))
            n_missing += some[-1][1] is None
            if i < len(tiles) and n_missing < TILES_AT_ONCE and len(some) < 2 * TILES_AT_ONCE:
                continue
            missing = [t for t, found in some if found is None]
            predicted: Iterator[np.ndarray] = iter(())
            if missing:
                batch = np.stack([_cut(image, window, t) for t in missing])
                then = time.perf_counter()
                predicted = iter(predict_maps(self._model, batch, job.features, job.needs_depth))
                row["model_s"] += time.perf_counter() - then
            for t, found in some:
                maps = found
                if maps is None:
                    maps = next(predicted)
                    shared.leave(t, maps)
                yield t, maps
            row["tiles"] += len(missing)
            row["tiles_found"] += len(some) - len(missing)
            some, n_missing = [], 0

    def _finish(self, job: Job, unit: Unit, around: Window, maps: np.ndarray, row: dict[str, Any]) -> None:
        """Settle the classes, label, measure; write the shards, then the small files."""
        core, shape = unit.core, (job.grid.height, job.grid.width)
        probability, depths = maps[: len(job.rules)], maps[len(job.rules) :]
        classes = assign_classes(probability, job.thresholds)
        labels, n_labels, borders = label_classes(
            classes, around, core, shape, job.rules, job.connectivity, list(depths)
        )
        mine = probability[:, *_slices(core, around)]
        classes = np.ascontiguousarray(classes[_slices(core, around)])
        winning = winning_probability(mine, classes)
        job.store.write("probability", 0, core, winning)
        for name, of_class in zip(job.store.spec.class_arrays, mine, strict=False):
            job.store.write(name, 0, core, np.ascontiguousarray(of_class))
        job.store.write("semantic", 0, core, classes)
        job.store.write("scratch", 0, core, labels)
        row["labels"] = sum(n_labels)
        if row["labels"]:
            job.work.save_table(unit.name, measure_unit(labels, winning, core, shape, n_labels))
            job.work.save_arrays(unit.name, **borders.arrays())


def _unreadable_px(job: Job, window: Window, real: np.ndarray, around: Window) -> int:
    """Pixels of the foreground in `window` that failed to decode; not those outside the scan.

    A sum over the units does not depend on them: a unit that owns a pixel of the foreground has read it.
    """
    missing = ~real[_slices(window, around)]
    failed = np.zeros_like(missing)
    if missing.any():
        for bad in job.source.unreadable():
            failed[_slices(_overlap(bad, window), window)] = True
        failed &= missing & job.foreground.on(window)
    return int(np.count_nonzero(failed))


def relabel_unit(job: Job, unit: Unit, lookup: np.ndarray) -> int:
    """Write the unit's shards of final ids: ``lookup[labels]``, with `lookup` (n + 1,) uint32. Number of pixels."""
    core = unit.core
    labels = np.asarray(job.store.array("scratch", 0)[_slices(core, Window(0, 0, 0, 0))])
    ids = lookup[labels]
    job.store.write("instances", 0, core, ids)
    return int(np.count_nonzero(ids))


def _cut(image: np.ndarray, window: Window, tile: Window) -> np.ndarray:
    return image[_slices(tile, window)]


def _bounds(tiles: list[Window]) -> Window:
    """The smallest window that holds all `tiles`."""
    top, left = min(t.row_off for t in tiles), min(t.col_off for t in tiles)
    bottom = max(t.row_off + t.height for t in tiles)
    right = max(t.col_off + t.width for t in tiles)
    return Window(left, top, right - left, bottom - top)


def _overlap(one: Window, other: Window) -> Window:
    top, left = max(one.row_off, other.row_off), max(one.col_off, other.col_off)
    bottom = min(one.row_off + one.height, other.row_off + other.height)
    right = min(one.col_off + one.width, other.col_off + other.width)
    return Window(left, top, max(0, right - left), max(0, bottom - top))


def _slices(window: Window, frame: Window) -> tuple[slice, slice]:
    """Where `window` lies in an array that shows `frame`."""
    top, left = window.row_off - frame.row_off, window.col_off - frame.col_off
    return slice(top, top + window.height), slice(left, left + window.width)
