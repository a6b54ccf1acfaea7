"""Annotations on slides whose scanned area begins elsewhere than at the corner of the file."""

from __future__ import annotations

import json

import numpy as np
import openslide
import pytest
from shapely.geometry import box, mapping

from fewscope.connectors.open import open_source
from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from fewscope.connectors.support.load import load_support
from fewscope.errors import SupportError
from tests.helpers.scanned_slides import write_leica

ORIGIN = (96, 64)
SQUARES = [(50, 60), (150, 60), (60, 180), (170, 190)]  # left, top in the scanned area, 30 px wide


def drawn(path, shift=(0, 0)):
    """A region and four squares, counted from the scanned area; or from ``shift`` before it."""

    def feature(name, *bounds):
        left, top, right, bottom = np.add(bounds, [*shift, *shift]).tolist()
        return {
            "type": "Feature",
            "geometry": mapping(box(left, top, right, bottom)),
            "properties": {"classification": {"name": name}},
        }

    squares = [feature("Nucleus", x, y, x + 30, y + 30) for x, y in SQUARES]
    path.write_text(json.dumps([feature("Region*", 40, 40, 220, 230), *squares]))
    return str(path)


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """The same picture twice: in a .scn that begins at `ORIGIN`, and in a plain pyramid."""
    folder = tmp_path_factory.mktemp("slides")
    image = np.full((512, 512, 3), 220, np.uint8)
    for x, y in SQUARES:
        image[y : y + 30, x : x + 30] = (82, 52, 130)
    write_leica(folder / "a.scn", image, ORIGIN)
    write_pyramid(folder / "a.tif", image, 0.5)
    sources = [open_source(str(folder / name)) for name in ("a.scn", "a.tif")]
    yield sources
    for source in sources:
        source.close()


def agreement(support) -> float:
    """IoU of the label with the dark pixels of the picture, where it is known."""
    dark, labelled, known = support.images[..., 1] < 120, support.labels == 1, support.labels != 255
    return float((dark & labelled & known).sum() / ((dark | labelled) & known).sum())


def test_the_slide_is_what_it_says(slides):
    properties = openslide.OpenSlide(slides[0].info.uri).properties
    assert (int(properties["openslide.bounds-x"]), int(properties["openslide.bounds-y"])) == ORIGIN
    assert slides[0].info.scan_origin == ORIGIN
    assert slides[1].info.scan_origin == (0, 0)


def test_what_qupath_exports_lies_on_the_objects(tmp_path, slides):
    path = drawn(tmp_path / "a.geojson")
    shifted, plain = (load_support(path, source=source) for source in slides)
    assert agreement(shifted) > 0.98
    assert np.array_equal(shifted.labels, plain.labels)
    assert "96, 64" in shifted.assumptions[0]
    assert "--geojson-origin file" in shifted.assumptions[0]
    assert plain.assumptions == ()


def test_coordinates_from_the_corner_of_the_file_are_read_when_asked_for(tmp_path, slides):
    path = drawn(tmp_path / "a.geojson", shift=ORIGIN)
    support = load_support(path, source=slides[0], geojson_origin="file")
    assert agreement(support) > 0.98
    assert support.assumptions == ()
    assert agreement(load_support(path, source=slides[0])) < 0.3


def test_a_region_outside_is_refused_with_the_option_that_may_help(tmp_path, slides):
    path = drawn(tmp_path / "a.geojson", shift=(450, 0))
    with pytest.raises(SupportError, match="--geojson-origin file"):
        load_support(path, source=slides[0])
    with pytest.raises(SupportError) as error:
        load_support(path, source=slides[1])
    assert "origin" not in str(error.value)


def test_a_coarser_resolution_changes_nothing(tmp_path, slides):
    source = open_source(slides[0].info.uri, mpp=1.0)
    support = load_support(drawn(tmp_path / "a.geojson"), source=source)
    assert agreement(support) > 0.9
    source.close()


def test_bounds_that_are_incomplete_are_not_used():
    from fewscope.connectors.slides.openslide_source import _scan_origin

    whole = {f"openslide.bounds-{name}": "7" for name in ("x", "y", "width", "height")}
    assert _scan_origin(whole) == (7, 7)
    assert _scan_origin({k: v for k, v in whole.items() if not k.endswith("width")}) == (0, 0)
    assert _scan_origin(whole | {"openslide.bounds-x": "1.5"}) == (0, 0)
