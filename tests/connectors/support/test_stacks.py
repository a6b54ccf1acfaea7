"""Labelled pictures that are z-stacks or time series, with their label images."""

from __future__ import annotations

import json
import re
from contextlib import closing

import numpy as np
import pytest
import shapely
import tifffile
from PIL import Image
from shapely.geometry import mapping

from fewscope.connectors.open import open_source
from fewscope.connectors.slide_options import SlideOptions, StackOptions
from fewscope.connectors.support.load import load_support
from fewscope.connectors.support.region_files import read_regions
from fewscope.errors import SupportError
from tests.helpers.channel_slides import write_imagej, write_ome_tiff
from tests.helpers.support_folders import disc


@pytest.fixture
def stack(tmp_path):
    """(3, 224, 224) uint8 with a label image, in the folder ``cells``."""
    planes = np.random.default_rng(0).integers(0, 25, (3, 224, 224)).astype(np.uint8)
    planes[1][disc() > 0] += 100
    (tmp_path / "cells").mkdir()
    Image.fromarray((disc() > 0).astype(np.uint8) * 255).save(tmp_path / "cells/1_mask.png")
    return planes


def grey(support) -> np.ndarray:
    return support.images[0][..., 0].astype(float)


@pytest.mark.parametrize("is_plain", [False, True])
def test_a_plane_or_a_projection_is_learned_from(tmp_path, stack, is_plain):
    path, pages = tmp_path / "cells/1.tif", "planes" if is_plain else None
    if is_plain:
        tifffile.imwrite(path, stack, photometric="minisblack", metadata=None)
    else:
        write_imagej(path, stack, axes="ZYX")
    for plane, expected in (("max", stack.max(0)), (2, stack[1]), (None, stack.max(0))):
        support = load_support(str(tmp_path / "cells"), stack=StackOptions(plane, pages=pages))
        assert np.corrcoef(grey(support).ravel(), expected.ravel().astype(float))[0, 1] > 0.99
        said = [text for text in support.assumptions if "maximum of 3 planes" in text]
        assert len(said) == (plane is None)
    with pytest.raises(SupportError, match="no plane 4"):
        load_support(str(tmp_path / "cells"), stack=StackOptions(4, pages=pages))


def test_of_a_series_the_time_point_is_asked_for(tmp_path, stack):
    write_imagej(tmp_path / "cells/1.tif", stack, axes="TYX")
    with pytest.raises(SupportError, match=r"series of 3 time points.*--support-time"):
        load_support(str(tmp_path / "cells"))
    support = load_support(str(tmp_path / "cells"), stack=StackOptions(time=2))
    assert np.corrcoef(grey(support).ravel(), stack[1].ravel().astype(float))[0, 1] > 0.99


def test_a_single_picture_is_what_it_is_whatever_is_asked_of_stacks(tmp_path, stack):
    Image.fromarray(stack[1]).save(tmp_path / "cells/1.png")
    Image.fromarray((disc() > 0).astype(np.uint8) * 255).save(tmp_path / "cells/2_mask.png")
    tifffile.imwrite(tmp_path / "cells/2.tif", stack[1].astype(np.uint16))
    support = load_support(str(tmp_path / "cells"), stack=StackOptions(3, time=2))
    assert len(support.images) == 2


def test_labels_of_another_time_point_are_left_out_and_regions_are_of_all(tmp_path):
    """As QuPath writes them: the plane is left out where it is the first."""
    features = []
    for name, t, left in (
        ("Region", 0, 0),
        ("cell", 0, 10),
        ("cell", 0, 60),
        ("Region", 1, 0),
        ("cell", 1, 30),
    ):
        side = 100 if name == "Region" else 20
        ring = [[left, 10], [left + side, 10], [left + side, 10 + side], [left, 10 + side], [left, 10]]
        plane = {"plane": {"c": -1, "z": 0, "t": t}} if t else {}
        geometry = {"type": "Polygon", "coordinates": [ring], **plane}
        properties = {"classification": {"name": name}}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    drawn = tmp_path / "drawn.geojson"
    drawn.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    noise = np.random.default_rng(0).integers(0, 255, (3, 240, 240)).astype(np.uint8)
    movie = write_ome_tiff(tmp_path / "movie.ome.tif", noise, axes="TYX", factors=())
    n_objects = []
    for time in (1, 2):
        with closing(open_source(movie, slide=SlideOptions(stack=StackOptions(time=time)))) as source:
            support = load_support(str(drawn), source=source)
            n_objects.append(int(support.instances.max()))
            assert any("left out" in note and "is on time point" in note for note in support.notes)
            assert len(read_regions(str(drawn), info=source.info).regions) == 5
    assert n_objects == [2, 1]
    with (
        closing(open_source(movie, slide=SlideOptions(stack=StackOptions(time=3)))) as source,
        pytest.raises(SupportError, match="drawn on time point 1, 2, but time point 3 is read"),
    ):
        load_support(str(drawn), source=source)


@pytest.mark.parametrize(
    ("drawn_on", "read", "told"),
    [
        ([3], 3, None),
        ([3], 2, "on plane 3 of the stack, and learned from on plane 2, .* --plane 3 reads that one"),
        ([2, 3], 2, "on plane 3 of the stack, and learned from on plane 2, "),
        ([1, 3], 2, "on plane 1, 3 of the stack, .* --plane max reads all"),
        ([3], "max", None),
        ([1], 3, None),  # not stated
    ],
)
def test_annotations_of_other_planes_than_the_one_that_is_read_are_told_of(tmp_path, drawn_on, read, told):
    features = []
    for name, left, z in [("Region", 0, drawn_on[0]), *(("cell", 10 + 30 * z, z) for z in drawn_on)]:
        ring = shapely.box(left, 0, left + (200 if name == "Region" else 20), 200 if name == "Region" else 20)
        plane = {"plane": {"c": -1, "z": z - 1, "t": 0}} if z > 1 else {}
        properties = {"classification": {"name": name}}
        features.append({"type": "Feature", "geometry": mapping(ring) | plane, "properties": properties})
    drawn = tmp_path / "drawn.geojson"
    drawn.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    noise = np.random.default_rng(0).integers(0, 255, (3, 240, 240)).astype(np.uint8)
    path = write_ome_tiff(tmp_path / "stack.ome.tif", noise, axes="ZYX", factors=())
    with closing(open_source(path, slide=SlideOptions(stack=StackOptions(read)))) as source:
        support = load_support(str(drawn), source=source)
    found = [text for text in support.assumptions if "of the stack" in text]
    assert len(found) == (told is not None)
    assert all(re.search(told or "", text) for text in found)
