"""The slide or raster that a support set was drawn on is read at the resolution of the source."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from rasterio.vrt import WarpedVRT

from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from fewscope.errors import SourceError
from fewscope.jobs import segment_raster
from fewscope.jobs.segment_wsi import configs, parse
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.sources import open_sources, read_support
from tests.helpers import drawn_files
from tests.helpers.rasters import UTM18, north_up, waves, write_raster

CELL = shapely.Point(224, 224).buffer(40)
DRAWING = [("Region*", shapely.box(0, 0, 448, 448)), ("cell", CELL)]


def write_slides(folder: Path, mpp: float | None) -> list[str]:
    folder.mkdir()
    slides = [folder / "a.tif", folder / "b.tif"]
    for slide in slides:
        write_pyramid(slide, np.full((600, 600, 3), 120, np.uint8), mpp)
    return list(map(str, slides))


def labelled_px(config: SegmentConfig) -> int:
    source, drawn_on = open_sources(config)
    return int((read_support(config, source, drawn_on).labels == 1).sum())


@pytest.mark.parametrize("stated", [None, 1.0])
def test_slides_of_one_run_have_the_given_resolution(tmp_path, stated):
    slides = write_slides(tmp_path / "slides", stated)
    drawn = drawn_files.file(tmp_path, "drawn.geojson", drawn_files.qupath(DRAWING))
    arguments = [*slides, "--support", drawn, "--out", str(tmp_path / "out"), "--slide-mpp", "0.25"]
    first, second = (labelled_px(config) for config in configs(parse(arguments)))
    assert first == second == pytest.approx(CELL.area / 4, rel=0.02)  # at 0.5 um per px


@pytest.mark.parametrize(("stated", "px"), [(None, CELL.area / 4), (1.0, CELL.area * 4)])
def test_slides_beside_annotations_have_it_where_they_state_none(tmp_path, stated, px):
    slide, _ = write_slides(tmp_path / "slides", None)
    labelled, _ = write_slides(tmp_path / "labelled", stated)
    drawn_files.file(Path(labelled).parent, "a.geojson", drawn_files.qupath(DRAWING))
    config = SegmentConfig(slide, str(Path(labelled).parent), str(tmp_path / "out"), slide_mpp=0.25)
    assert labelled_px(config) == pytest.approx(px, rel=0.02)


LAKE = shapely.box(500_400, 4_498_600, 500_800, 4_499_000)  # m, 400 a side


@pytest.mark.parametrize(
    ("side", "crs", "options", "drawn_at"),
    [
        (10.0, UTM18, (), 10.0),
        (5.0, UTM18, (), 10.0),
        (20.0, UTM18, (), 10.0),
        (5.0, UTM18, ("--res", "20"), 20.0),
        (5.0, "EPSG:4326", (), 10.0),
        (5.0, "EPSG:4326", ("--res", "20"), 20.0),
        (10.5, UTM18, (), 10.5),  # as it is, where objects have about as many pixels
    ],
)
def test_a_raster_that_was_drawn_on_is_read_in_pixels_of_the_size_of_the_source(
    tmp_path, side, crs, options, drawn_at
):
    values = waves(240, 260).astype(np.uint8)
    scene = write_raster(tmp_path / "scene.tif", values, north_up())
    fine = np.kron(values, np.ones((1, 4, 4), np.uint8))
    n = round(2400 / side)
    other = write_raster(tmp_path / "other.tif", fine[:, :n, :n], north_up(side))
    if crs != UTM18:
        with open_as(other, crs) as warped:
            other = write_raster(tmp_path / "warped.tif", warped.read(), warped.transform, crs)
    frame = geopandas.GeoDataFrame(
        {"class": ["Region", "lake"]},
        geometry=[shapely.box(500_100, 4_498_300, 501_100, 4_499_300), LAKE],
        crs=UTM18,
    )
    frame.to_file(tmp_path / "drawn.gpkg")
    argv = [scene, "--support", str(tmp_path / "drawn.gpkg"), "--support-raster", other, "--out", "out"]
    (config,) = segment_raster.configs(segment_raster.parse([*argv, *options]))
    assert labelled_px(config) == pytest.approx(LAKE.area / drawn_at**2, rel=0.03)


def test_a_raster_that_is_much_coarser_is_not_drawn_on_for_others(tmp_path):
    scene = write_raster(tmp_path / "scene.tif", waves(240, 260).astype(np.uint8), north_up())
    other = write_raster(tmp_path / "other.tif", waves(24, 26).astype(np.uint8), north_up(100))
    frame = geopandas.GeoDataFrame({"class": ["Region"]}, geometry=[LAKE], crs=UTM18)
    frame.to_file(tmp_path / "drawn.gpkg")
    argv = [scene, "--support", str(tmp_path / "drawn.gpkg"), "--support-raster", other, "--out", "out"]
    (config,) = segment_raster.configs(segment_raster.parse(argv))
    with pytest.raises(
        SourceError, match=r"pixels of 100 m, and .* of 10 m: draw on a raster whose pixels are at most 8"
    ):
        open_sources(config)


def open_as(path: str, crs: str) -> WarpedVRT:
    """A raster in another CRS, without its file being open elsewhere."""
    return WarpedVRT(rasterio.open(path), crs=crs)
