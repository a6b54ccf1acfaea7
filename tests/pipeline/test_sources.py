"""The slide that a support set was drawn on is read at the resolution of the source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely

from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from fewscope.jobs.segment_wsi import configs, parse
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.sources import open_sources, read_support
from tests.helpers import drawn_files

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
