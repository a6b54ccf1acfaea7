"""Outlines traced all at once are those that GDAL traces one by one."""

import numpy as np
import pytest
import rasterio.features
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fewscope.pipeline.geometry.contours import trace_parts

LABELS = arrays(np.int32, st.tuples(st.integers(1, 14), st.integers(1, 14)), elements=st.integers(0, 3))


def traced_by_gdal(labels: np.ndarray) -> list[tuple[int, shapely.Polygon]]:
    shapes = rasterio.features.shapes(labels, mask=labels != 0, connectivity=4)
    return [(int(value), shapely.Polygon(g["coordinates"][0], g["coordinates"][1:])) for g, value in shapes]


def ordered(parts: list[tuple[int, shapely.Polygon]]) -> list[tuple[int, shapely.Geometry]]:
    """By label and place, valid: where a ring touches itself, GDAL may write two instead."""
    valid = [(i, shapely.normalize(shapely.make_valid(part))) for i, part in parts]
    return sorted(valid, key=lambda part: (part[0], part[1].bounds, part[1].wkt))


@settings(max_examples=300)
@given(LABELS)
def test_parts_are_those_of_gdal(labels: np.ndarray) -> None:
    ids, parts = trace_parts(labels)
    assert ids.tolist() == sorted(ids.tolist())
    mine = ordered(list(zip(ids.tolist(), parts, strict=True)))
    for (i, part), (of_gdal, expected) in zip(mine, ordered(traced_by_gdal(labels)), strict=True):
        assert i == of_gdal
        assert part.equals(expected)


@settings(max_examples=100)
@given(LABELS)
def test_parts_of_a_label_come_in_the_order_of_their_first_pixels(labels: np.ndarray) -> None:
    ids, parts = trace_parts(labels)
    tops = [min((y, x) for x, y in part.exterior.coords) for part in parts]
    assert list(zip(ids.tolist(), tops, strict=True)) == sorted(zip(ids.tolist(), tops, strict=True))


def test_holes_lie_in_the_part_that_they_belong_to() -> None:
    """Two rings of one label, one inside the other, each with its hole."""
    labels = np.zeros((9, 9), np.uint32)
    labels[:] = 4_000_000_000  # above int32
    labels[1:8, 1:8] = 0
    labels[2:7, 2:7] = 4_000_000_000
    labels[3:6, 3:6] = 9
    ids, parts = trace_parts(labels)
    assert ids.tolist() == [9, 4_000_000_000, 4_000_000_000]
    assert [part.area for part in parts] == [9, 81 - 49, 25 - 9]
    assert all(part.is_valid for part in parts)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (3, 3)])
def test_nothing_to_trace(shape: tuple[int, int]) -> None:
    ids, parts = trace_parts(np.zeros(shape, np.uint16))
    assert len(ids) == len(parts) == 0
