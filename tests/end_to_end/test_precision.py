"""One precision for all workers of a run, decided once."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import fewscope.model.devices
import fewscope.pipeline.run
from fewscope.errors import ConfigError, RunMismatch
from fewscope.model.segmenter import load_segmenter
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.run import segment
from tests.helpers import fakes

pytestmark = pytest.mark.usefixtures("no_pictures")


@dataclass(frozen=True)
class Features:
    digest: str
    precision: str


class Machine(fakes.ByColour):
    """A model on a machine of some kind."""

    def __init__(self, processor: str, *precisions: str) -> None:
        self.processor, self.precisions, self.precision = processor, precisions, precisions[-1]

    def encode(self, images: np.ndarray, labels: np.ndarray) -> Features:
        return Features("", self.precision)


NEW, OLD = Machine("new (AMX)", "float32", "bfloat16"), Machine("old (AVX2)", "float32")


def run(config: SegmentConfig, driver: Machine, worker: Machine) -> dict:
    with LocalPool(lambda: worker) as pool:
        return segment(config, pool, driver)


def stop_after(config: SegmentConfig, driver: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do all units, and no more."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fewscope.pipeline.run, "number_instances", stop)
        with pytest.raises(KeyboardInterrupt):
            run(config, driver, driver)


def test_the_report_and_the_manifest_name_precision_and_processors(config: SegmentConfig) -> None:
    report = run(config, NEW, NEW)
    assert report["run"]["model"]["precision"] == "bfloat16"
    assert report["run"]["work"]["processors"] == "new (AMX)"
    manifest = json.loads((Path(config.out) / ".fewscope/manifest.json").read_text())["manifest"]
    assert manifest["precision"] == "bfloat16"


def test_a_worker_that_cannot_follow_is_refused_in_one_line(config: SegmentConfig) -> None:
    with pytest.raises(ConfigError) as caught:
        run(config, NEW, OLD)
    assert "\n" not in str(caught.value)
    assert "computes in bfloat16" in str(caught.value)
    assert "old (AVX2)" in str(caught.value)
    assert "--precision float32" in str(caught.value)
    report = run(dataclasses.replace(config, precision="float32", overwrite=True), NEW, OLD)
    assert report["run"]["model"]["precision"] == "float32"


def test_a_run_that_is_resumed_elsewhere_keeps_its_precision(
    config: SegmentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(config, OLD, monkeypatch)
    marker = next((Path(config.out) / ".fewscope/markers").glob("r*.json"))
    marker.unlink()
    report = run(config, NEW, NEW)  # as it could in bfloat16
    assert report["run"]["model"]["precision"] == "float32"
    assert report["run"]["work"]["processors"] == "new (AMX), old (AVX2)"
    assert any("2 kinds of processor" in note for note in report["notes"])
    with pytest.raises(RunMismatch, match="precision: was float32, now bfloat16"):
        run(dataclasses.replace(config, precision="bfloat16"), NEW, NEW)


def test_a_segmenter_predicts_in_the_precision_of_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, 224, 224, 3), np.uint8)
    labels = rng.integers(0, 2, (2, 224, 224), np.uint8)
    plain = load_segmenter(device="cpu", precision="float32")
    features = plain.encode(images, labels)
    assert features.precision == "float32"
    expected = plain.predict(images[:1], features)
    monkeypatch.setattr(fewscope.model.devices, "computes_bfloat16", lambda _: True)
    new = load_segmenter(device="cpu")
    assert new.precision == "bfloat16"
    assert np.array_equal(new.predict(images[:1], features), expected), "it follows"
    low = new.encode(images, labels)
    assert low.precision == "bfloat16"
    assert not np.array_equal(new.predict(images[:1], low), expected), "as it does the other way"
