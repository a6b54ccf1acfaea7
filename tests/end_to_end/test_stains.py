"""Stains and channels of every object, and how many are positive, are what the pixels say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewscope.connectors.pixels.stains import STEP, Stains
from fewscope.connectors.results.reader import open_result
from fewscope.connectors.stain_options import Positive
from fewscope.errors import ConfigError, RunMismatch
from fewscope.jobs import segment_wsi
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.plan import make_plan
from fewscope.pipeline.run import segment
from tests.helpers.channel_slides import write_ome_tiff
from tests.helpers.fakes import ByColour, picture, write_slide, write_support


@pytest.fixture
def config(tmp_path: Path) -> SegmentConfig:
    slide = write_slide(tmp_path / "slide.tif")
    support = write_support(tmp_path / "five")
    return SegmentConfig(
        slide, support, str(tmp_path / "out"), stains="h-dab", instances="components", foreground="all"
    )


def run(config: SegmentConfig) -> dict:
    model = ByColour()
    with LocalPool(lambda: model) as pool:
        return segment(config, pool, model)


def test_densities_are_the_means_of_pixels_whatever_the_units(config, tmp_path):
    report = run(config)
    result = open_result(config.out)
    labels, image = result.labels[0].compute(), picture()
    codes = Stains("h-dab").codes(image.reshape(-1, 3)).reshape(*image.shape[:2], 2)
    table = result.to_pandas()
    inside, ids = labels > 0, labels[labels > 0]
    areas = np.bincount(ids)[1:]
    for i, name in enumerate(("hematoxylin", "DAB")):
        means = np.bincount(ids, codes[inside][:, i])[1:] * STEP / areas
        np.testing.assert_allclose(table[f"od_{name}"], means, rtol=1e-12)
    dab = report["channels"][0]
    assert (dab["name"], dab["thresholds"]) == ("DAB", [0.2, 0.4, 0.6])
    grades = np.digitize(table["od_DAB"], [0.2, 0.4, 0.6])
    assert [dab["grades"][0]["negative"], *dab["grades"][0]["positive"]] == np.bincount(
        grades, minlength=4
    ).tolist()
    assert dab["grades"][0]["h_score"] == pytest.approx(100 * grades.mean())
    assert "od_DAB" in (tmp_path / "out/report.html").read_text()
    small = replace(config, out=str(tmp_path / "small"), unit=128, shard=128)
    run(small)
    assert open_result(small.out).to_pandas().equals(table)
    with pytest.raises(RunMismatch, match="positive"):
        run(replace(config, positive=(Positive("DAB", (0.3,)),)))


def test_fields_are_drawn_by_grade(config):
    run(replace(config, positive=(Positive("DAB", (0.05,)),)))
    page = Path(config.out, "report.html").read_text()
    assert "Field with the most positive objects" in page
    assert "positive for <bdi>DAB</bdi>" in page


def test_what_cannot_be_measured_is_refused_before_the_first_tile(config, tmp_path):
    with pytest.raises(ConfigError, match="red, green, blue; --stains h-dab measures DAB"):
        make_plan(replace(config, stains=None, positive=(Positive("DAB", (0.2,)),)))
    planes = np.random.default_rng(0).integers(0, 4000, (4, 256, 256)).astype(np.uint16)
    slide = write_ome_tiff(tmp_path / "many.ome.tif", planes)
    support = tmp_path / "channels"
    support.mkdir()
    (support / "a.tif").write_bytes(Path(slide).read_bytes())
    mask = np.zeros((256, 256), np.uint8)
    mask[60:100, 60:100] = 255
    from PIL import Image

    Image.fromarray(mask).save(support / "a_mask.png")
    many = replace(config, source=slide, support=str(support))
    with pytest.raises(ConfigError, match="has 4 channels; leave --stains out"):
        make_plan(many)
    with pytest.raises(ConfigError, match="no such channel, but DAPI, CD3, CD8, CD20; give one"):
        make_plan(replace(many, stains=None, positive=(Positive("Ki67", (200.0,)),)))


def test_the_command_line_reports_them(config, capfd, quick_texture, no_pictures):
    flags = ["--local", "--adapt", "0"]
    command = [config.source, "--support", config.support, "--out", config.out, *flags]
    assert segment_wsi.main([*command, "--stains", "h-dab", "--positive", "DAB=high"]) == 2
    assert "ascending numbers" in capfd.readouterr().err
    assert segment_wsi.main([*command, "--stains", "h-dab", "--positive", "DAB=0.1"]) == 0
    report = json.loads(Path(config.out, "report.json").read_text())
    assert report["channels"][0]["thresholds"] == [0.1]
    assert "positive" in capfd.readouterr().out
