"""Segments one unit: read, predict tiles, blend, threshold, label, write. Does not import Ray.

A `UnitWorker` holds a model and may be called from several threads, so that one unit is read or written while another
has the model. What it writes is a function of the job and the unit alone: a unit that is segmented twice gives the same
bytes twice.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from rasterio.windows import Window

from fewscope.connectors.source import MeasurableSource
from fewscope.connectors.storage.digests import Digests
from fewscope.errors import ConfigError
from fewscope.pipeline.execution.job import Job
from fewscope.pipeline.execution.tile_cache import TileCache
from fewscope.pipeline.instances.class_map import assign_classes, label_classes, winning_probability
from fewscope.pipeline.instances.measurements import measure_unit
from fewscope.pipeline.predictor import Model, precisions_of, predict_maps, processor_of
from fewscope.pipeline.tiling.blending import Blender, tile_weights
from fewscope.pipeline.tiling.grid import Unit, grow

TILES_AT_ONCE = 64
"""Tiles per call of the model: bounds their copy to 10 MB, and is a multiple of the model's batch size."""


class UnitWorker:
    """Segments units with one model.

    Parameters
    ----------
    load_model : Callable[[], Model]
        Loads the model; called once, in the process of the worker.
    """

    def __init__(self, load_model: Callable[[], Model]) -> None:
        self._model = load_model()
        self._model_lock = threading.Lock()  # one unit has the model while others read or write

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that this worker computes in natively; nothing where the model does not say."""
        return precisions_of(self._model)

    def _check_precision(self, job: Job) -> None:
        """Refuse a run in a precision that this processor would emulate: other numbers, and slowly."""
        if job.precision and self.precisions and job.precision not in self.precisions:
            raise ConfigError(
                f"the run computes in {job.precision}, but {processor_of(self._model)} on {socket.gethostname()} not: "
                "use machines of one kind, or --precision float32 with --overwrite"
            )

    def __call__(self, job: Job, unit: Unit) -> dict[str, Any]:
        """Segment one unit, then write its done-marker.

        Returns
        -------
        The row of the unit, as in its done-marker: numbers of predicted and of cached tiles, of labels and of
        unreadable pixels, and seconds per step.
        """
        began = time.perf_counter()
        padded = grow(unit.core, job.halo, job.grid.height, job.grid.width)
        tiles = [t for t in job.grid.tiles_touching(padded) if job.foreground.touches(t)]
        self._check_precision(job)
        row: dict[str, Any] = {"tiles": 0, "tiles_found": 0, "labels": 0, "unread_px": 0}
        row |= {"read_s": 0.0, "wait_s": 0.0, "model_s": 0.0, "post_s": 0.0}
        cache = TileCache(job.work, unit, job.units, job.grid, job.halo)
        shown = None
        if tiles:
            maps, shown = self._predict(job, unit, padded, tiles, cache, row)
        else:
            maps = np.zeros((job.n_maps, padded.height, padded.width), np.uint8)
        then = time.perf_counter()
        files = self._label_and_write(job, unit, padded, maps, shown, row)
        row["post_s"] = time.perf_counter() - then
        if processor := processor_of(self._model):
            row["processor"] = processor
        row["total_s"] = time.perf_counter() - began
        job.work.write_marker(unit.name, row, files)
        cache.evict()
        return row

    def _predict(
        self,
        job: Job,
        unit: Unit,
        padded: Window,
        tiles: list[Window],
        cache: TileCache,
        row: dict[str, Any],
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """What the unit shows.

        Returns
        -------
        Probabilities, and depths where needed, of the classes on the window `padded`, (n_maps, h, w) uint8; and the
        unit's pixels, (h, w, C) uint8, if they are measured.
        """
        began = time.perf_counter()
        window = _bounding_window(tiles)
        image, valid = job.source.read(window)
        tiles = [t for t in tiles if valid[_slices(t, window)].any()]  # the others are masked below
        row["read_s"] = time.perf_counter() - began

        blender = Blender(padded, tile_weights(job.grid.tile, job.grid.overlap), job.n_maps)
        with self._model_lock:
            row["wait_s"] = time.perf_counter() - began - row["read_s"]
            for tile, p in self._tile_maps(job, tiles, image, window, cache, row):
                blender.add(tile, p)
        shown = _shown(job, unit.core, image, window)
        del image
        maps = blender.result_uint8()
        real = np.zeros((padded.height, padded.width), bool)
        inside = _intersection(window, padded)
        real[_slices(inside, padded)] = valid[_slices(inside, window)]
        if job.foreground.area is not None:
            real &= job.foreground.area.on_window(padded)
        maps[:, ~real] = 0
        row["unread_px"] = _unreadable_px(job, _intersection(inside, unit.core), real, padded)
        return maps, shown

    def _tile_maps(
        self,
        job: Job,
        tiles: list[Window],
        image: np.ndarray,
        window: Window,
        cache: TileCache,
        row: dict[str, Any],
    ) -> Iterator[tuple[Window, np.ndarray]]:
        """Each tile with its maps, cached or predicted, in the order of `tiles`; `image` shows `window`."""
        shape = job.n_maps, job.grid.tile, job.grid.tile
        some: list[tuple[Window, np.ndarray | None]] = []
        n_missing = 0
        for i, tile in enumerate(tiles, start=1):
            some.append((tile, cache.get(tile, shape)))
            n_missing += some[-1][1] is None
            if i < len(tiles) and n_missing < TILES_AT_ONCE and len(some) < 2 * TILES_AT_ONCE:
                continue
            missing = [t for t, found in some if found is None]
            predicted: Iterator[np.ndarray] = iter(())
            if missing:
                batch = np.stack([_crop(image, window, t) for t in missing])
                then = time.perf_counter()
                predicted = iter(predict_maps(self._model, batch, job.features, job.needs_depth))
                row["model_s"] += time.perf_counter() - then
            for t, found in some:
                maps = found
                if maps is None:
                    maps = next(predicted)
                    cache.put(t, maps)
                yield t, maps
            row["tiles"] += len(missing)
            row["tiles_found"] += len(some) - len(missing)
            some, n_missing = [], 0

    def _label_and_write(
        self,
        job: Job,
        unit: Unit,
        padded: Window,
        maps: np.ndarray,
        shown: np.ndarray | None,
        row: dict[str, Any],
    ) -> Digests:
        """Assign classes, label and measure objects; write the shards, then the small files; their digests."""
        core, shape = unit.core, (job.grid.height, job.grid.width)
        probability, depths = maps[: len(job.rules)], maps[len(job.rules) :]
        classes = assign_classes(probability, job.thresholds)
        labels, n_labels, borders = label_classes(
            classes, padded, core, shape, job.rules, job.connectivity, list(depths)
        )
        core_probability = probability[:, *_slices(core, padded)]
        classes = np.ascontiguousarray(classes[_slices(core, padded)])
        winning = winning_probability(core_probability, classes)
        files = job.store.write("probability", 0, core, winning)
        for name, of_class in zip(job.store.spec.class_arrays, core_probability, strict=False):
            files |= job.store.write(name, 0, core, np.ascontiguousarray(of_class))
        files |= job.store.write("scratch", 0, core, labels)
        row["labels"] = sum(n_labels)
        if row["labels"]:
            table = measure_unit(labels, winning, core, shape, n_labels, _measured(job, core, shown, labels))
            files |= job.work.save_table(unit.name, table)
            files |= job.work.save_arrays(unit.name, **borders.arrays())
        return files


def _shown(job: Job, core: Window, image: np.ndarray, window: Window) -> np.ndarray | None:
    """Pixels of a unit (h, w, C) uint8, from an image that shows `window`; None if they are not measured.

    Beyond the window there are no tiles, and so no objects.
    """
    as_shown = job.source.info.measured and not isinstance(job.source, MeasurableSource)
    if not as_shown and job.stains is None:
        return None
    pixels = np.zeros((core.height, core.width, image.shape[2]), np.uint8)
    here = _intersection(core, window)
    pixels[_slices(here, core)] = image[_slices(here, window)]
    return pixels


def _measured(job: Job, core: Window, shown: np.ndarray | None, labels: np.ndarray) -> list[np.ndarray]:
    """What is measured of a unit, channel by channel, each (h, w) uint8 or uint16: what the source measures, then the
    stains of the pixels of objects."""
    pixels = shown
    if isinstance(job.source, MeasurableSource):
        pixels = job.source.read_measured(core)
    n_channels = len(job.source.info.measured)
    channels = [] if pixels is None else [pixels[..., i] for i in range(n_channels)]
    if job.stains is not None and shown is not None:
        inside = labels > 0
        codes = job.stains.codes(shown[inside])
        for i in range(codes.shape[1]):
            density = np.zeros(labels.shape, np.uint16)
            density[inside] = codes[:, i]
            channels.append(density)
    return channels


def _unreadable_px(job: Job, window: Window, real: np.ndarray, padded: Window) -> int:
    """Number of foreground pixels in `window` that failed to decode; pixels outside the scan do not count.

    The sum over units does not depend on how the source is cut: a unit has read every foreground pixel that it owns.
    """
    missing = ~real[_slices(window, padded)]
    failed = np.zeros_like(missing)
    if missing.any():
        for bad in job.source.unreadable():
            failed[_slices(_intersection(bad, window), window)] = True
        failed &= missing & job.foreground.on_window(window)
    return int(np.count_nonzero(failed))


def relabel_unit(job: Job, unit: Unit, lookup: np.ndarray) -> int:
    """Write the final ids and the class map of a unit; returns the number of object pixels.

    Both are made from the labels alone, so that a unit may be relabelled twice. Dropped objects are in neither.

    Parameters
    ----------
    lookup : (n + 1,) uint32
        Final id of each label; 0: background, or dropped.
    """
    core = unit.core
    labels = np.asarray(job.store.array("scratch", 0)[_slices(core, Window(0, 0, 0, 0))])
    ids = lookup[labels]
    of_label = job.work.load_table(unit.name, ["class"])["class"].to_numpy().astype(np.uint8)
    classes = np.concatenate([np.zeros(1, np.uint8), of_label])
    classes[lookup == 0] = 0
    job.store.write("instances", 0, core, ids)
    job.store.write("semantic", 0, core, classes[labels])
    return int(np.count_nonzero(ids))


def _crop(image: np.ndarray, window: Window, tile: Window) -> np.ndarray:
    return image[_slices(tile, window)]


def _bounding_window(tiles: list[Window]) -> Window:
    """Smallest window that contains all tiles."""
    top, left = min(t.row_off for t in tiles), min(t.col_off for t in tiles)
    bottom = max(t.row_off + t.height for t in tiles)
    right = max(t.col_off + t.width for t in tiles)
    return Window(left, top, right - left, bottom - top)


def _intersection(one: Window, other: Window) -> Window:
    top, left = max(one.row_off, other.row_off), max(one.col_off, other.col_off)
    bottom = min(one.row_off + one.height, other.row_off + other.height)
    right = min(one.col_off + one.width, other.col_off + other.width)
    return Window(left, top, max(0, right - left), max(0, bottom - top))


def _slices(window: Window, frame: Window) -> tuple[slice, slice]:
    """Slices of `window` in an array that shows `frame`."""
    top, left = window.row_off - frame.row_off, window.col_off - frame.col_off
    return slice(top, top + window.height), slice(left, left + window.width)
