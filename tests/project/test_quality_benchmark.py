"""The baselines of the quality benchmark are as strong as it says, and the outlines it judges by are sound."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from shapely.geometry import shape

from benchmarks import quality
from fewscope.connectors.support.support_set import SupportSet
from fewscope.pipeline.evaluation.baselines import ColourThreshold
from tests.helpers.fakes import low_red_dots

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DRAWN = sorted((EXAMPLES / "slides").glob("*.geojson"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_every_method_is_judged_alike(rng):
    images, labels = low_red_dots(rng, side=224)
    truth = SupportSet(images, labels, (labels == 1).astype(np.int32), ("a", "b", "c"), 0.5, ("dot",))
    found = quality.judge(ColourThreshold(), truth, truth)
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
