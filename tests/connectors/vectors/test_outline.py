"""Polygons with holes as one ring, and outlines far from the origin as ROIs: nothing of the area is lost."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from roifile import ImagejRoi

from fewscope.connectors.support.imagej_rois import _geometry
from fewscope.connectors.support.program_files import outline as read_outline
from fewscope.connectors.vectors.imagej_writer import roi_of
from fewscope.connectors.vectors.outline import Outline, keyhole, signed_area
from fewscope.pipeline.geometry.footprints import footprints

MASKS = arrays.arrays(bool, st.tuples(st.integers(3, 14), st.integers(3, 14)))


def outlined(mask: np.ndarray, scale: float = 1.0, shift: float = 0.0):
    """The shape of a mask, and its outline."""
    transform = Affine.translation(shift, shift) @ Affine.scale(scale)
    ((_, geometry),) = footprints(mask.astype(np.int32), (0, 0), transform)
    polygons = tuple(
        tuple(shapely.get_coordinates(ring)[:-1] for ring in (part.exterior, *part.interiors))
        for part in shapely.get_parts(geometry)
    )
    return geometry, Outline(1, 1, "a", 0.5, polygons)


@given(MASKS.filter(np.any), st.sampled_from([1.0, 0.7]))
def test_one_ring_has_the_area_of_the_polygon_with_its_holes(mask, scale):
    geometry, outline = outlined(mask, scale)
    for part, rings in zip(shapely.get_parts(geometry), outline.polygons, strict=True):
        ring = keyhole(rings)
        assert abs(signed_area(ring)) == pytest.approx(part.area)
        assert shapely.symmetric_difference(read_outline(ring), part).area == pytest.approx(0, abs=1e-9)
    assert outline.area == pytest.approx(geometry.area)
    assert outline.bounds == pytest.approx(geometry.bounds)


@pytest.mark.parametrize("shift", [0.0, 59_000.0, 250_000.0])
def test_rois_lie_where_they_were_also_beyond_what_16_bits_count(shift):
    for mask in (np.ones((3, 5)), np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]]), np.eye(2)):
        geometry, outline = outlined(mask, 4.25, shift)
        again = _geometry(ImagejRoi.frombytes(roi_of(outline).tobytes()))
        assert shapely.symmetric_difference(again, geometry).area == pytest.approx(0, abs=1e-6)
