"""The rivals of the quality benchmark are as strong as it says, and the outlines it judges by are sound."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from shapely.geometry import shape

from benchmarks import quality
from connectors.support import SupportSet
from pipeline import calibrate

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
DRAWN = sorted((EXAMPLES / "slides").glob("*.geojson"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def low_red_dots(rng, k=3, side=48, leak=0):
    """(K, side, side, 3) grey noise with squares whose red is low; `leak` lowers red outside the labelled middle."""
    images = rng.integers(150, 220, (k, side, side, 1), np.uint8).repeat(3, axis=3)
    labels = np.full((k, side, side), 255, np.uint8)
    labels[:, 8:-8, 8:-8] = 0
    for i in range(k):
        row, col = rng.integers(12, side - 24, 2)
        images[i, row : row + 10, col : col + 10, 0] = 90
        labels[i, row : row + 10, col : col + 10] = 1
    images[:, :8, :, 0] -= leak
    return images, labels


def test_the_threshold_is_the_best_of_all_levels_and_sides(rng):
    plane = rng.integers(0, 256, (20, 20), np.uint8)
    labels = rng.choice(np.array([0, 1, 255], np.uint8), (20, 20))
    found = quality.ious_of_levels(plane, labels)
    for level in range(256):
        for side, mask in enumerate((plane >= level, plane < level)):
            assert found[side, level] == pytest.approx(calibrate.masked_iou(mask, labels))


def test_the_threshold_finds_what_one_channel_tells_and_ignores_what_nobody_labelled(rng):
    images, labels = low_red_dots(rng, leak=130)
    model = quality.ColourThreshold()
    cut = model.encode(images[:2], labels[:2])
    assert model.predict(images[2:], cut).dtype == np.float32
    assert calibrate.masked_iou(model.predict(images[2:], cut)[0] >= 0.5, labels[2]) == 1


def test_otsu_takes_its_level_from_the_picture_alone(rng):
    images, labels = low_red_dots(rng)
    images[images > 100] = 200  # dots are 4 % of the picture: Otsu would rather halve a broad noise
    model = quality.ColourThreshold(otsu=True)
    cut = quality.Cut("red", 0.0, False, 3)  # the level is that of the labels: not Otsu's
    found = model.predict(images, cut) >= 0.5
    assert [calibrate.masked_iou(f, y) for f, y in zip(found, labels, strict=True)] == [1, 1, 1]


def test_the_forest_learns_from_labelled_pixels_only(rng):
    images, labels = low_red_dots(rng, leak=130)
    model = quality.PixelForest()
    forest = model.encode(images[:2], labels[:2])
    assert forest.n_features_in_ == quality._textures(images[0].shape, images[0].tobytes()).shape[2]
    assert set(forest.classes_) == {0, 1}
    assert calibrate.masked_iou(model.predict(images[2:], forest)[0] >= 0.5, labels[2]) > 0.9


def test_every_method_is_judged_alike(rng):
    images, labels = low_red_dots(rng, side=224)
    truth = SupportSet(images, labels, (labels == 1).astype(np.int32), ("a", "b", "c"), 0.5, "dot")
    found = quality.judge(quality.ColourThreshold(), truth, truth)
    assert found["leave_one_out"]["mean_iou"] == found["check"]["mean_iou"] == 1
    assert found["check"]["counted"] == found["check"]["true"] == [1, 1, 1]
    assert found["check"]["count_error_mean"] == 0


def test_a_missing_slide_is_named_and_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quality, "SHARED_DATA", tmp_path)
    assert quality.load_case(quality.CASES[1], tmp_path) is None
    assert str(tmp_path / "slides" / quality.CASES[1].slide) in capsys.readouterr().err


def test_every_case_has_its_outlines():
    listed = [path for case in quality.CASES for path in case.annotations]
    assert [path for path in listed if not path.exists()] == []
    assert set(DRAWN) <= set(listed)


@pytest.mark.parametrize("path", DRAWN, ids=lambda path: path.stem)
def test_outlines_are_sound(path):
    """Regions apart, every object a valid polygon that touches a region, no object drawn twice."""
    features = json.loads(path.read_text())["features"]
    shapes = [(f["properties"]["classification"]["name"], shape(f["geometry"])) for f in features]
    regions = [polygon for name, polygon in shapes if name == "Region*"]
    objects = [polygon for name, polygon in shapes if name != "Region*"]
    assert len(regions) >= (2 if path.stem.endswith("_check") else 5)
    assert all(polygon.is_valid for polygon in objects)
    assert [o.centroid.coords[0] for o in objects if not any(o.intersects(r) for r in regions)] == []
    assert not any(a.intersects(b) for a, b in combinations(regions, 2))
    assert len({o.wkt for o in objects}) == len(objects)
