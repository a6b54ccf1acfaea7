"""One click on each object in a region is a support set."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from shapely.geometry import box, mapping

from fewscope.connectors.results.reader import open_result
from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from fewscope.connectors.support.support_set import SupportSet
from fewscope.jobs import segment_wsi
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.plan import make_plan

SIDE, STEP, RADIUS = 640, 40, 9
REGIONS = [(20, 20, 220, 220), (300, 60, 500, 260), (100, 380, 300, 580)]


def slide_of_discs(path: Path, mpp: float = 0.5) -> np.ndarray:
    """Dark discs on a light ground with noise, written as a slide; their centres (n, 2), x and y."""
    rng = np.random.default_rng(0)
    rows, cols = np.indices((SIDE, SIDE))
    image = np.full((SIDE, SIDE, 3), (226, 200, 214), float)
    centres = []
    for row in range(STEP // 2, SIDE, STEP):
        for col in range(STEP // 2, SIDE, STEP):
            x, y = col + rng.uniform(-6, 6), row + rng.uniform(-6, 6)
            image[(rows - y) ** 2 + (cols - x) ** 2 <= RADIUS**2] = (95, 60, 140)
            centres.append((x, y))
    noisy = image + rng.normal(0, 8, image.shape)
    write_pyramid(path, noisy.clip(0, 255).astype(np.uint8), mpp)
    return np.array(centres)


def clicks_of(centres: np.ndarray, path: Path) -> Path:
    """Regions, and a point near the middle of each disc in them, as QuPath writes them."""
    rng = np.random.default_rng(1)
    clicked = [
        xy + rng.uniform(-3, 3, 2)
        for xy in centres
        if any(
            x0 - RADIUS < xy[0] < x1 + RADIUS and y0 - RADIUS < xy[1] < y1 + RADIUS
            for x0, y0, x1, y1 in REGIONS
        )
    ]
    drawn = [("Region*", box(*bounds)) for bounds in REGIONS]
    drawn.append(("Cell", shapely.MultiPoint(clicked)))
    features = [
        {"type": "Feature", "geometry": mapping(shape), "properties": {"classification": {"name": name}}}
        for name, shape in drawn
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_a_given_radius_reaches_the_points(tmp_path):
    slide = tmp_path / "slide.tif"
    support = clicks_of(slide_of_discs(slide), tmp_path / "clicks.geojson")
    config = SegmentConfig(str(slide), str(support), str(tmp_path / "out"), object_radius_um=RADIUS / 4)
    asked: list[float | None] = []

    def outline(support: SupportSet, radius: float | None) -> SupportSet:
        assert support.rough is not None
        asked.append(radius)
        return support

    make_plan(config, outline=outline)
    make_plan(dataclasses.replace(config, object_radius_um=None), outline=outline)
    assert asked == [pytest.approx(RADIUS / 2), None]


@pytest.mark.slow
def test_discs_are_counted_from_clicks(tmp_path, capfd):
    centres = slide_of_discs(tmp_path / "slide.tif")
    support = clicks_of(centres, tmp_path / "clicks.geojson")
    out = tmp_path / "out"
    command = [str(tmp_path / "slide.tif"), "--support", str(support), "--out", str(out), "--local"]
    assert segment_wsi.main([*command, "--foreground", "all", "--adapt", "0"]) == 0
    report = json.loads((out / "report.json").read_text())
    assert abs(report["count"] - len(centres)) <= 0.02 * len(centres)
    (told,) = [text for text in report["assumptions"] if "marked by points" in text]
    radius = float(told.partition("typical radius of ")[2].partition(" px")[0])
    assert radius == pytest.approx(RADIUS, rel=0.2)
    table = open_result(str(out)).to_pandas(["x", "y", "area_px"])
    near = shapely.STRtree(shapely.points(centres)).query_nearest(
        shapely.points(table[["x", "y"]].to_numpy()), return_distance=True
    )[1]
    assert np.median(near) < 1
    assert table["area_px"].median() == pytest.approx(np.pi * RADIUS**2, rel=0.25)
    capfd.readouterr()


@pytest.mark.parametrize(
    ("native", "radius_um", "mpp"),
    [
        (0.125, None, 0.25),  # discs of 4.5 px at 0.5
        (0.125, 4.0, 0.5),
        (0.125, 40.0, 0.5),  # objects larger than the regions, which are 50 px wide
        (0.5, 40.0, 1.0),
    ],
)
def test_points_on_small_objects_ask_for_a_finer_resolution(tmp_path, native, radius_um, mpp):
    slide = tmp_path / "slide.tif"
    drawn = clicks_of(slide_of_discs(slide, native), tmp_path / "clicks.geojson")
    plan = make_plan(SegmentConfig(str(slide), str(drawn), str(tmp_path / "out"), object_radius_um=radius_um))
    assert plan.source.info.mpp == plan.support.mpp == mpp
