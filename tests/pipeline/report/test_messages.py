"""An empty result never comes without a word."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fewscope.connectors.support.support_set import SupportSet
from fewscope.jobs import segment_wsi
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.report.messages import hardly_found
from fewscope.pipeline.run import segment
from tests.helpers import fakes


class Blind(fakes.ByColour):
    """Finds nothing."""

    name = "blind"

    def predict(self, tiles: np.ndarray, features: fakes.Features) -> np.ndarray:
        return np.zeros((len(tiles), 1, *tiles.shape[1:3]), np.float32)


def support_set(*names: str, n_sparse: int = 0) -> SupportSet:
    """Two patches, half of each labelled; of that, each class is an eighth. A sparse one shows objects alone."""
    labels = np.full((2, 224, 224), 255, np.uint8)
    labels[:, :112] = 0
    for value in range(1, len(names) + 1):
        labels[:, 28 * (value - 1) : 28 * value, :112] = value
    if n_sparse:
        labels[1][labels[1] == 0] = 255
    images = np.zeros((2, 224, 224, 3), np.uint8)
    return SupportSet(images, labels, None, ("a", "b"), None, names, n_sparse=n_sparse)


def test_nothing_found_is_said_with_what_the_patches_show_and_what_to_do() -> None:
    (note,) = hardly_found(support_set("road"), [0.0], what="raster")
    assert note.startswith(
        "road: nothing was found, although it is 12.5% of the ground labelled in the patches. "
    )
    assert "If this raster shows more" in note
    assert "label a patch" in note
    assert "too small" not in note
    (note,) = hardly_found(support_set("road"), [0.0], 12)
    assert note.endswith("12 objects were left out as too small.")


def test_hardly_anything_is_said_and_a_usual_share_is_not() -> None:
    (note,) = hardly_found(support_set("road"), [0.001])
    assert note.startswith(
        "road: only 0.1% of the area analysed, but 12.5% of the ground labelled in the patches."
    )
    assert hardly_found(support_set("road"), [0.00126]) == []
    assert hardly_found(support_set("road"), [None]) == []  # nothing was analysed


def test_each_class_has_its_own_note() -> None:
    notes = hardly_found(support_set("road", "house"), [0.1, 0.0])
    assert [note.partition(":")[0] for note in notes] == ["house"]


def test_patches_that_show_objects_alone_do_not_count() -> None:
    (note,) = hardly_found(support_set("road", n_sparse=1), [0.0])
    assert "12.5%" in note


@pytest.mark.usefixtures("no_pictures")
def test_report_and_job_warn_of_an_empty_result(config, monkeypatch, capsys) -> None:
    with LocalPool(Blind) as pool:
        report = segment(config, pool, Blind())
    assert report["count"] == 0
    assert report["notes"][0].startswith("blob: nothing was found, although it is ")

    monkeypatch.setattr("fewscope.jobs.segmenting.model_loader", lambda _: Blind)
    again = dataclasses.replace(config, overwrite=True)
    monkeypatch.setattr("fewscope.jobs.segment_wsi.configs", lambda _: [again])
    arguments = [config.source, "--support", config.support, "--out", config.out, "--local"]
    assert segment_wsi.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "0 blob found" in lines[-2 - len(report["notes"])]
    assert lines[-1 - len(report["notes"])] == f"  warning: {report['notes'][0]}"
    assert lines[-1].endswith("report.html")


@pytest.mark.usefixtures("no_pictures")
def test_a_result_that_is_not_empty_has_no_such_note(config) -> None:
    with LocalPool(fakes.ByColour) as pool:
        report = segment(config, pool, fakes.ByColour())
    assert report["count"] > 0
    assert not any("was found" in note or "of the area analysed" in note for note in report["notes"])
