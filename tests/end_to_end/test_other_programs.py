"""A job whose support set is a file of another program than QuPath gives the result of the same drawing in QuPath."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from shapely.geometry import shape

from fewscope.jobs import segment_wsi
from tests.helpers import drawn_files
from tests.helpers.machine import ROOT

QUPATH = ROOT / "examples" / "ihc_nuclei.geojson"


def demo_drawing() -> drawn_files.Drawing:
    features = json.loads(QUPATH.read_text())["features"]
    return [(one["properties"]["classification"]["name"], shape(one["geometry"])) for one in features]


def run(slide: Path, support: str | Path, out: Path) -> dict[str, np.ndarray]:
    arguments = [str(slide), "--support", str(support), "--out", str(out), "--adapt", "0", "--local"]
    assert segment_wsi.main(arguments) == 0
    table = pyarrow.parquet.read_table(out / "instances.parquet")
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


@pytest.mark.slow
def test_the_demo_slide_with_rois_of_imagej(tmp_path):
    slide = tmp_path / "ihc.tif"
    subprocess.run([sys.executable, ROOT / "examples/make_demo_slide.py", slide, "--side", "512"], check=True)
    drawn = drawn_files.write(tmp_path, "RoiSet.zip", demo_drawing())
    found = run(slide, drawn, tmp_path / "imagej")
    truth = run(slide, QUPATH, tmp_path / "qupath")
    assert len(truth["area_px"]) > 100
    assert found.keys() == truth.keys()
    for name, values in truth.items():
        assert np.array_equal(found[name], values), name
    report = json.loads((tmp_path / "imagej" / "report.json").read_text())
    assert any("ROIs of ImageJ" in said for said in report["assumptions"])
    assert "ROIs of ImageJ" in (tmp_path / "imagej" / "report.html").read_text()
