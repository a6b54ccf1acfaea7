"""The journey with a model that knows depth: taken where it counts better, exact across seams, and refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fewscope.pipeline.calibration.operating_point
import fewscope.pipeline.run
from fewscope.connectors.results.reader import open_result
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.instances.split_rules import DepthRule
from fewscope.pipeline.run import segment
from tests.helpers import fakes
from tests.helpers.crowds import crowd, painted
from tests.helpers.labels import same_objects
from tests.helpers.splitting import whole

pytestmark = pytest.mark.usefixtures("no_pictures")

RADIUS = 7.0
N_OBJECTS = 200


@pytest.fixture(scope="module")
def truth() -> tuple[np.ndarray, np.ndarray]:
    """Labels and depth of a crowd of overlapping, wobbly discs."""
    return crowd(5, N_OBJECTS, RADIUS, (230, 260))


@pytest.fixture(scope="module")
def crowded_slide(truth, tmp_path_factory) -> str:
    return fakes.write_slide(tmp_path_factory.mktemp("slides") / "crowd.tif", painted(*truth))


@pytest.fixture(scope="module")
def crowded_support(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("support") / "disc"
    for name in ("image", "label"):
        (folder / name).mkdir(parents=True)
    for k in range(3):
        labels, depth = crowd(20 + k, 120, RADIUS, (224, 224))
        Image.fromarray(painted(labels, depth)).save(folder / "image" / f"{k}.png")
        Image.fromarray(((labels > 0) * 255).astype(np.uint8)).save(folder / "label" / f"{k}.png")
        Image.fromarray(labels.astype(np.uint16)).save(folder / "label" / f"{k}.inst.png")
    (folder / "support.json").write_text(json.dumps({"mpp": fakes.MPP}))
    return str(folder)


@pytest.fixture
def config(crowded_slide, crowded_support, tmp_path) -> SegmentConfig:
    return SegmentConfig(
        crowded_slide, crowded_support, str(tmp_path / "out"), shard=128, threshold=0.5, foreground="all"
    )


def run(config, model=fakes.ByDepth, **changes):
    with LocalPool(model) as pool:
        return segment(dataclasses.replace(config, **changes), pool, model())


@pytest.mark.slow
def test_what_counts_the_support_best_is_chosen_and_counts_the_slide_best(config, truth, tmp_path):
    true = len(np.unique(truth[0])) - 1
    report = run(config)
    assert report["run"]["options"]["instances"].startswith("learned depth, radius")
    assert abs(report["count"] - true) <= 0.03 * true
    assert report["count_interval"][0] <= true <= report["count_interval"][1]
    for other in ("components", "split"):
        by_other = run(config, out=str(tmp_path / other), instances=other)["count"]
        assert abs(by_other - true) > 3 * abs(report["count"] - true)
        assert abs(by_other - true) > 0.1 * true


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_size_of_the_units(config, tmp_path):
    found = []
    for unit in (128, 256, 512):
        out = tmp_path / str(unit)
        run(config, out=str(out), unit=unit, instances="learned")
        found.append(fakes.outputs(out))
    assert found[0].keys() == found[1].keys() == found[2].keys()
    for name in found[0]:
        assert found[0][name] == found[1][name] == found[2][name], name


def test_depth_is_blended_and_used_as_stored(config, truth):
    """Instances are those that the rule makes of the whole picture's depth."""
    report = run(config, instances="learned", min_area_um2=0)
    radius, tolerance = (
        float(word) for word in report["run"]["options"]["instances"].split() if word[0].isdigit()
    )
    labels, depth = truth
    expected = whole(labels > 0, DepthRule(radius, tolerance), depth)
    assert same_objects(open_result(config.out).instances[0].compute(), expected)


def test_a_model_without_depth_offers_none(config):
    with pytest.raises(ValueError, match="--instances learned needs weights that know"):
        run(config, fakes.ByColour, instances="learned")
    assert not Path(config.out).exists()
    assert "learned" not in run(config, fakes.ByColour)["run"]["options"]["instances"]


def test_what_was_decided_stays_decided(config, monkeypatch):

    with monkeypatch.context() as faulty:
        faulty.setattr(fewscope.pipeline.run, "run_units", None)
        with pytest.raises(TypeError):
            run(config)
    monkeypatch.setattr(fewscope.pipeline.calibration.operating_point, "EncodingCache", None)
    assert "learned depth" in run(config)["run"]["options"]["instances"]
