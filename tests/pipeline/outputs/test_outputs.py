"""A new output is a function and a line in the table of outputs."""

import json
from pathlib import Path

import fewscope.pipeline.run
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.outputs.segmentation import Output, Segmentation
from fewscope.pipeline.run import OUTPUTS, segment
from tests.helpers import fakes


def write_areas(segmentation: Segmentation) -> None:
    """An output of one line per instance."""
    areas = [area for table in segmentation.instance_tables() for area in table["area_px"].to_pylist()]
    Path(segmentation.plan.folder, "areas.json").write_text(json.dumps(areas))


def refuse(segmentation: Segmentation) -> None:
    raise AssertionError("an output of rasters was written for a slide")


def test_an_output_is_one_line_of_the_table(config, no_pictures, monkeypatch):
    more = (Output("areas", write_areas), Output("rasters only", refuse, kinds=("raster",)))
    monkeypatch.setattr(fewscope.pipeline.run, "OUTPUTS", (*OUTPUTS, *more))
    with LocalPool(fakes.ByColour) as pool:
        report = segment(config, pool, fakes.ByColour())
    areas = json.loads(Path(config.out, "areas.json").read_text())
    assert len(areas) == report["count"] > 0
    stages = list(report["timings"]["stages"])
    assert stages.index("tables") < stages.index("areas") < stages.index("outlines and pictures")
    assert "rasters only" not in stages
