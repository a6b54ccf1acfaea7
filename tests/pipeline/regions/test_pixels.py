"""Areas in regions are those of whole arrays, however the source is cut into blocks."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import shapely
from affine import Affine
from rasterio.features import rasterize

from fewscope.pipeline.regions.pixels import measure_pixels

SHAPE = (130, 170)
REGIONS = [
    shapely.Point(60.3, 50.7).buffer(41.2),
    shapely.box(-20, 90, 90.4, 200),
    shapely.Point(60, 50).buffer(30.1).difference(shapely.Point(60, 50).buffer(20)),
    shapely.Point(100, 60).buffer(50.0, 400),
    shapely.box(400, 400, 500, 500),
    shapely.Polygon(),
    shapely.box(12.2, 12.2, 12.4, 12.4),
]


@dataclass
class Arrays:
    class_map: np.ndarray
    analysed_map: np.ndarray
    area_map: np.ndarray

    def classes(self, window: Any) -> np.ndarray:
        return self.class_map[window.toslices()]

    def analysed(self, window: Any) -> np.ndarray:
        return self.analysed_map[window.toslices()]

    def areas(self, window: Any) -> np.ndarray:
        rows, cols = window.toslices()
        return self.area_map[rows, cols if self.area_map.shape[1] > 1 else slice(None)]


@pytest.fixture(params=["rows", "pixels"])
def arrays(request):
    rng = np.random.default_rng(0)
    areas = rng.uniform(0.5, 2, (SHAPE[0], 1 if request.param == "rows" else SHAPE[1]))
    valid = rng.random(SHAPE) < 0.8
    return Arrays(rng.integers(0, 4, SHAPE).astype(np.uint8), valid, areas)


def mask_of(region):
    if region.is_empty:
        return np.zeros(SHAPE, bool)
    return rasterize([region], SHAPE, transform=Affine.identity()) > 0


@pytest.mark.parametrize("block", [2048, 64, 37])
def test_they_are_those_of_the_whole_array(arrays, block):
    found, joined = measure_pixels(arrays, REGIONS, SHAPE, 3, 3, block=block)
    areas = np.broadcast_to(arrays.area_map, SHAPE)
    masks = [mask_of(region) for region in REGIONS]
    for one, mask in [*zip(found, masks, strict=True), (joined, masks[0] | masks[1] | masks[2])]:
        assert one.inside_px == mask.sum()
        assert one.inside == pytest.approx(areas[mask].sum())
        assert one.analysed == pytest.approx(areas[mask & arrays.analysed_map].sum())
        for value in (1, 2, 3):
            of_class = mask & (arrays.class_map == value)
            assert one.covered_px[value - 1] == of_class.sum()
            assert one.covered[value - 1] == pytest.approx(areas[of_class].sum())
    assert found[0].inside_px > 5000
    assert found[4].inside_px == found[5].inside_px == 0


def test_regions_that_share_edges_add_up(arrays):
    """Edges through centres of pixels, too."""
    cells = [
        shapely.box(left, top, right, bottom)
        for left, right in ((0, 30.5), (30.5, 99), (99, 170))
        for top, bottom in ((0, 64), (64, 64.5), (64.5, 130))
    ]
    found, joined = measure_pixels(arrays, cells, SHAPE, 3, len(cells), block=50)
    assert sum(one.inside_px for one in found) == joined.inside_px == SHAPE[0] * SHAPE[1]
    assert sum(one.covered_px for one in found).tolist() == [
        (arrays.class_map == value).sum() for value in (1, 2, 3)
    ]
