"""The counting benchmark shows a user's regions, asks about the rest, and counts as a job does."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import counting
from fewscope.connectors.datasets.class_folders import ClassImages
from tests.helpers.fakes import ByColour


def grid_of_disks(side=320, period=32, radius=9, touching=False) -> np.ndarray:
    """Objects in rows; with `touching`, every second one leans on its neighbour."""
    objects = np.zeros((side, side), np.int32)
    row, col = np.indices(objects.shape)
    n = 0
    for i in range(side // period):
        for j in range(side // period):
            n += 1
            shift = period - 2 * radius + 2 if touching and j % 2 else 0
            centre = i * period + period // 2, j * period + period // 2 - shift
            disk = (row - centre[0]) ** 2 + (col - centre[1]) ** 2 < radius**2
            objects[disk & (objects == 0)] = n
    return objects


def red_on_blue(objects: np.ndarray) -> np.ndarray:
    picture = np.zeros((*objects.shape, 3), np.uint8)
    picture[..., 2] = 200
    picture[objects > 0] = (230, 40, 20)
    return picture


@pytest.mark.parametrize("shape", [(256, 256), (300, 700), (1040, 1388)])
def test_regions_are_apart_hold_objects_and_are_a_fifth_at_most(shape):
    objects = np.zeros(shape, np.int32)
    rng = np.random.default_rng(3)
    for n in range(1, 60):
        row, col = rng.integers(0, shape[0] - 12), rng.integers(0, shape[1] - 12)
        objects[row : row + 12, col : col + 12] = n
    regions = counting.choose_regions(objects, seed=0)
    assert len(regions) == 5
    covered = np.zeros(shape, int)
    for region in regions:
        assert (objects[region.pixels] > 0).any()
        assert objects[region.pixels].shape == (region.side, region.side)
        covered[region.pixels] += 1
    assert covered.max() == 1
    assert (
        0.5 * counting.SHARE * min(1, 5 * 224**2 / (counting.SHARE * covered.size))
        < covered.mean()
        <= counting.SHARE
    )
    assert counting.choose_regions(objects, seed=0) == regions


def test_what_was_shown_is_not_asked():
    objects = np.zeros((40, 100), np.int32)
    objects[10:20, 10:20], objects[10:20, 50:60], objects[10:20, 80:90] = 1, 2, 3
    assert counting.outside(objects, [counting.Region(0, 0, 30)]) == 2
    assert (
        counting.outside(objects, [counting.Region(0, 54, 30)]) == 2
    )  # 60 % of the second, 40 % of the third
    assert counting.outside(objects, []) == 3


@pytest.mark.slow
def test_a_job_counts_what_it_was_shown_the_like_of(tmp_path, no_pictures):
    objects = grid_of_disks(touching=True)
    found = counting.count(red_on_blue(objects), objects, ByColour(), tmp_path, seed=1)
    assert found["crowded"]
    assert found["objects_shown"] >= found["regions"]
    assert found["counted"] == found["true"]
    assert found["whole"] == 100
    assert found["inside"]
    assert found["components"] <= 0.6 * found["true"]


def test_the_summary_by_hand():
    rows = [
        {"true": 10, "counted": 11, "estimate": 12, "components": 8, "crowded": True, "inside": True},
        {"true": 20, "counted": 20, "estimate": 18, "components": 10, "crowded": True, "inside": False},
        {"true": 10, "counted": 13, "estimate": None, "components": 10, "crowded": False, "inside": True},
        {
            "true": 0,
            "counted": 1,
            "estimate": 1,
            "components": 1,
            "crowded": False,
            "inside": None,
        },  # no relative error
    ]
    found = counting.summary(rows)
    assert found["median_error"] == 0.1
    assert found["median_error_components"] == 0.2
    assert found["crowded_error_over_components"] == pytest.approx(0.05 / 0.35)
    assert found["bias"] == pytest.approx(45 / 40 - 1)
    assert found["mean_error"] == pytest.approx((0.1 + 0 + 0.3) / 3)
    assert found["mean_error_estimate"] == pytest.approx((0.2 + 0.1 + 0.3) / 3)
    assert (found["pictures"], found["crowded"]) == (4, 2)
    assert (found["inside"], found["intervals"]) == (2, 3)


def test_mistakes_by_hand_explain_the_count():
    """Objects 1 and 2 are merged, 3 is split, 4 is missed, 5 is found although it lost its rim, and one is false."""
    true = np.zeros((8, 40), np.int32)
    true[1:7, 1:5], true[1:7, 5:9], true[1:7, 12:20], true[1:7, 23:26], true[1:7, 28:34] = 1, 2, 3, 4, 5
    found = np.zeros_like(true)
    found[1:7, 1:9], found[1:7, 12:16], found[1:7, 16:20], found[3:5, 29:33], found[1:7, 36:39] = (
        9,
        4,
        2,
        7,
        1,
    )
    assert counting.mistakes(found, true) == counting.Mistakes(merged=1, split=1, missed=1, false=1)
    nothing = np.zeros_like(true)
    assert counting.mistakes(nothing, true) == counting.Mistakes(missed=5)
    assert counting.mistakes(found, nothing) == counting.Mistakes(false=5)


@pytest.mark.parametrize("seed", range(5))
def test_mistakes_add_up_to_the_difference_of_the_counts(seed):
    rng = np.random.default_rng(seed)
    true, found = (np.kron(rng.integers(0, 30, (9, 9)), np.ones((4, 4), int)) for _ in range(2))
    found = np.roll(found, 2, axis=1)
    why = counting.mistakes(found, true)
    n_true, n_found = (len(np.unique(labels[labels > 0])) for labels in (true, found))
    assert n_found == n_true - why.merged + why.split - why.missed + why.false


def class_of(n: int) -> ClassImages:
    """Pictures of a class that `ByColour` segments without a mistake; objects touch in pairs."""
    objects = np.stack([np.roll(grid_of_disks(224, touching=True), 2 * (i % 3), axis=0) for i in range(n)])
    keys = tuple(str(i) for i in range(n))
    pictures = np.stack([red_on_blue(one) for one in objects])
    return ClassImages("disks", "micro", pictures, objects > 0, objects, keys)


def test_a_class_is_counted_from_five_of_its_patches():
    rows = counting.count_class(class_of(9), ByColour(), episodes=2, queries=3)
    assert [row["class"] for row in rows] == ["disks", "disks"]
    for row in rows:
        assert row["true"] == row["counted"] == row["estimate"] > 3 * 30
        assert row["f1"] > 0.99
        assert row["inside"]
        assert row["merged"] == row["split"] == row["missed"] == row["false"] == 0
    found = counting.class_summary(rows)
    assert (found["error"], found["bias"], found["inside"], found["support_sets"]) == (0, 0, 2, 2)


def test_the_summary_of_classes_by_hand():
    none = dict.fromkeys(counting.MISTAKES, 0)
    one = [
        none | {"true": 10, "counted": 12, "estimate": 11, "f1": 0.8, "false": 2, "inside": True},
        none | {"true": 30, "counted": 27, "estimate": 30, "f1": 0.6, "merged": 3, "inside": False},
    ]
    found = counting.class_summary(one)
    assert found["error"] == pytest.approx((0.2 + 0.1) / 2)
    assert found["estimate_error"] == pytest.approx((0.1 + 0) / 2)
    assert found["bias"] == pytest.approx(-1 / 40)
    assert (found["merged"], found["false"], found["inside"]) == (3 / 40, 2 / 40, 1)
    mean = counting.mean_of_classes([found, found | {"error": 0.05, "inside": 2}])
    assert mean["error"] == pytest.approx(0.1)
    assert (mean["inside"], mean["support_sets"], mean["classes"]) == (3, 4, 2)


@pytest.mark.slow
def test_the_command_gives_a_line_per_picture_and_a_summary(tmp_path, monkeypatch, capsys, no_pictures):
    objects = grid_of_disks(256)
    Image.fromarray(red_on_blue(objects)).save(tmp_path / "a.png")
    Image.fromarray(objects.astype(np.uint16)).save(tmp_path / "a.inst.png")
    monkeypatch.setattr(counting, "load_segmenter", lambda *args, **options: ByColour())
    assert counting.main(["--data", str(tmp_path)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["picture"] for line in lines] == ["a", "all"]
    assert lines[1]["median_error"] == lines[1]["median_error_components"] == 0
    with pytest.raises(SystemExit, match=r"no <id>\.inst\.png"):
        counting.main(["--data", str(tmp_path / "none")])
