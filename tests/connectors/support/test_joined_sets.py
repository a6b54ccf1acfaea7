"""Labelled pictures and what is drawn on a slide, learned from together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.connectors.support.load import load_support
from fewscope.connectors.support.several import load_several, write_folder
from fewscope.connectors.support_options import SupportOptions
from fewscope.errors import SupportError
from tests.helpers.support_folders import disc, opened_photo, photo, save_pair

REGION = (0, 0, 224, 224)
CELL, NEARBY = (20, 20, 60, 60), (100, 100, 120, 120)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    with opened_photo(tmp_path_factory.mktemp("slide"), 448) as source:
        yield source


def patches(folder, name="nucleus", n=2, **stated):
    """A folder with labelled pictures of one class."""
    for k in range(n):
        save_pair(folder, str(k), photo(seed=k + 1))
    (folder / "support.json").write_text(json.dumps({"mpp": 0.5, "class": name, **stated}))
    return str(folder), load_support(str(folder))


def drawn(path, *rows):
    """GeoJSON of boxes (left, top, right, bottom), each with its class."""
    features = []
    for (left, top, right, bottom), name in rows:
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {"objectType": "annotation", "classification": {"name": name}},
            }
        )
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return str(path)


def of_class(support, name):
    return support.labels_by_class[support.class_names.index(name)]


def test_classes_are_joined_by_name_and_regions_know_all_of_them(slide, tmp_path):
    folder = patches(tmp_path / "five")
    file = drawn(tmp_path / "drawn.geojson", (REGION, "Region"), (CELL, "Nucleus"), (NEARBY, "vessel"))
    joint = load_several([(file, slide)], SupportOptions(), [folder])
    assert joint.class_names == ("nucleus", "vessel")
    assert joint.names[:2] == ("five: 0.png", "five: 1.png")
    assert np.array_equal(joint.images[:2], folder[1].images)
    assert np.array_equal(of_class(joint, "nucleus")[:2], folder[1].labels)
    vessel = of_class(joint, "vessel")
    assert np.array_equal(vessel[:2] == 0, folder[1].labels == 1), "an object of another class is none"
    assert (vessel[:2][folder[1].labels == 0] == IGNORE_LABEL).all(), "what is around it may be one"
    assert [(of_class(joint, name)[2] == 1).sum() for name in joint.class_names] == [1600, 400]
    assert (of_class(joint, "nucleus")[2] != IGNORE_LABEL).all()
    assert (vessel[2] != IGNORE_LABEL).all()


def test_a_region_without_any_object_is_background_of_the_classes_of_the_folder(slide, tmp_path):
    file = drawn(tmp_path / "drawn.geojson", (REGION, "Region"))
    joint = load_several([(file, slide)], SupportOptions(), [patches(tmp_path / "five")])
    assert joint.class_names == ("nucleus",)
    assert (joint.labels[2] == 0).all()


def test_chosen_classes_are_taken_from_all_sets_and_the_others_are_background(slide, tmp_path):
    sets = [patches(tmp_path / "nuclei"), patches(tmp_path / "glands", "gland")]
    file = drawn(tmp_path / "drawn.geojson", (REGION, "Region"), (CELL, "vessel"), (NEARBY, "nucleus"))
    one = load_several([(file, slide)], SupportOptions(("nucleus",)), sets)
    assert one.class_names == ("nucleus",)
    assert one.names == ("nuclei: 0.png", "nuclei: 1.png", one.names[2])
    assert (one.labels[2] == 1).sum() == 400
    assert (one.labels[2] == 0).sum() == 224 * 224 - 400
    with pytest.raises(SupportError, match="'mitosis', only gland, nucleus, vessel"):
        load_several([(file, slide)], SupportOptions(("mitosis",)), sets)


def test_objects_that_touch_stay_apart_only_if_all_sets_say_so(slide, tmp_path):
    file = drawn(tmp_path / "drawn.geojson", (REGION, "Region"), (CELL, "nucleus"))
    masks = patches(tmp_path / "masks")
    assert load_several([(file, slide)], SupportOptions(), [masks]).instances is None
    numbered = masks[0], replace(masks[1], instances=masks[1].labels.astype(np.int32))
    assert load_several([(file, slide)], SupportOptions(), [numbered]).instances is not None


def test_a_point_beside_masks_makes_their_components_objects(slide, tmp_path):
    features = json.loads(Path(drawn(tmp_path / "drawn.geojson", (REGION, "Region"))).read_text())
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [50, 50]}}
    point["properties"] = {"classification": {"name": "nucleus"}, "name": "point*"}
    features["features"].append(point)
    (tmp_path / "drawn.geojson").write_text(json.dumps(features))
    two = np.maximum(np.roll(disc(), 60, 1), np.roll(disc(), -60, 1))
    folder = tmp_path / "five"
    save_pair(folder, "1", mask=two * 255)
    sets = [(str(folder), load_support(str(folder), class_names=["nucleus"]))]
    joint = load_several([(str(tmp_path / "drawn.geojson"), slide)], SupportOptions(), sets)
    assert joint.rough is not None
    assert np.unique(joint.instances[0]).tolist() == [0, 1, 2]


def test_another_resolution_or_other_channels_are_refused(slide, tmp_path):
    file = drawn(tmp_path / "drawn.geojson", (REGION, "Region"), (CELL, "nucleus"))
    coarse = patches(tmp_path / "coarse", mpp=1.0)
    with pytest.raises(SupportError, match=r"coarse: is at 1 um per px, .*slide\.tif at 0\.5; give --mpp 1"):
        load_several([(file, slide)], SupportOptions(), [coarse])
    fine = patches(tmp_path / "fine")
    with pytest.raises(SupportError, match=r"fine: is at 0\.5 um per px, .*coarse at 1"):
        load_several([], SupportOptions(), [coarse, fine])
    four = fine[0], replace(fine[1], images=np.concatenate([fine[1].images, fine[1].images[..., :1]], 3))
    with pytest.raises(SupportError, match=r"its pictures have 4 channels, .* has 3"):
        load_several([(file, slide)], SupportOptions(), [four])


def test_single_classes_of_different_names_are_told_apart_aloud(slide, tmp_path):
    file = drawn(tmp_path / "drawn.geojson", (REGION, "Region"), (CELL, "cell"))
    joint = load_several([(file, slide)], SupportOptions(), [patches(tmp_path / "five")])
    assert any("no class in common: nucleus in " in text for text in joint.assumptions)
    same = drawn(tmp_path / "same.geojson", (REGION, "Region"), (CELL, "nucleus"))
    assert not load_several([(same, slide)], SupportOptions(), [patches(tmp_path / "five")]).assumptions


def test_what_is_joined_is_written_as_a_folder_and_read_back(slide, tmp_path):
    """Also which classes a patch is not labelled for, and which patches are of one picture."""
    large = tmp_path / "large"
    save_pair(large, "1", photo(448, 448), disc(448, 448) * 255)
    (large / "support.json").write_text(json.dumps({"mpp": 0.5, "class": "gland"}))
    file = drawn(tmp_path / "drawn.geojson", (REGION, "Region"), (CELL, "nucleus"))
    sets = [(str(large), load_support(str(large))), patches(tmp_path / "five")]
    joint = load_several([(file, slide)], SupportOptions(), sets)
    assert len(set(joint.pictures)) == 4 < len(joint.pictures)
    assert joint.complete is not None
    write_folder(str(tmp_path / "joint"), joint)
    again = load_support(str(tmp_path / "joint"))
    assert again.digest() == joint.digest()
    assert np.array_equal(again.labels_by_class, joint.labels_by_class)
    Image.fromarray(photo()).save(tmp_path / "joint" / "image" / "99.png")
    Image.fromarray(disc()).save(tmp_path / "joint" / "label" / "99.png")
    with pytest.raises(SupportError, match="labelled_for is of 7 pictures, the folder holds 8"):
        load_support(str(tmp_path / "joint"))
