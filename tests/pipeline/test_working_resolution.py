"""The working resolution of a slide follows from the support set, unless it is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from fewscope.errors import SourceError
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.plan import Plan, make_plan
from tests.helpers import drawn_files
from tests.helpers.fakes import write_support

NATIVE_MPP = 0.25


def slide_of_noise(folder: Path, name: str = "slide.tif", mpp: float = NATIVE_MPP) -> str:
    image = np.random.default_rng(0).integers(90, 160, (1600, 1600, 3), np.uint8)
    path = folder / name
    write_pyramid(path, image, mpp)
    return str(path)


def drawn(folder: Path, **diameters_um: float) -> str:
    """A region about a circle of each class and diameter, as QuPath writes them."""
    height = 1600 if max(diameters_um.values()) > 50 else 224
    features = [("Region*", shapely.box(0, 800 - height / 2, 1600, 800 + height / 2))]
    for i, (name, diameter) in enumerate(diameters_um.items()):
        circle = shapely.Point(400 + 800 * i, 800).buffer(diameter / 2 / NATIVE_MPP, quad_segs=64)
        features.append((name, circle))
    return drawn_files.file(folder, "drawn.geojson", drawn_files.qupath(features))


def planned(folder: Path, support: str, **options: Any) -> Plan:
    return make_plan(SegmentConfig(slide_of_noise(folder), support, str(folder / "out"), **options))


@pytest.mark.parametrize(
    ("diameters_um", "mpp"),
    [
        ({"nucleus": 8.0}, 0.5),
        ({"gland": 180.0}, 2.0),
        ({"gland": 180.0, "nucleus": 9.0}, 1.0),  # nuclei would be 4 px at 2
        ({"gland": 180.0, "granule": 3.0}, 0.5),
        ({"granule": 2.5}, 0.25),  # 5 px at 0.5
        ({"granule": 3.5}, 0.5),
        ({"granule": 1.0}, NATIVE_MPP),  # there is no finer one
        ({"nucleus": 8.0, "granule": 2.5}, 0.25),
    ],
)
def test_labelled_objects_fit_the_network(tmp_path, diameters_um, mpp):
    plan = planned(tmp_path, drawn(tmp_path, **diameters_um))
    assert plan.source.info.mpp == plan.support.mpp == mpp
    told = [text for text in plan.support.assumptions if "--mpp" in text]
    assert (told == []) == (mpp == 0.5)
    assert all(f"at {mpp:g} um per px" in text for text in told)


def test_small_objects_in_large_regions_are_seen_as_fine_as_patches_allow(tmp_path):
    features = [("Region*", shapely.box(0, 0, 1600, 1600)), ("granule", shapely.Point(800, 800).buffer(4))]
    plan = planned(tmp_path, drawn_files.file(tmp_path, "drawn.geojson", drawn_files.qupath(features)))
    assert plan.source.info.mpp == 0.5  # 64 patches at 0.25
    assert any("draw smaller ones, of 56 um" in text for text in plan.support.assumptions)


def test_patches_are_not_read_finer_than_the_slide_that_they_were_drawn_on(tmp_path):
    coarse = slide_of_noise(tmp_path, "coarse.tif", 0.4)
    plan = planned(tmp_path, drawn(tmp_path, granule=1.5), support_slide=coarse)  # 2.4 um there
    assert plan.source.info.mpp == plan.support.mpp == 0.4


def test_a_given_resolution_is_kept(tmp_path):
    plan = planned(tmp_path, drawn(tmp_path, gland=180.0), mpp=0.5)
    assert plan.source.info.mpp == 0.5
    assert len(plan.support.images) > 9  # the region is cut into patches of 224 px


def test_only_classes_that_are_looked_for_count(tmp_path):
    plan = planned(tmp_path, drawn(tmp_path, gland=180.0, nucleus=9.0), class_names=("nucleus",))
    assert plan.source.info.mpp == 0.5


@pytest.mark.parametrize(("mark", "mpp"), [("outlined*", 2.0), ("sparse*", 0.5), ("accepted*", 0.5)])
def test_whole_outlines_outside_regions_count_and_what_was_painted_in_part_does_not(tmp_path, mark, mpp):
    support = Path(drawn(tmp_path, gland=180.0))
    stated = json.loads(support.read_text())
    region, gland = stated["features"]
    gland["properties"]["name"] = mark
    region["properties"]["classification"]["name"] = "Not*"
    region["geometry"] = shapely.geometry.mapping(shapely.box(1300, 100, 1500, 200))
    support.write_text(json.dumps(stated))
    assert planned(tmp_path, str(support)).source.info.mpp == mpp


def test_a_long_strip_is_as_large_as_it_is_wide(tmp_path):
    strip = shapely.box(0, 700, 1600, 1000)  # 75 um wide
    features = [("Region*", shapely.box(0, 0, 1600, 1600)), ("epithelium", strip)]
    support = drawn_files.file(tmp_path, "strip.geojson", drawn_files.qupath(features))
    assert planned(tmp_path, support).source.info.mpp == 2.0


def test_the_resolution_of_patches_is_that_of_the_slide(tmp_path):
    support = write_support(tmp_path / "support")
    stated = json.loads((Path(support) / "support.json").read_text())
    (Path(support) / "support.json").write_text(json.dumps(stated | {"mpp": 0.25}))
    plan = planned(tmp_path, support)
    assert plan.source.info.mpp == 0.25
    assert any("resolution of the patches" in text for text in plan.support.assumptions)
    with pytest.raises(SourceError, match=r"segmented at 0\.5 um per px, .*at 0\.25; give --mpp 0\.25"):
        planned(tmp_path, support, mpp=0.5)
