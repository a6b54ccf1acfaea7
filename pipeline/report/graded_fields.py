"""Fields of view whose objects are outlined by how positive they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from rasterio.windows import Window

from fewscope.connectors.colours import Colour
from fewscope.pipeline.report.drawing import outlined, picture
from fewscope.pipeline.report.figures import GradedField, crop, faded
from fewscope.pipeline.report.intensities import ChannelReport
from fewscope.pipeline.report.statistics import FIELD_PX, InstanceStatistics, batches, in_whole_fields
from fewscope.pipeline.tiling.area import Area

GRADE_COLOURS: tuple[Colour, ...] = ((64, 156, 255), (255, 224, 60), (255, 140, 0), (214, 20, 40))
"""Of negative, 1+, 2+ and 3+ objects."""


def graded_fields(
    source: Any,
    result: Any,
    statistics: InstanceStatistics,
    table: Any,
    channel: ChannelReport,
    area: Area | None = None,
) -> tuple[GradedField, ...]:
    """The field with the most positive objects, and a median one by their share.

    Parameters
    ----------
    source, result, statistics, area
        As `figures.draw` takes them.
    table : pyarrow.dataset.Dataset or pyarrow.Table
        Of the instances.
    channel : ChannelReport
        With thresholds.
    """
    counts, shape = statistics.field_counts, statistics.field_counts.shape
    positive = np.zeros(shape, np.int64)
    for batch in batches(table, ("centroid_row", "centroid_col", channel.column)):
        row, col = batch["centroid_row"], batch["centroid_col"]
        counted = in_whole_fields(row, col, shape) & (batch[channel.column] >= channel.thresholds[0])
        field = (row[counted] // FIELD_PX).astype(np.int64), (col[counted] // FIELD_PX).astype(np.int64)
        np.add.at(positive, field, 1)
    if not positive.any():
        return ()
    share = np.divide(positive, counts, out=np.full(shape, np.nan), where=counts > 0)
    usable = np.flatnonzero(counts >= max(1, np.median(counts[counts > 0])))
    by_share = usable[np.argsort(share.flat[usable], kind="stable")]
    chosen = {
        "Field with the most positive objects": int(positive.argmax()),
        "Field of median share": int(by_share[len(by_share) // 2]),
    }
    fields: dict[int, GradedField] = {}
    for title, place in chosen.items():
        if place in fields:
            continue
        top, left = (int(i) * FIELD_PX for i in np.unravel_index(place, shape))
        window = Window(
            left, top, min(FIELD_PX, statistics.width - left), min(FIELD_PX, statistics.height - top)
        )
        image, labels, _ = crop(source, result, window)
        grades = _grades(labels, table, channel)
        fields[place] = GradedField(
            title,
            top,
            left,
            int(counts.flat[place]),
            int(positive.flat[place]),
            picture(image, window.width),
            picture(
                outlined(faded(image, window, area), labels, 1.5, 2, grades, GRADE_COLOURS),
                window.width,
                lines=True,
            ),
        )
    return tuple(fields.values())


def _grades(labels: npt.NDArray[Any], table: Any, channel: ChannelReport) -> npt.NDArray[np.int64]:
    """1 where an object is negative, 2 to 4 where it is 1+ to 3+, 0 beside objects: (h, w) of the labels."""
    ids, place = np.unique(labels, return_inverse=True)
    among = pc.field("id").isin(pa.array(ids))
    rows = (
        table.filter(among)
        if isinstance(table, pa.Table)
        else table.to_table(["id", channel.column], filter=among)
    )
    of_id = np.zeros(len(ids), np.int64)
    at = np.searchsorted(ids, rows["id"].to_numpy())
    of_id[at] = 1 + np.searchsorted(channel.thresholds, rows[channel.column].to_numpy(), side="right")
    of_id[ids == 0] = 0
    grades: npt.NDArray[np.int64] = of_id[place].reshape(labels.shape)
    return grades
