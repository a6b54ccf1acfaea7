"""What a run leaves that found given labels: the store, the table of instances, the job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from rasterio.windows import Window

from fewscope.connectors.results.instance_table import InstanceTableWriter
from fewscope.connectors.results.run_folder import WorkDir
from fewscope.connectors.results.store import ResultStore
from fewscope.connectors.results.store_layout import StoreSpec
from fewscope.pipeline.execution.job import Job
from fewscope.pipeline.instances.labelling import merge_labels
from fewscope.pipeline.instances.measurements import final_tables, instance_schema, measure_unit
from fewscope.pipeline.tiling.grid import plan_units

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
    store = ResultStore(str(out)).create(StoreSpec(height, width, shard=SIDE, chunk=32))
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
    transform: Affine = source.info.transform
    with InstanceTableWriter(str(out / "instances.parquet"), instance_schema(names)) as writer:
        for table in final_tables(one_unit, lambda _: whole, merge, transform, None, names):
            writer.write(table)
    return Job("k", source, store, work, None, None, None, (128,), 2, (None,))  # type: ignore[arg-type]
