"""Labels outside regions: what is marked counts, what is not means what it always meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from shapely.geometry import box, mapping

from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.support import sparse
from fewscope.connectors.support.load import load_support
from fewscope.connectors.support.several import load_several, write_folder
from fewscope.connectors.support.support_set import POINT
from fewscope.connectors.support_options import SupportOptions
from fewscope.errors import SupportError
from tests.helpers.rasters import north_up, waves, write_raster
from tests.helpers.support_folders import opened_photo

SIDE = 900
REGION = box(20, 20, 220, 220)


def feature(geometry: Any, name: str, title: str | None = None) -> dict[str, Any]:
    properties: dict[str, Any] = {"objectType": "annotation", "classification": {"name": name}}
    if title:
        properties["name"] = title
    return {"type": "Feature", "geometry": mapping(geometry), "properties": properties}


DENSE = [
    feature(REGION, "Region*"),
    feature(box(50, 50, 70, 70), "cell"),
    feature(box(90, 60, 99, 70), "cell"),
]


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    with opened_photo(tmp_path_factory.mktemp("slide"), SIDE) as source:
        yield source


@pytest.fixture
def load(tmp_path, slide):
    def load(*features):
        path = tmp_path / "drawn.geojson"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        return load_support(str(path), source=slide)

    return load


def labels_around(support, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns in the slide, and values, of what is labelled in patch k, by its title."""
    row, col = map(int, support.names[k].partition("(")[2].rstrip(")").split(","))
    rows, cols = np.nonzero(support.labels[k] != 255)
    return np.stack([rows + row, cols + col], 1), support.labels[k][rows, cols]


def test_what_is_not_marked_means_what_it_always_meant(load):
    """Detections of a whole slide, points, a class that only resembles Not*: the support set has the same bytes."""
    plain = load(*DENSE)
    far = [feature(box(x, 500, x + 10, 510), "cell") for x in range(300, 700, 20)]
    more = [feature(shapely.Point(60, 60), "cell"), feature(shapely.Point(500, 500), "cell", "7")]
    assert load(*DENSE, *far, *more).digest() == plain.digest()
    assert plain.n_sparse == 0
    assert load(*DENSE, feature(box(100, 100, 110, 110), "Not")).class_names == ("Not", "cell")


def test_a_marked_object_is_labelled_and_nothing_around_it(load):
    support = load(*DENSE, feature(box(500, 600, 510, 620), "cell", "sparse*"))
    dense = load(*DENSE)
    assert (support.n_dense, support.n_sparse) == (1, 1)
    assert np.array_equal(support.labels[0], dense.labels[0])
    places, values = labels_around(support, 1)
    rows, cols = np.mgrid[600:620, 500:510]
    assert sorted(map(tuple, places)) == sorted(zip(rows.ravel(), cols.ravel(), strict=True))
    assert set(values) == {1}
    assert support.instances[1].max() == 1


@pytest.mark.parametrize(("mark", "n_accepted"), [("accepted*", 1), ("outlined*", 0)])
def test_a_whole_object_has_a_rim_of_background_that_spares_its_neighbours(load, mark, n_accepted):
    whole = feature(box(500, 500, 520, 520), "cell", mark)
    neighbour = feature(box(521, 500, 530, 520), "cell")
    support = load(*DENSE, whole, neighbour)
    label = support.labels[1]
    assert (label == 1).sum() == 400
    disc_corners = (label == 0).sum()
    around = shapely.box(500, 500, 520, 520).buffer(sparse.RIM).area - 400
    hidden = 7 * 20  # of the neighbour, in the rim
    assert disc_corners == pytest.approx(around - hidden, abs=12)
    assert support.corrected == (n_accepted, 0)


def test_not_is_background_anywhere_also_over_an_object_in_a_region(load):
    stroke = feature(box(60, 40, 200, 60), "Not*")
    rejected = feature(box(400, 400, 420, 420), "Not*", "rejected*")
    support = load(*DENSE, stroke, rejected)
    plain = load(*DENSE)
    shift = 120 - 112  # the patch is centred on the region
    assert plain.labels[0][50 - shift + 1, 65 - shift] == 1
    assert support.labels[0][50 - shift + 1, 65 - shift] == 0
    assert support.labels[0][65 - shift, 65 - shift] == 1
    assert np.array_equal(support.instances[0] > 0, support.labels[0] == 1)
    places, values = labels_around(support, 1)
    assert len(places) == 400
    assert set(values) == {0}
    assert support.corrected == (0, 1)


def test_points_count_as_discs(load):
    here = feature(shapely.Point(500.5, 500.5), "cell", "sparse*")
    nothing = feature(shapely.MultiPoint([(540.5, 500.5), (560.5, 500.5)]), "Not*")
    support = load(*DENSE, here, nothing)
    label = support.labels[1]
    assert (label == 1).sum() == pytest.approx(np.pi * 9, abs=4)
    assert (label == 0).sum() == 2 * (label == 1).sum()


def test_a_marked_point_is_a_rough_object_in_a_region_and_a_stroke_elsewhere(load):
    """Also beside outlines, of the same class or another; on an outline of its class it adds nothing."""

    def point(x: float, y: float, name: str = "cell"):
        return feature(shapely.Point(x, y), name, "point*")

    dense = load(*DENSE)
    inside = load(*DENSE, point(150.5, 150.5), point(180.5, 150.5), point(60.5, 60.5))
    assert inside.n_sparse == 0
    assert sorted(np.unique(inside.instances)) == [0, 1, 2, 3, 4]
    assert len(np.unique(inside.instances[inside.rough == POINT])) == 2
    assert (inside.labels[inside.rough == 0] == dense.labels[inside.rough == 0]).all()
    assert inside.digest() != dense.digest()

    edge, far = point(219.5, 150.5), point(500.5, 500.5)
    both = load(*DENSE, edge, far)
    assert both.n_sparse == 1, "what of a point's disc lies outside the region is no label"
    assert both.rough[0].any()
    assert not both.rough[1].any()
    assert (both.labels[1] == 1).sum() == pytest.approx(np.pi * 9, abs=4)

    glands = load(*DENSE, point(60.5, 60.5, "nucleus"), point(150.5, 150.5, "nucleus"))
    assert glands.class_names == ("cell", "nucleus")
    assert len(np.unique(glands.instances[(glands.labels == 2) & (glands.rough == POINT)])) == 2

    several = load(DENSE[0], feature(shapely.MultiPoint([(50.5, 50.5), (90.5, 90.5)]), "cell", "point*"))
    assert len(np.unique(several.instances[several.rough == POINT])) == 2


def test_marked_points_alone_need_a_region(load):
    here = feature(shapely.Point(500.5, 500.5), "cell", "point*")
    with pytest.raises(SupportError, match="marked by points, and no region"):
        load(here)
    assert load(here, feature(box(540, 500, 560, 510), "Not*")).rough is None


def test_labels_alone_are_a_support_set_without_regions(load):
    support = load(
        feature(box(300, 300, 330, 330), "cell", "sparse*"), feature(box(340, 300, 400, 330), "Not*")
    )
    assert (support.n_dense, support.n_sparse) == (0, 1)


def test_each_pixel_is_labelled_in_one_patch_and_neighbours_share_one(load):
    line = [feature(box(230 + 20 * i, 40, 240 + 20 * i, 50), "cell", "sparse*") for i in range(30)]
    across = feature(box(200, 100, 260, 110), "cell", "sparse*")  # half of it in the region
    support = load(*DENSE, *line, across)
    assert 3 <= support.n_sparse <= 5
    seen = np.zeros((SIDE, SIDE), int)
    for k in range(support.n_dense, len(support.names)):
        places, _ = labels_around(support, k)
        np.add.at(seen, tuple(places.T), 1)
    seen[20:220, 20:220] += 1
    assert seen.max() == 1
    assert (seen[40:50, 230:240] == 1).all()
    assert (seen[100:110, 200:260] == 1).all()


def test_the_last_labels_are_learned_from_where_there_are_too_many(load, monkeypatch):
    monkeypatch.setattr(sparse, "MAX_SPARSE_PATCHES", 2)
    far = [feature(box(300, y, 310, y + 10), "cell", "sparse*") for y in (300, 550, 800)]
    support = load(*DENSE, *far)
    assert [labels_around(support, k)[0][0, 0] for k in (1, 2)] == [800, 550]
    assert any("1 label outside regions left out" in note for note in support.notes)


def test_a_map_has_the_same_rule(tmp_path):
    path = write_raster(tmp_path / "scene.tif", waves(300, 400).astype(np.uint8), north_up())
    source = open_source(path, raster=RasterOptions())

    def drawn(*rows: tuple[Any, str, str | None]) -> Path:
        crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32618"}}
        a = source.info.transform
        features = [
            {
                "type": "Feature",
                "geometry": mapping(shapely.affinity.affine_transform(shape, [a.a, a.b, a.d, a.e, a.c, a.f])),
                "properties": {"class": name, "name": mark},
            }
            for shape, name, mark in rows
        ]
        file = tmp_path / "drawn.geojson"
        file.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
        return file

    dense = [(box(10, 10, 110, 110), "Region", None), (box(20, 20, 60, 60), "water", None)]
    marked = (box(300, 200, 320, 220), "water", "sparse*")
    unmarked = (box(340, 200, 360, 220), "water", "a lake")
    nothing = (shapely.Point(300.5, 100.5), "Not*", None)
    support = load_support(str(drawn(*dense, marked, unmarked, nothing)), source=source)
    assert (support.n_dense, support.n_sparse) == (1, 1)
    assert (support.labels[1] == 1).sum() == 400
    assert (support.labels[1] == 0).sum() == pytest.approx(np.pi * 9, abs=4)
    plain = load_support(str(drawn(*dense)), source=source)
    assert load_support(str(drawn(*dense, unmarked)), source=source).digest() == plain.digest()


def test_a_folder_of_patches_keeps_labels_of_several_slides(load, slide, tmp_path):
    """What the page exports where several slides are labelled is read back as the same support set."""
    files = []
    for name, features in (
        ("a", [*DENSE, feature(box(500, 600, 510, 620), "cell", "accepted*")]),
        ("b", [feature(REGION, "Region*")]),  # a region without any object
        (
            "c",
            [feature(box(300, 300, 340, 340), "gland", "sparse*"), feature(box(400, 300, 440, 340), "Not*")],
        ),
        ("d", []),
    ):
        path = tmp_path / name / "labels.geojson"
        path.parent.mkdir()
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        files.append((str(path), slide))
    joined = load_several(files, SupportOptions())
    assert joined.class_names == ("cell", "gland")
    assert (joined.n_dense, joined.n_sparse, joined.corrected) == (2, 2, (1, 0))
    write_folder(str(tmp_path / "folder"), joined)
    again = load_support(str(tmp_path / "folder"))
    assert again.digest() == joined.digest()
    assert (again.n_sparse, again.corrected) == (2, (1, 0))


def test_a_single_file_is_read_as_by_a_batch_job(load, slide, tmp_path):
    one = load(*DENSE, feature(box(500, 600, 510, 620), "cell", "sparse*"))
    joined = load_several([(str(tmp_path / "drawn.geojson"), slide)], SupportOptions())
    assert joined.digest() == one.digest()
