"""What the report says of channels is what the table holds."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fewscope.connectors.source import COLOURS, MeasuredChannel
from fewscope.connectors.stain_options import DAB_GRADES, Positive
from fewscope.pipeline.report.charts import chart
from fewscope.pipeline.report.intensities import Grades, channel_reports

DAB = MeasuredChannel("DAB", 0.0, 1e-4, "od")
CD3 = MeasuredChannel("CD3")


def test_objects_are_graded_by_class():
    table = pa.table(
        {
            "od_DAB": [0.0, 0.1999, 0.2, 0.5, 0.6, 3.0, np.nan],
            "class": pa.array(["a", "b", "a", "b", "a", "a", "a"]).dictionary_encode(),
        }
    )
    for form in (table, ds.dataset(table)):
        (channel,) = channel_reports(form, [DAB], [DAB_GRADES], ("a", "b"))
        assert channel.unit == "optical density"
        assert channel.grades == (Grades("a", 1, (1, 0, 2)), Grades("b", 1, (0, 1, 0)))
        assert channel.grades[0].fraction == 0.75
        assert channel.grades[0].h_score == pytest.approx(25 + 3 * 50)
        (whole,) = channel_reports(form, [DAB], [Positive("DAB", (0.2,))])
        assert whole.grades == (Grades("", 2, (4,)),)
        assert whole.grades[0].h_score is None


def test_colours_are_left_out_and_asked_for_comes_first():
    table = pa.table({one.column: [1.0, 2.0, 4.0] for one in (*COLOURS, DAB, CD3)})
    measured = (*COLOURS, DAB, CD3)
    assert [one.name for one in channel_reports(table, measured, [])] == ["DAB", "CD3"]
    asked = channel_reports(table, measured, [Positive("red", (2.0,)), Positive("CD3", (1.0,))])
    assert [one.name for one in asked] == ["red", "CD3", "DAB"]
    assert asked[0].grades[0].positive == (2,)
    other = channel_reports(table, measured, [Positive("CD3", (1.0,)), Positive("DAB", (2.0,))])
    assert [one.name for one in other] == ["CD3", "DAB"]
    assert channel_reports(table.slice(0, 0), measured, [DAB_GRADES]) == ()


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40),
    st.lists(st.floats(-1e6, 1e6), max_size=3, unique=True),
)
@example([0.0, -8.9e-73], [])
def test_every_object_is_in_one_bar_and_every_mark_in_the_chart(values, limits):
    positive = [Positive("CD3", tuple(sorted(limits)))] if limits else []
    (channel,) = channel_reports(pa.table({"intensity_CD3": values}), [CD3], positive)
    assert sum(channel.histogram.counts) == len(values)
    assert channel.histogram.median == pytest.approx(np.median(values))
    drawn = chart(channel.histogram, marks=channel.thresholds)
    for x in (*(x for x, _ in drawn["marks"]), *(x for x, _ in drawn["x_ticks"])):
        assert drawn["left"] - 0.01 <= x <= drawn["right"] + 0.01
