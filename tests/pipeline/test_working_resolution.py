"""The working resolution of a slide follows from the support set, unless it is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from PIL import Image

from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from fewscope.connectors.support import object_sizes
from fewscope.connectors.support.load import load_support
from fewscope.errors import SourceError
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.plan import Plan, make_plan
from tests.helpers import drawn_files
from tests.helpers.fakes import write_support

NATIVE_MPP = 0.25


def noise(side: int = 1600) -> np.ndarray:
    return np.random.default_rng(0).integers(90, 160, (side, side, 3), np.uint8)


def slide_of_noise(folder: Path, name: str = "slide.tif", mpp: float = NATIVE_MPP) -> str:
    path = folder / name
    write_pyramid(path, noise(), mpp)
    return str(path)


def qupath(folder: Path, *features: tuple[str, shapely.Geometry], unstated: tuple[int, ...] = ()) -> str:
    """A drawing as QuPath writes it; some of its outlines without a class."""
    stated = json.loads(drawn_files.qupath(features))
    for index in unstated:
        del stated["features"][index]["properties"]["classification"]
    return drawn_files.file(folder, "drawn.geojson", json.dumps(stated).encode())


def circle(x: float, y: float, diameter_um: float) -> shapely.Polygon:
    return shapely.Point(x, y).buffer(diameter_um / 2 / NATIVE_MPP, quad_segs=64)


def drawn(folder: Path, **diameters_um: float) -> str:
    """A region about a circle of each class and diameter, as QuPath writes them."""
    height = 1600 if max(diameters_um.values()) > 50 else 224
    features = [("Region*", shapely.box(0, 800 - height / 2, 1600, 800 + height / 2))]
    for i, (name, diameter) in enumerate(diameters_um.items()):
        features.append((name, circle(400 + 800 * i, 800, diameter)))
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


def test_annotations_are_read_once(tmp_path, monkeypatch):
    reads = []

    def counted(*args, read=object_sizes.read_annotations):
        reads.append(args)
        return read(*args)

    monkeypatch.setattr(object_sizes, "read_annotations", counted)
    assert planned(tmp_path, drawn(tmp_path, granule=2.5)).source.info.mpp == 0.25
    assert len(reads) == 1


def test_small_objects_in_large_regions_are_seen_as_fine_as_patches_allow(tmp_path):
    features = [("Region*", shapely.box(0, 0, 1600, 1600)), ("granule", shapely.Point(800, 800).buffer(4))]
    plan = planned(tmp_path, drawn_files.file(tmp_path, "drawn.geojson", drawn_files.qupath(features)))
    assert plan.source.info.mpp == 0.5  # 64 patches at 0.25
    assert any("draw smaller ones, of 56 um" in text for text in plan.support.assumptions)


def test_patches_are_not_read_finer_than_the_slide_that_they_were_drawn_on(tmp_path):
    coarse = slide_of_noise(tmp_path, "coarse.tif", 0.4)
    plan = planned(tmp_path, drawn(tmp_path, granule=1.5), support_slide=coarse)  # 2.4 um there
    assert plan.source.info.mpp == plan.support.mpp == 0.4


def test_patches_are_counted_as_the_regions_of_each_slide_take_them(tmp_path):
    folder = tmp_path / "several"
    folder.mkdir()
    for name in "abcd":  # 36 regions, each one patch at 0.25
        corners = [(230 * col, 230 * row) for col in range(3) for row in range(3)]
        features = [("Region*", shapely.box(x, y, x + 200, y + 200)) for x, y in corners]
        features += [("granule", circle(x + 100, y + 100, 2.5)) for x, y in corners]
        write_pyramid(folder / f"{name}.tif", noise(700), NATIVE_MPP)
        drawn_files.file(folder, f"{name}.geojson", drawn_files.qupath(features))
    assert planned(tmp_path, str(folder)).source.info.mpp == 0.25


@pytest.mark.parametrize(("diameter_um", "told"), [(20.0, ""), (2.5, "draw smaller ones, of 56 um")])
def test_an_outline_that_stands_in_for_a_region_is_one(tmp_path, diameter_um, told):
    around = shapely.box(0, 0, 1600, 1600)
    support = qupath(tmp_path, ("", around), ("cell", circle(800, 800, diameter_um)), unstated=(0,))
    plan = planned(tmp_path, support)
    assert plan.source.info.mpp == 0.5
    assert told in " ".join(plan.support.assumptions)


def test_objects_may_be_larger_than_their_regions(tmp_path):
    tissue = shapely.box(-80_000, -80_000, 80_000, 600)
    support = qupath(tmp_path, ("Region*", shapely.box(300, 300, 700, 700)), ("tissue", tissue))
    plan = planned(tmp_path, support)
    assert plan.source.info.mpp == 1.0  # the region is 100 px wide


def discs_at_points(folder: Path, diameter_um: float) -> tuple[str, list[shapely.Point]]:
    """A slide with dark discs on a bright ground, and a point on each."""
    image = np.full((1600, 1600, 3), 220, np.uint8) + noise() // 20
    centres = [shapely.Point(x, y) for x in (60, 200, 340, 480) for y in (60, 200, 340, 480)]
    rows, cols = np.indices(image.shape[:2])
    for centre in centres:
        inside = np.hypot(cols - centre.x, rows - centre.y) < diameter_um / 2 / NATIVE_MPP
        image[inside] //= 3
    write_pyramid(folder / "discs.tif", image, NATIVE_MPP)
    return str(folder / "discs.tif"), centres


@pytest.mark.parametrize(
    ("class_names", "radius_um", "mpp"),
    [
        (("gland", "nucleus"), None, 1.0),  # nuclei of 10 um would be 5 px at 2
        (("gland", "nucleus"), 2.0, 0.5),
        (("nucleus",), None, 0.5),
        (("nucleus",), 60.0, 2.0),
    ],
)
def test_objects_at_points_count_beside_outlines(tmp_path, class_names, radius_um, mpp):
    slide, points = discs_at_points(tmp_path, 10.0)
    features = [("Region*", shapely.box(0, 0, 1600, 1600)), ("gland", circle(1000, 1000, 180.0))]
    support = qupath(tmp_path, *features, *(("nucleus", point) for point in points))
    options = {"class_names": class_names, "object_radius_um": radius_um}
    plan = make_plan(SegmentConfig(slide, support, str(tmp_path / "out"), **options))
    assert plan.source.info.mpp == mpp


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
    support = write_support(tmp_path / "support", mpp=0.25)
    plan = planned(tmp_path, support)
    assert plan.source.info.mpp == plan.support.mpp == 0.25
    assert any("resolution of the patches" in text for text in plan.support.assumptions)


@pytest.mark.parametrize(
    ("native_mpp", "options"), [(0.25, {"mpp": 0.5}), (0.5, {})], ids=["asked for", "slide of 20x"]
)
def test_finer_patches_are_resampled_to_the_slide(tmp_path, native_mpp, options):
    support = write_support(tmp_path / "support", mpp=0.25)
    slide = slide_of_noise(tmp_path, mpp=native_mpp)
    plan = make_plan(SegmentConfig(slide, support, str(tmp_path / "out"), **options))
    assert plan.source.info.mpp == plan.support.mpp == 0.5
    assert any("of 0.25 um per px, were resampled to 0.5" in text for text in plan.support.assumptions)


def test_coarser_patches_than_asked_for_are_refused(tmp_path):
    support = write_support(tmp_path / "support", mpp=1.0)
    with pytest.raises(SourceError, match=r"segmented at 0\.5 um per px, .*at 1; give --mpp 1"):
        planned(tmp_path, support, mpp=0.5)


def test_patches_of_two_resolutions_meet_at_the_coarser_one(tmp_path):
    fine, coarse = (write_support(tmp_path / f"at {mpp}", mpp=mpp) for mpp in (0.25, 0.5))
    for first, second in ((fine, coarse), (coarse, fine)):
        plan = planned(tmp_path, first, more_support=(second,))
        assert plan.source.info.mpp == plan.support.mpp == 0.5
        assert len(plan.support.images) == 2 * len(load_support(fine).images)


def test_patches_may_be_a_little_finer_than_the_slide(tmp_path):
    slide = slide_of_noise(tmp_path, mpp=0.2528)  # of a 40x scan, as scanners state it
    support = write_support(tmp_path / "support", mpp=0.25)
    plan = make_plan(SegmentConfig(slide, support, str(tmp_path / "out")))
    assert plan.source.info.mpp == pytest.approx(0.2528)


@pytest.mark.parametrize(
    ("of_pictures", "diameter_um", "mpp"), [(0.5, 2.5, 0.5), (0.5, 180.0, 0.5), (0.25, 8.0, 0.25)]
)
def test_labelled_pictures_beside_drawn_objects_keep_their_resolution(
    tmp_path, of_pictures, diameter_um, mpp
):
    pictures = write_support(tmp_path / "pictures", mpp=of_pictures)
    support = qupath(
        tmp_path, ("Region*", shapely.box(0, 0, 900, 900)), ("blob", circle(450, 450, diameter_um))
    )
    plan = planned(tmp_path, support, more_support=(pictures,))
    assert plan.source.info.mpp == plan.support.mpp == mpp


@pytest.mark.parametrize("mpp", [None, 0.5])
def test_points_in_labelled_pictures_leave_the_resolution(tmp_path, mpp):
    folder, rng = tmp_path / "pictures", np.random.default_rng(0)
    folder.mkdir()
    for name in "abc":
        image, points = noise(224) // 8 + np.uint8(180), rng.integers(20, 200, (8, 2))
        for x, y in points:
            image[y - 1 : y + 2, x - 1 : x + 2] = 60  # 3 px across
        Image.fromarray(image).save(folder / f"{name}.png")
        shapes = [{"label": "dot", "shape_type": "point", "points": [[int(x), int(y)]]} for x, y in points]
        stated = {"shapes": shapes, "imagePath": f"{name}.png", "imageHeight": 224, "imageWidth": 224}
        (folder / f"{name}.json").write_text(json.dumps({"version": "5.0", "flags": {}} | stated))
    if mpp:
        (folder / "support.json").write_text(json.dumps({"mpp": mpp}))
    assert planned(tmp_path, str(folder)).source.info.mpp == 0.5


def test_objects_on_a_picture_of_unknown_resolution_leave_it(tmp_path):
    picture = tmp_path / "picture.png"
    Image.fromarray(noise(800)).save(picture)
    support = qupath(tmp_path, ("Region*", shapely.box(0, 0, 800, 800)), ("gland", circle(400, 400, 90.0)))
    plan = planned(
        tmp_path, support, support_slide=str(picture)
    )  # 360 px across at any resolution of the slide
    assert plan.source.info.mpp == 0.5
