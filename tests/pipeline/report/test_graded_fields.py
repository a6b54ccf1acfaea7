"""Fields of view by the share of positive objects."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from fewscope.connectors.source import MeasuredChannel
from fewscope.connectors.stain_options import Positive
from fewscope.pipeline.report import graded_fields as of_grades
from fewscope.pipeline.report.intensities import channel_reports
from fewscope.pipeline.report.statistics import instance_statistics

HEIGHT, WIDTH = 900, 1200


def test_fields_count_the_objects_that_they_show(monkeypatch):
    """What lies beyond the whole fields, at the lower and right edges, is in none."""
    row, col = (axis.ravel() for axis in np.mgrid[10:HEIGHT:40, 10:WIDTH:40].astype(float))
    table = pa.table(
        {
            "id": np.arange(1, len(row) + 1),
            "area_px": np.full(len(row), 9),
            "centroid_row": row,
            "centroid_col": col,
            **{f"bbox_{side}{end}": at + end for side, at in (("row", row), ("col", col)) for end in (0, 1)},
            "intensity_CD3": np.where(col < 700, 10.0, 90.0),
        }
    )
    statistics = instance_statistics(table, HEIGHT, WIDTH, np.ones((9, 12), bool))
    (channel,) = channel_reports(table, [MeasuredChannel("CD3")], [Positive("CD3", (50.0,))])
    nothing = np.zeros((512, 512, 3), np.uint8), np.zeros((512, 512), np.uint32), None
    monkeypatch.setattr(of_grades, "crop", lambda *_: nothing)
    densest = of_grades.graded_fields(None, None, statistics, table, channel)[0]
    assert (densest.row, densest.col) == (0, 512)
    inside = (row < 512) & (col >= 512) & (col < 1024)
    assert (densest.count, densest.positive) == (inside.sum(), (inside & (col >= 700)).sum())
