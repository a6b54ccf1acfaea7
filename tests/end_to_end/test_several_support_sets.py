"""Jobs that learn from several support sets: a folder of labelled pictures, and what is drawn on the source itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapely.geometry import box, mapping

import fewscope
from fewscope.errors import ConfigError
from fewscope.jobs import segment_raster, segment_wsi
from tests.helpers import fakes
from tests.helpers.rasters import north_up, write_raster

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def by_colour(monkeypatch):
    import fewscope.jobs.segmenting

    monkeypatch.setattr(fewscope.jobs.segmenting, "model_loader", lambda config: fakes.ByColour)


def drawn(path: Path, transform=None, crs: str | None = None, **boxes) -> str:
    """A region of 200 px, and boxes in it by the name of their class."""
    named = [(box(10, 10, 210, 210), "Region*"), *((one, name) for name, one in boxes.items())]
    if transform is not None:
        named = [
            (box(*(transform @ one.bounds[:2]), *(transform @ one.bounds[2:])), name) for one, name in named
        ]
    features = [
        {
            "type": "Feature",
            "geometry": mapping(one),
            "properties": {"class": name} if crs else {"classification": {"name": name}},
        }
        for one, name in named
    ]
    collection = {"type": "FeatureCollection", "features": features}
    if crs:
        collection["crs"] = {"type": "name", "properties": {"name": crs}}
    path.write_text(json.dumps(collection))
    return str(path)


def test_a_slide_is_segmented_with_a_folder_and_a_drawing(by_colour, slide, support, tmp_path, capfd):
    """Both are named in the report, their classes are joined by name, and the same command has nothing left to do."""
    file = drawn(tmp_path / "more.geojson", Blob=box(30, 30, 60, 60))
    words = [slide, "--support", support, "--support", file, "--out", str(tmp_path / "out"), "--local"]
    words += ["--threshold", "0.5"]
    assert segment_wsi.main(words) == 0, capfd.readouterr().err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    said = report["run"]["support set"]
    assert said["from"] == f"{support}, {file}"
    assert (said["patches"], said["class"]) == (4, "blob")
    written = (tmp_path / "out" / "report.json").stat().st_mtime_ns
    assert segment_wsi.main(words) == 0
    assert (tmp_path / "out" / "report.json").stat().st_mtime_ns == written
    capfd.readouterr()
    assert segment_wsi.main([*words[:3], *words[5:]]) == 2
    assert "support" in capfd.readouterr().err, "without the drawing it is another run"


def test_from_python_several_are_a_list(by_colour, slide, support, tmp_path, monkeypatch):
    monkeypatch.setattr("fewscope.pipeline.plan.load_segmenter", lambda *args, **options: fakes.ByColour())
    file = drawn(tmp_path / "more.geojson", vessel=box(30, 30, 60, 60))
    options = {"threshold": 0.5, "instances": "components", "adapt_s": 0, "class_names": ["blob"]}
    result = fewscope.segment(slide, [support, Path(file)], tmp_path / "out", **options)
    assert result.report["class_name"] == "blob"
    assert result.report["run"]["support set"]["patches"] == 3 + 1
    with pytest.raises(ConfigError, match="is given twice"):
        fewscope.segment(slide, [support, support], tmp_path / "out")
    with pytest.raises(ConfigError, match="no support set is given"):
        fewscope.segment(slide, [], tmp_path / "out")


def test_a_raster_is_mapped_with_a_folder_and_a_drawing(by_colour, tmp_path, capfd):
    raster, transform = tmp_path / "scene.tif", north_up(10)
    write_raster(raster, np.moveaxis(fakes.picture(), 2, 0), transform=transform, crs="EPSG:32618")
    patches = fakes.write_support(tmp_path / "five")
    (tmp_path / "five" / "support.json").write_text(json.dumps({"class": "blob"}))
    urn = "urn:ogc:def:crs:EPSG::32618"
    with_blob = drawn(tmp_path / "drawn.geojson", transform, urn, blob=box(30, 30, 60, 60))
    words = [
        str(raster),
        "--support",
        patches,
        "--support",
        with_blob,
        "--out",
        str(tmp_path / "out"),
        "--local",
    ]
    assert segment_raster.main([*words, "--threshold", "0.5"]) == 0, capfd.readouterr().err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["run"]["support set"]["patches"] == 4


def test_a_folder_of_slides_with_drawings_and_a_folder_of_patches(by_colour, slide, support, tmp_path, capfd):
    folder = tmp_path / "drawn"
    folder.mkdir()
    Image.fromarray(fakes.picture()).save(folder / "a.png")
    drawn(folder / "a.geojson", blob=box(30, 30, 60, 60))
    words = [slide, "--support", str(folder), "--support", support, "--out", str(tmp_path / "out"), "--local"]
    assert segment_wsi.main([*words, "--threshold", "0.5"]) == 0, capfd.readouterr().err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["run"]["support set"]["patches"] == 4


def test_the_slide_of_a_drawing_is_the_one_that_any_of_the_sets_is_named_after():
    words = ["x/a.svs", "x/b.svs", "--support", "five", "--support", "y/b.geojson", "--out", "out"]
    found = segment_wsi.configs(segment_wsi.parse(words))
    assert {one.support_slide for one in found} == {"x/b.svs"}
    assert {one.supports for one in found} == {("five", "y/b.geojson")}


def test_photographs_take_one_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("five", "six"):
        Path(name).mkdir()
    Image.fromarray(fakes.picture()).save("a.png")
    words = [str(tmp_path), "--support", "five", "--support", "six", "--out", str(tmp_path / "out")]
    with pytest.raises(ConfigError, match="--support six: photographs are learned from one folder"):
        segment_wsi.run(segment_wsi.parse([*words, "--pictures", "whole"]))
