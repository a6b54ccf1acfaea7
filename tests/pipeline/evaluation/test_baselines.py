"""The baselines of Fewscope are as strong as they say, and learn from labelled pixels only."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from fewscope.pipeline.calibration import leave_one_out
from fewscope.pipeline.evaluation import baselines
from fewscope.pipeline.evaluation.prediction_cache import PredictionCache
from tests.helpers.fakes import low_red_dots


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_the_threshold_is_the_best_of_all_levels_and_sides(rng):
    plane = rng.integers(0, 256, (20, 20), np.uint8)
    labels = rng.choice(np.array([0, 1, 255], np.uint8), (20, 20))
    found = baselines.ious_of_levels(plane, labels)
    for level in range(256):
        for side, mask in enumerate((plane >= level, plane < level)):
            assert found[side, level] == pytest.approx(leave_one_out.masked_iou(mask, labels))


def test_the_threshold_finds_what_one_channel_tells_and_ignores_what_nobody_labelled(rng):
    images, labels = low_red_dots(rng, leak=130)
    model = baselines.ColourThreshold()
    cut = model.encode(images[:2], labels[:2])
    assert model.predict(images[2:], cut).dtype == np.float32
    assert leave_one_out.masked_iou(model.predict(images[2:], cut)[0, 0] >= 0.5, labels[2]) == 1


def test_otsu_takes_its_level_from_the_picture_alone(rng):
    images, labels = low_red_dots(rng)
    images[images > 100] = 200  # dots are 4 % of the picture: Otsu would rather halve a broad noise
    model = baselines.OtsuThreshold()
    cut = baselines.Cut("red", 0.0, False, 3)  # the level is that of the labels: not Otsu's
    found = model.predict(images, cut)[:, 0] >= 0.5
    assert [leave_one_out.masked_iou(f, y) for f, y in zip(found, labels, strict=True)] == [1, 1, 1]


def test_the_forest_learns_from_labelled_pixels_only(rng):
    images, labels = low_red_dots(rng, leak=130)
    model = baselines.PixelForest()
    forest = model.encode(images[:2], labels[:2])
    assert forest.n_features_in_ == baselines._textures(images[0].shape, images[0].tobytes()).shape[2]
    assert set(forest.classes_) == {0, 1}
    assert leave_one_out.masked_iou(model.predict(images[2:], forest)[0, 0] >= 0.5, labels[2]) > 0.9


def test_the_iou_of_everything_is_the_share_of_the_object(rng):
    images, labels = low_red_dots(rng)
    model = baselines.load_baseline("everything")
    found = model.predict(images[2:], model.encode(images[:2], labels[:2]))
    assert found.shape == (len(images) - 2, 1, *images.shape[1:3])
    known = labels[2] != 255
    share = (labels[2][known] == 1).mean()
    assert 0 < share < 1
    assert leave_one_out.masked_iou(found[0, 0] >= 0.5, labels[2]) == pytest.approx(share)


def test_grabcut_sees_nothing_of_the_truth_but_its_box(rng):
    images = rng.integers(0, 60, (3, 64, 64, 3), np.uint8)
    labels = np.zeros((3, 64, 64), np.uint8)
    row, col = np.indices((64, 64))
    disk = (row - 30) ** 2 + (col - 34) ** 2 < 14**2
    images[0][disk] += 150
    labels[0] = disk
    labels[1:] = 0
    labels[1, 17:44, 21:48] = 1  # the disk's box, not its shape
    images[1] = images[0]
    labels[2] = 1  # an object that leaves no background
    found = baselines.load_baseline("grabcut").predict_in_boxes(images, labels)
    assert leave_one_out.masked_iou(found[0] > 0.5, labels[0]) > 0.95
    np.testing.assert_array_equal(found[1], found[0])
    assert found[2].all()


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_a_rival_answers_twice_alike(rng, name):
    images, labels = low_red_dots(rng)
    answers = []
    for _ in range(2):
        baseline = baselines.load_baseline(name)
        if isinstance(baseline, baselines.GrabCut):
            answers.append(baseline.predict_in_boxes(images, labels))
        else:
            answers.append(baseline.predict(images[2:], baseline.encode(images[:2], labels[:2])))
    np.testing.assert_array_equal(*answers)


def test_a_rival_that_is_not_installed_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"opencv-python-headless.*fewscope\[eval\]"):
        baselines.load_baseline("grabcut")


def test_kept_answers_are_those_of_the_rival_which_is_not_asked_again(rng, tmp_path):
    images, labels = low_red_dots(rng)
    baseline = baselines.ColourThreshold()
    expected = baseline.predict(images, baseline.encode(images[:2], labels[:2]))
    kept = PredictionCache(baseline, tmp_path)
    np.testing.assert_array_equal(kept.predict(images, kept.encode(images[:2], labels[:2])), expected)

    class Gone:
        name = baseline.name

        def encode(self, images, labels):
            raise AssertionError("asked again")

        predict = encode

    again = PredictionCache(Gone(), tmp_path)
    found = again.predict(images[::-1], again.encode(images[:2], labels[:2]))
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected[::-1])
    for other in (again.encode(images[:1], labels[:1]), again.encode(images[:2], 1 - labels[:2])):
        with pytest.raises(AssertionError, match="asked again"):
            again.predict(images[:1], other)


def test_a_rival_needs_no_proof_for_another_threshold():
    """The patches do not agree, so a network stays at 0.5; a forest goes half of the way."""
    ramp = np.linspace(0, 1, 128, dtype=np.float32)[None, None].repeat(5, 0).repeat(128, 1)
    labels = (ramp >= 0.5).astype(np.uint8)
    labels[0] = ramp[0] >= 0.1
    labels[1:3] = ramp[1:3] >= 0.45
    chosen = {
        name: baselines.score_method(SimpleNamespace(name=name), ramp, labels).threshold
        for name in ("forest", "compact")
    }
    assert chosen["compact"] == 0.5
    assert chosen["forest"] == pytest.approx((0.5 + leave_one_out.best_threshold(ramp, labels)) / 2)
    assert chosen["forest"] < 0.5
    assert baselines.score_method(SimpleNamespace(name="forest"), None, labels) is None
