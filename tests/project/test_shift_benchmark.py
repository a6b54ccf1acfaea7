"""The benchmark of shift: what a scene scores, and what counts as behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import shift
from benchmarks.shift_pictures import CAPTION, GAP, SIDE, draw_task
from benchmarks.shift_tasks import Patch, Task
from fewscope.pipeline.report.drawing import AGREES, EXTRA, MISSED

IMAGE = np.zeros((224, 224, 3), np.uint8)


def patch(columns: int) -> Patch:
    mask = np.zeros((224, 224), bool)
    mask[:, :columns] = True
    return Patch(IMAGE, mask)


def task() -> Task:
    scenes = ((patch(100),), (patch(100), patch(100).empty))
    return Task("bars", "land", "background", False, tuple(patch(50) for _ in range(5)), scenes)


def test_a_false_positive_beside_an_object_costs_iou() -> None:
    found = np.stack([patch(n).mask for n in (50, 100, 100)])
    assert shift.scene_ious(task(), found).tolist() == [0.5, 0.5]
    found[2] = False
    assert shift.scene_ious(task(), found).tolist() == [0.5, 1.0]


def test_a_picture_of_a_task_shows_what_is_right_missed_and_false(tmp_path: Path) -> None:
    draw_task(tmp_path / "t.png", task(), {"ours": np.stack([patch(n).mask for n in (50, 150, 150)])})
    drawn = np.asarray(Image.open(tmp_path / "t.png"), int)

    def nearest(row: int, x: int) -> tuple[int, int, int]:
        y = GAP + row * (SIDE + CAPTION + GAP) + CAPTION + SIDE // 2
        colour = drawn[y, 2 * GAP + SIDE + x]
        return min(
            (AGREES, MISSED, EXTRA), key=lambda c: np.abs(colour / max(colour) - np.array(c) / max(c)).sum()
        )

    assert [nearest(1, 25), nearest(1, 75), nearest(2, 25), nearest(2, 125)] == [
        AGREES,
        MISSED,
        AGREES,
        EXTRA,
    ]


def row(iou: float, best: float, estimate: float, half: float) -> dict[str, Any]:
    interval = (estimate - half, estimate + half)
    return {
        "ahead": iou - best,
        "iou": {shift.OURS: iou, "forest": best},
        "estimate": estimate,
        "estimate_of_patches": 0.9,
        "interval": interval,
        "interval_of_patches": (estimate, estimate),
    }


def test_the_summary_counts_what_is_behind_and_what_the_intervals_hold() -> None:
    found = shift.summary([row(0.8, 0.6, 0.9, 0.05), row(0.5, 0.505, 0.5, 0.0), row(0.4, 0.6, 0.7, 0.5)])
    assert found["mean_ahead"] == pytest.approx((0.2 - 0.005 - 0.2) / 3)
    assert found["worst"] == pytest.approx(-0.2)
    assert (found["behind"], found["tasks"]) == (1, 3)
    assert found["mean_iou"][shift.OURS] == pytest.approx(1.7 / 3)
    assert found["interval_coverage"] == pytest.approx(2 / 3)
    assert found["interval_of_patches_coverage"] == pytest.approx(1 / 3)
    assert found["estimate_error"] == found["estimate_bias"] == pytest.approx((0.1 + 0.0 + 0.3) / 3)
    assert found["estimate_of_patches_bias"] == pytest.approx(0.9 - 1.7 / 3)
    assert (found["interval_width"], found["interval_of_patches_width"]) == (pytest.approx(1.1 / 3), 0)


def test_tasks_without_an_estimate_are_left_out_of_its_scores() -> None:
    unknown = row(0.8, 0.6, 0.9, 0.05) | {"estimate": None, "interval": None}
    found = shift.summary([unknown, row(0.5, 0.6, 0.75, 0.5)])
    assert (found["estimate_bias"], found["interval_width"]) == (0.25, 1.0)
    assert found["estimate_correlation"] is None
    assert shift.summary([unknown])["estimate_error"] is None


def test_a_scene_on_which_the_network_is_less_sure_lowers_the_estimate() -> None:
    labels = np.stack([patch(50).mask for _ in range(5)]).astype(np.uint8)
    sure, less = (np.where(labels == 1, p, 0.01).astype(np.float32) for p in (0.9, 0.6))
    assert shift.expected_change(sure, labels, less[:1], 0.5) == pytest.approx(-0.3)
    assert shift.expected_change(sure, labels, np.zeros_like(less), 0.5) is None


def test_what_was_predicted_is_kept_until_the_pictures_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def predict(method: str, of: Task, *_: Any) -> shift.Prediction:
        asked.append(method)
        return shift.Prediction(
            np.stack([q.mask for q in of.queries]),
            np.array([0.5, np.nan, 0.7]),
            -0.1,
            ("norms", ""),
            change=-0.25,
        )

    monkeypatch.setattr(shift, "predict", predict)
    network: Any = type("Network", (), {"weights_digest": "w"})()
    first, again = (
        shift.evaluate(task(), (shift.OURS, shift.ALONE, "forest"), network, 30, tmp_path) for _ in "ab"
    )
    assert first == again
    assert asked == [shift.OURS, shift.ALONE, "forest"]
    assert (first["ahead"], first["best_baseline"], first["estimate_of_patches"]) == (0.0, "forest", 0.6)
    assert first["estimate"] == pytest.approx(0.35)
    assert first["lost_agreement"] == pytest.approx(-0.1)
    assert first["remedies"] == ("norms", "")
    low, high = first["interval_of_patches"]
    assert first["interval"] == (max(0, low - 0.25), high)
    other = Task("bars", "land", "background", False, task().support, ((patch(7),),))
    shift.evaluate(other, (shift.OURS, shift.ALONE, "forest"), network, 30, tmp_path)
    assert len(asked) == 6
