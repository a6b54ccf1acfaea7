"""A folder of pictures from a microscope: every object of every picture is counted, and one page shows all of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import shapely
import tifffile
from PIL import Image
from scipy.ndimage import find_objects
from skimage.measure import label

from fewscope.connectors.photographs import has_small_objects
from fewscope.connectors.results.reader import open_result
from fewscope.errors import SourceError, SupportError
from fewscope.jobs import segment_wsi
from fewscope.jobs.photographs import photographs_of
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.plan import make_plan
from tests.helpers.boxes import Box, write_coco

SIZE = (300, 340)
FAST = ["--adapt", "0"]


def discs(centres: list[tuple[int, int]], radius: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Bright discs on a dark ground with noise, uint16 (H, W), and their numbers."""
    rows, cols = np.indices(SIZE)
    mask = np.zeros(SIZE, bool)
    for row, col in centres:
        mask |= (rows - row) ** 2 + (cols - col) ** 2 <= radius**2
    noise = np.random.default_rng(len(centres)).normal(0, 12, SIZE)
    return (400 + 900 * mask + noise).astype(np.uint16), label(mask).astype(np.uint16)


def grid(step: int, first: int = 30) -> list[tuple[int, int]]:
    return [
        (row, col) for row in range(first, SIZE[0] - 20, step) for col in range(first, SIZE[1] - 20, step)
    ]


@pytest.fixture
def study(tmp_path: Path) -> tuple[Path, Path, dict[str, int]]:
    """Pictures of 16 bits, one of them empty and one dim, two labelled ones, and the number of discs in each."""
    images, five = tmp_path / "images", tmp_path / "discs"
    images.mkdir()
    five.mkdir()
    for name, step in (("a", 50), ("b", 70)):
        values, numbers = discs(grid(step))
        tifffile.imwrite(five / f"{name}.tif", values)
        tifffile.imwrite(five / f"{name}_masks.tif", numbers)
    found = {}
    for name, centres in (("many", grid(40)), ("few", grid(120, 60)), ("none", [])):
        tifffile.imwrite(images / f"{name}.tif", discs(centres)[0])
        found[name] = len(centres)
    return images, five, found


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    with open(out / "summary.csv", newline="") as file:
        return {Path(row["source"]).stem: row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_a_folder_of_pictures_is_counted_each_as_it_is(study, tmp_path, capfd, quick_texture):
    images, five, expected = study
    (images / "broken.tif").write_bytes(b"II*\0 nothing")
    out = tmp_path / "out"
    command = [str(images), "--support", str(five), "--out", str(out), "--local", *FAST]
    assert segment_wsi.main(command) == 2  # one is broken
    assert "broken.tif" in capfd.readouterr().err
    rows = rows_of(out)
    assert {name: int(rows[name]["count"]) for name in expected} == expected
    assert rows["broken"]["error"]
    assert "density_per_mm2" not in rows["many"]  # no resolution is stated
    page = (out / "index.html").read_text()
    for name, count in expected.items():
        assert f'href="{name}/report.html"' in page
        assert f"{count} discs" in page
        assert (out / name / "report.html").exists()
        report = json.loads((out / name / "report.json").read_text())
        assert report["mpp"] is None
        assert any("--slide-mpp" in text for text in report["assumptions"])
    assert page.count("data:image/jpeg") == len(expected)
    result = open_result(str(out / "many"))
    labels, values = result.labels[0].compute(), tifffile.imread(images / "many.tif")
    table = result.to_pandas(["id", "intensity_grey"]).set_index("id")["intensity_grey"]
    assert dict(table) == pytest.approx({i: values[labels == i].mean() for i in range(1, labels.max() + 1)})
    before = (out / "summary.csv").read_bytes()
    assert segment_wsi.main(command) == 2  # all the others are finished
    assert (out / "summary.csv").read_bytes() == before


@pytest.mark.slow
def test_boxes_are_enough_to_count(study, tmp_path, quick_texture):
    images, _, expected = study
    labelled = {}
    for name, step in (("a", 50), ("b", 70)):
        values, numbers = discs(grid(step))
        boxes = [
            Box("disc", cols.start, rows.start, cols.stop, rows.stop) for rows, cols in find_objects(numbers)
        ]
        labelled[name] = (values, boxes)
    write_coco(tmp_path / "boxes", labelled)
    out = tmp_path / "out"
    command = [str(images / "many.tif"), "--support", str(tmp_path / "boxes"), "--out", str(out)]
    assert segment_wsi.main([*command, "--local", *FAST]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["count"] == expected["many"]
    labels = open_result(str(out)).labels[0].compute() > 0
    truth = discs(grid(40))[1] > 0
    assert (labels & truth).sum() > 0.85 * (labels | truth).sum()
    assert any("marked by boxes. Their outlines were inferred" in text for text in report["assumptions"])


@pytest.mark.slow
def test_with_a_resolution_sizes_are_in_um(study, tmp_path, quick_texture):
    images, five, expected = study
    out = tmp_path / "out"
    command = [str(images / "many.tif"), "--support", str(five), "--out", str(out), "--local", *FAST]
    assert segment_wsi.main([*command, "--slide-mpp", "0.25"]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["count"] == expected["many"]
    assert report["mpp"] == 0.25
    assert report["area_mm2"] == pytest.approx(SIZE[0] * SIZE[1] * 0.25**2 / 1e6)
    assert report["sizes"]["median_area_um2"] == pytest.approx(np.pi * 9**2 * 0.25**2, rel=0.2)
    assert not (out / "summary.csv").exists()  # of one picture, there is its report


def test_small_objects_tell_pictures_of_a_microscope_from_photographs(study, tmp_path):
    _, five, _ = study
    assert has_small_objects(str(five))
    one = tmp_path / "one"
    one.mkdir()
    rows, cols = np.indices(SIZE)
    mask = (rows - 150) ** 2 + (cols - 150) ** 2 < 60**2
    Image.fromarray(np.where(mask[..., None], [200, 30, 30], [30, 90, 40]).astype(np.uint8)).save(
        one / "1.jpg"
    )
    Image.fromarray(mask.astype(np.uint8) * 255).save(one / "1.png")
    assert not has_small_objects(str(one))
    with pytest.raises(SupportError, match="no such folder"):
        has_small_objects(str(tmp_path / "nothing"))


def test_labelled_pictures_of_many_bits_and_channels_are_read_as_the_source_is(tmp_path):
    """Pictures and masks as Cellpose has them, of two channels and of five."""
    five, centres = tmp_path / "cells", grid(50)
    values, numbers = discs(centres)
    for n_channels in (2, 5):
        folder = five / str(n_channels)
        folder.mkdir(parents=True)
        stack = np.stack([values, *[np.full_like(values, 500 + 7 * k) for k in range(1, n_channels)]])
        for name in ("a", "b"):
            tifffile.imwrite(
                folder / f"{name}.tif", stack, imagej=True, metadata={"axes": "CYX"}, resolution=(4, 4)
            )
            Image.fromarray(numbers).save(folder / f"{name}_cp_masks.png")
        source = str(folder / "a.tif")
        plan = make_plan(
            SegmentConfig(source=source, support=str(folder), out=str(tmp_path / "out"), slide_mpp=0.5)
        )
        assert plan.support.images.shape[-1] == plan.source.info.n_channels == max(3, n_channels)
        assert plan.support.instances is not None
        image, _ = plan.source.read(plan.units[0].core)
        patch = plan.support.images[0]
        windows = np.lib.stride_tricks.sliding_window_view(image, patch.shape)[:, :, 0]
        begin_alike = windows[(windows[:, :, 0, 0] == patch[0, 0]).all(axis=2)]
        assert any(np.array_equal(w, patch) for w in begin_alike)  # pixel for pixel what the source shows


def test_annotations_belong_to_the_picture_they_are_named_after(study, tmp_path):
    images, _, _ = study
    drawn = tmp_path / "few.geojson"
    write_drawing(drawn, {"disc": grid(120, 60)})
    args = segment_wsi.parse([str(images), "--support", str(drawn), "--out", str(tmp_path / "out")])
    todo = segment_wsi.configs(args)
    assert {Path(config.support_slide or "").name for config in todo} == {"few.tif"}
    of_none = next(config for config in todo if config.source.endswith("none.tif"))
    plan = make_plan(of_none)
    assert plan.source.info.ranges == plan.support.ranges  # an empty field is shown as the labelled one is
    assert plan.foreground.covers_all
    with pytest.raises(SourceError, match="no such file"):
        make_plan(SegmentConfig(source=str(images / "no.tif"), support=str(drawn), out=str(tmp_path / "out")))


def test_annotations_beside_several_pictures_are_one_support_set(study, tmp_path):
    images, five, _ = study
    folder = tmp_path / "drawn"
    folder.mkdir()
    for name, step in (("a", 50), ("b", 70)):
        (folder / f"{name}.tif").write_bytes((five / f"{name}.tif").read_bytes())
        kinds = {"disc": grid(step), "other": [(20, 20)]}
        write_drawing(folder / f"{name}.geojson", kinds)
    config = SegmentConfig(
        str(images / "none.tif"), str(folder), str(tmp_path / "out"), class_names=("disc",)
    )
    plan = make_plan(config)
    assert plan.support.class_names == ("disc",)
    assert {name.partition(":")[0] for name in plan.support.names} == {"a.geojson", "b.geojson"}
    whole = [len(np.unique(objects)) - 1 for objects in plan.support.instances]
    assert sum(whole) >= len(grid(50)) / 3
    assert plan.source.info.ranges == plan.support.ranges
    args = segment_wsi.parse([str(images), "--support", str(folder), "--out", str(tmp_path / "out")])
    assert photographs_of(args) == []  # its objects are to be counted
    (folder / "a.tif.geojson").write_bytes((folder / "a.geojson").read_bytes())
    with pytest.raises(SupportError, match=r"its annotations may be .*a\.geojson or .*a\.tif\.geojson"):
        make_plan(config)


def write_drawing(path: Path, of_classes: dict[str, list[tuple[int, int]]]) -> None:
    """GeoJSON of a region, and of discs of several classes."""
    shapes = [("Region*", shapely.box(0, 0, 300, 300))]
    for name, centres in of_classes.items():
        shapes += [(name, shapely.Point(col, row).buffer(9)) for row, col in centres if max(row, col) < 290]
    features = [
        {
            "type": "Feature",
            "properties": {"classification": {"name": name}},
            "geometry": shapely.geometry.mapping(shape),
        }
        for name, shape in shapes
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
