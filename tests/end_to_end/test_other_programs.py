"""A job whose support set is a file of another program than QuPath learns from what the same drawing in QuPath says."""

from __future__ import annotations

import json
import subprocess
import sys

import pyarrow.parquet
import pytest
from shapely.geometry import shape

from fewscope.connectors.open import open_source
from fewscope.connectors.support.load import load_support
from fewscope.jobs import segment_wsi
from tests.helpers import drawn_files
from tests.helpers.machine import ROOT

QUPATH = ROOT / "examples" / "ihc_nuclei.geojson"


def demo_drawing() -> drawn_files.Drawing:
    features = json.loads(QUPATH.read_text())["features"]
    return [(one["properties"]["classification"]["name"], shape(one["geometry"])) for one in features]


@pytest.mark.slow
def test_the_demo_slide_with_rois_of_imagej(tmp_path, quick_texture):
    slide, out = tmp_path / "ihc.tif", tmp_path / "out"
    subprocess.run([sys.executable, ROOT / "examples/make_demo_slide.py", slide, "--side", "512"], check=True)
    drawn = drawn_files.write(tmp_path, "RoiSet.zip", demo_drawing())
    assert (
        segment_wsi.main([str(slide), "--support", drawn, "--out", str(out), "--adapt", "0", "--local"]) == 0
    )
    assert 100 < pyarrow.parquet.read_table(out / "instances.parquet").num_rows < 1000
    report = json.loads((out / "report.json").read_text())
    assert any("ROIs of ImageJ" in said for said in report["assumptions"])
    assert "ROIs of ImageJ" in (out / "report.html").read_text()
    source = open_source(str(slide))
    digests = {load_support(uri, source=source).digest() for uri in (drawn, str(QUPATH))}
    source.close()
    assert len(digests) == 1
