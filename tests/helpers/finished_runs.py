"""What a run leaves that found given labels: the store, the table of instances, the job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from rasterio.windows import Window

import fewscope.pipeline.report.builder
from fewscope.connectors.results.instance_table import InstanceTableWriter
from fewscope.connectors.results.run_folder import WorkDir
from fewscope.connectors.results.store import ResultStore
from fewscope.connectors.results.store_layout import StoreSpec
from fewscope.pipeline.config import RasterConfig, SegmentConfig
from fewscope.pipeline.execution.job import Job
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.instances.labelling import merge_labels
from fewscope.pipeline.instances.measurements import final_tables, instance_schema, measure_unit
from fewscope.pipeline.run import segment
from fewscope.pipeline.tiling.grid import plan_units
from tests.helpers import fakes
from tests.helpers.rasters import UTM18, north_up, write_raster

SIDE = 64
PROBABILITY = 204


def finished(out: Path, labels: np.ndarray, source: Any, n_labels: dict[str, int] | None = None) -> Job:
    """Fill an output folder as if a run had found `labels` (H, W) uint32 in `source`; the run's job.

    `n_labels`: how many of the labels are of each class, by its name; all are of one when None.
    """
    names = ("object",) if n_labels is None else tuple(n_labels)
    work = WorkDir(str(out))
    work.claim({"made": "by a test"}, overwrite=False)
    height, width = labels.shape
    transform: Affine = source.info.transform
    attributes = {"source": {"transform": list(transform)[:6]}}
    store = ResultStore(str(out)).create(
        StoreSpec(height, width, shard=SIDE, chunk=32), attributes=attributes
    )
    for unit in plan_units(height, width, SIDE):
        core = unit.core
        block = labels[core.row_off : core.row_off + core.height, core.col_off : core.col_off + core.width]
        found = (block > 0).astype(np.uint8)
        store.write("instances", 0, core, np.ascontiguousarray(block))
        store.write("semantic", 0, core, found)
        store.write("probability", 0, core, found * np.uint8(PROBABILITY))
    certain = np.full(labels.shape, PROBABILITY, np.uint8)
    n_of_class = None if n_labels is None else list(n_labels.values())
    whole = measure_unit(labels, certain, Window(0, 0, width, height), labels.shape, n_of_class)
    first, area = whole["first"].to_numpy(), whole["area"].to_numpy()
    merge = merge_labels([int(labels.max())], np.zeros((0, 2), np.int64), [first], [area], 0)
    one_unit = plan_units(height, width, max(height, width))
    with InstanceTableWriter(str(out / "instances.parquet"), instance_schema(names)) as writer:
        for table in final_tables(one_unit, lambda _: whole, merge, transform, None, names):
            writer.write(table)
    return Job("k", source, store, work, None, None, None, (128,), 2, (None,))  # type: ignore[arg-type]


def segmented_slide(folder: Path) -> tuple[SegmentConfig, np.ndarray]:
    """A small slide segmented in this process, outlines following every pixel; and what the model sees, (H, W) bool."""
    image = fakes.picture(300, 400)
    image[100:160, 200:260] = (200, 60, 0)  # an object with a hole, and one in it
    image[110:150, 210:250] = (0, 60, 200)
    image[125:135, 225:235] = (200, 60, 0)
    source, support = fakes.write_slide(folder / "slide.tif", image), fakes.write_support(folder / "patches")
    config = SegmentConfig(
        source, support, str(folder / "out"), shard=128, threshold=0.5, instances="components",
        min_area_um2=0, simplify_px=0,
    )  # fmt: skip
    return segmented(config), fakes.colour_probability(image) >= 0.5


def segmented_raster(
    folder: Path, transform: Affine | None = None, crs: str = UTM18
) -> tuple[SegmentConfig, np.ndarray]:
    """Lakes and a river mapped in this process, beside pixels that are missing; (H, W) uint8 as in ``mask.tif``."""
    water = np.zeros((300, 400), np.uint8)
    water[100:120] = 1  # from edge to edge
    water[150:250, 60:160] = 1
    water[180:220, 90:130] = 0  # an island
    water[30:60, 300:340] = 1
    values = np.where(
        water == 1, np.array([200, 60, 40])[:, None, None], np.array([40, 60, 200])[:, None, None]
    )
    known = np.ones(water.shape, bool)
    known[:90, :120] = False
    source = write_raster(
        folder / "scene.tif", values.astype(np.uint8), transform or north_up(), crs, mask=known
    )
    support = Path(fakes.write_support(folder / "patches"))
    (support / "support.json").write_text('{"class": "water"}')
    config = SegmentConfig(
        source, str(support), str(folder / "out"), shard=128, threshold=0.5, instances="components",
        raster=RasterConfig(),
    )  # fmt: skip
    water[~known] = 255
    return segmented(config), water


def segmented(config: SegmentConfig, model: type[fakes.ByColour] = fakes.ByColour) -> SegmentConfig:
    """Run a configuration in this process, with a model that needs no weights, and no pictures in the report."""
    with LocalPool(model) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setattr(fewscope.pipeline.report.builder, "draw", fakes.no_pictures)
        segment(config, pool, model())
    return config
