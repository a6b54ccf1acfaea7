"""`fewscope export`: what other programs get is what the run has found, and it comes back as a support set."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import roifile
import shapely
import tifffile
from rasterio.windows import Window
from shapely.geometry import box, shape

from fewscope.connectors.colours import class_colour
from fewscope.connectors.open import open_source
from fewscope.connectors.results.finished_run import FinishedRun
from fewscope.connectors.results.label_tiff import Cut, write_label_tiff
from fewscope.connectors.results.reader import open_result
from fewscope.connectors.results.store import ResultStore
from fewscope.connectors.results.store_layout import StoreSpec
from fewscope.connectors.slide_options import SlideOptions
from fewscope.connectors.support.load import load_support
from fewscope.connectors.vectors import imagej_writer
from fewscope.connectors.vectors.imagescope_writer import colour_number
from fewscope.jobs import export
from fewscope.pipeline.config import SegmentConfig
from tests.helpers import drawn_files, fakes
from tests.helpers.finished_runs import segmented, segmented_raster, segmented_slide
from tests.helpers.scanned_slides import write_hamamatsu, write_leica

ORIGIN = (96, 64)
CENTRE_NM = (2_345_678, -7_654_321)
ENDINGS = {"imagescope": ".xml", "asap": ".xml", "ndpview": ".ndpa", "imagej": ".zip"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> SegmentConfig:
    """One class, objects with holes and with others in their holes."""
    config, _ = segmented_slide(tmp_path_factory.mktemp("plain"))
    return config


@pytest.fixture(scope="module")
def classes(tmp_path_factory) -> SegmentConfig:
    """Three classes on a slide whose scanned area begins elsewhere than at the corner of its file."""
    folder = tmp_path_factory.mktemp("classes")
    image = fakes.class_picture(260, 300)
    write_leica(folder / "a.scn", image, ORIGIN)
    support = fakes.write_class_support(folder / "support")
    config = SegmentConfig(
        str(folder / "a.scn"), support, str(folder / "out"), mpp=0.5, foreground="all", threshold=0.5,
        instances="components", min_area_um2=0, shard=512,
    )  # fmt: skip
    return segmented(config, fakes.ByChannel)


@pytest.fixture(scope="module")
def hamamatsu(tmp_path_factory) -> SegmentConfig:
    """At half the resolution of the slide."""
    folder = tmp_path_factory.mktemp("hamamatsu")
    write_hamamatsu(folder / "a.ndpi", fakes.picture(240, 320), CENTRE_NM)
    support = fakes.write_support(folder / "support", mpp=1.0)
    config = SegmentConfig(
        str(folder / "a.ndpi"), support, str(folder / "out"), slide_mpp=0.5, mpp=1.0, foreground="all", threshold=0.5,
        instances="components", min_area_um2=0, shard=512,
    )  # fmt: skip
    return segmented(config)


@pytest.fixture(scope="module")
def raster(tmp_path_factory) -> SegmentConfig:
    config, _ = segmented_raster(tmp_path_factory.mktemp("raster"))
    return config


def exported(config: SegmentConfig, to: str, out: Path, *more: str) -> Path:
    assert export.main([config.out, "--to", to, "--out", str(out), *more]) == 0
    return out


def refused(capsys, *argv: str) -> str:
    """What is said on stderr, in one line."""
    assert export.main(list(argv)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


def features(config: SegmentConfig) -> list[dict]:
    return json.loads(gzip.decompress(Path(config.out, "instances.geojson.gz").read_bytes()))["features"]


def with_region(to: str, path: Path, region: shapely.Polygon, to_nm=None) -> str:
    """The exported file, in which somebody has drawn a region."""
    points = drawn_files.corners(region)
    if to_nm is not None:
        points = np.array([to_nm @ (x, y) for x, y in points])
    if to == "imagej":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("Region.roi", drawn_files.roi("Region", region).tobytes())
        return str(path)
    end, drawn = {
        "imagescope": ("</Annotations>", drawn_files.layer("Region", drawn_files.region(points))),
        "asap": ("</Annotations>", drawn_files.annotation("Region", points)),
        "ndpview": ("</annotations>", drawn_files.view("Region", drawn_files.freehand(points))),
    }[to]  # fmt: skip
    text = path.read_text()
    assert text.count(end) == 1
    path.write_text(text.replace(end, drawn + end))
    return str(path)


def as_in_qupath(config: SegmentConfig, folder: Path, region: shapely.Polygon) -> str:
    """The run's own outlines as annotations, with a region."""
    found = features(config)
    for feature in found:
        feature["properties"]["objectType"] = "annotation"
    (drawn,) = json.loads(drawn_files.qupath([("Region*", region)]))["features"]
    path = folder / "qupath.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [*found, drawn]}))
    return str(path)


def same_labels(config: SegmentConfig, ours: str, theirs: str) -> None:
    source = open_source(config.source, slide_mpp=0.5)
    support, truth = load_support(ours, source=source), load_support(theirs, source=source)
    source.close()
    assert support.class_names == truth.class_names
    assert np.unique(truth.labels).size > 1
    assert np.array_equal(support.labels, truth.labels)


@pytest.mark.parametrize("to", ["imagescope", "asap", "imagej"])
def test_outlines_come_back_as_the_labels_that_they_were(plain, tmp_path, to):
    region = box(170, 70, 330, 230)
    path = exported(plain, to, tmp_path / f"a{ENDINGS[to]}")
    same_labels(plain, with_region(to, path, region), as_in_qupath(plain, tmp_path, region))


@pytest.mark.parametrize("to", ["imagescope", "asap", "imagej"])
def test_classes_and_the_corner_of_the_file_are_kept(classes, tmp_path, to):
    region = box(20, 30, 220, 230)
    path = exported(classes, to, tmp_path / f"a{ENDINGS[to]}")
    in_file = with_region(to, path, shapely.affinity.translate(region, *ORIGIN))
    same_labels(classes, in_file, as_in_qupath(classes, tmp_path, region))


def test_ndp_view_counts_from_the_centre_of_the_glass(hamamatsu, tmp_path):
    region = box(60, 20, 260, 220)
    path = exported(hamamatsu, "ndpview", tmp_path / "a.ndpi.ndpa")
    to_nm = ~open_source(hamamatsu.source).info.from_glass_nm
    ours = with_region("ndpview", path, region, to_nm)
    same_labels(hamamatsu, ours, as_in_qupath(hamamatsu, tmp_path, region))


def test_imagescope_has_coloured_layers_and_holes_of_the_negative_pen(classes, plain, tmp_path):
    root = ElementTree.parse(exported(classes, "imagescope", tmp_path / "a.xml")).getroot()
    assert float(root.get("MicronsPerPixel")) == pytest.approx(0.5)
    layers = root.findall("Annotation")
    assert [layer.get("Name") for layer in layers] == list(fakes.CLASSES)
    assert [int(layer.get("LineColor")) for layer in layers] == [
        colour_number(class_colour(value)) for value in (1, 2, 3)
    ]
    table = pq.read_table(Path(classes.out, "instances.parquet"))
    for layer in layers:
        regions = layer.findall("Regions/Region")
        assert [int(one.get("Id")) for one in regions] == list(range(1, len(regions) + 1))
        area = sum(float(one.get("Area")) * (1 - 2 * int(one.get("NegativeROA"))) for one in regions)
        of_class = np.array([name == layer.get("Name") for name in table["class"].to_pylist()])
        assert area == pytest.approx(table["area_px"].to_numpy()[of_class].sum(), rel=0.05)
    root = ElementTree.parse(exported(plain, "imagescope", tmp_path / "b.xml")).getroot()
    negative = [one for one in root.iter("Region") if one.get("NegativeROA") == "1"]
    assert negative
    n_holes = sum(
        len(part.interiors) for f in features(plain) for part in shapely.get_parts(shape(f["geometry"]))
    )
    assert 0 < len(negative) < n_holes  # those in which another object lies are reached by a line


def test_asap_has_a_group_for_each_class(classes, tmp_path):
    root = ElementTree.parse(exported(classes, "asap", tmp_path / "a.xml")).getroot()
    groups = {group.get("Name"): group.get("Color") for group in root.iter("Group")}
    assert list(groups) == list(fakes.CLASSES)
    assert groups["red"] == "#e6550d"
    names = {one.get("Name") for one in root.iter("Annotation")}
    assert len(names) == len(features(classes))
    assert all(groups[one.get("PartOfGroup")] == one.get("Color") for one in root.iter("Annotation"))


def test_rois_have_the_name_colour_and_group_of_their_class(classes, tmp_path):
    path = exported(classes, "imagej", tmp_path / "RoiSet.zip")
    rois = roifile.roiread(path)
    table = pq.read_table(Path(classes.out, "instances.parquet")).to_pylist()
    assert [roi.name for roi in rois] == [f"{row['class']}-{row['id']}" for row in table]
    for roi, row in zip(rois, table, strict=True):
        value = fakes.CLASSES.index(row["class"]) + 1
        assert roi.group == value
        assert roi.stroke_color == bytes([255, *class_colour(value)])
    again = exported(classes, "imagej", tmp_path / "again.zip")
    assert again.read_bytes() == path.read_bytes()


def test_too_many_rois_are_refused_before_anything_is_written(plain, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(imagej_writer, "MAX_ROIS", 10)
    said = refused(capsys, plain.out, "--to", "imagej", "--out", str(tmp_path / "a.zip"))
    assert "--box" in said
    assert "--class" in said
    assert not list(tmp_path.iterdir())


def test_coco_states_the_slide_at_full_resolution(classes, tmp_path):
    from pycocotools.coco import COCO

    path = exported(classes, "coco", tmp_path / "a.json")
    coco = COCO(str(path))
    (image,) = coco.loadImgs(coco.getImgIds())
    info = open_source(classes.source, slide_mpp=0.5).info
    assert (image["file_name"], image["height"], image["width"]) == (
        "a.scn",
        info.native_height,
        info.native_width,
    )
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == list(fakes.CLASSES)
    table = pq.read_table(Path(classes.out, "instances.parquet")).to_pylist()
    annotations = coco.loadAnns(coco.getAnnIds())
    assert [one["id"] for one in annotations] == [row["id"] for row in table]
    for one, row, feature in zip(annotations, table, features(classes), strict=True):
        geometry = shapely.affinity.translate(shape(feature["geometry"]), *ORIGIN)
        assert fakes.CLASSES[one["category_id"] - 1] == row["class"]
        assert one["score"] == pytest.approx(row["mean_probability"], abs=1e-4)
        assert one["area"] == pytest.approx(geometry.area, abs=0.02)
        left, top, width, height = one["bbox"]
        assert (left, top, left + width, top + height) == pytest.approx(geometry.bounds, abs=0.02)
        drawn = [
            shapely.make_valid(shapely.Polygon(np.reshape(part, (-1, 2)))) for part in one["segmentation"]
        ]
        assert shapely.union_all(drawn).symmetric_difference(geometry).area == pytest.approx(0, abs=0.5)


def test_csv_is_the_table(classes, tmp_path):
    path = exported(classes, "csv", tmp_path / "a.csv")
    truth = pq.read_table(Path(classes.out, "instances.parquet"))
    plain_schema = pa.schema(
        [pa.field(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in truth.schema]
    )
    read = pa.csv.read_csv(path, convert_options=pa.csv.ConvertOptions(column_types=plain_schema))
    assert read.equals(truth.cast(plain_schema))


@pytest.mark.parametrize("to", ["labels", "mask"])
def test_labels_are_those_of_the_run_with_the_size_of_a_pixel(plain, tmp_path, to):
    path = exported(plain, to, tmp_path / "a.ome.tif")
    result = open_result(plain.out)
    levels = result.labels if to == "labels" else result.mask
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        (series,) = tiff.series
        assert series.axes == "YX"
        assert np.array_equal(series.asarray(), levels[0].compute())
        assert series.dtype == np.uint8  # as few bits as fit
        pixels = re.search(r"<Pixels[^>]*>", tiff.ome_metadata)[0]
        assert 'PhysicalSizeX="0.5"' in pixels
        assert 'PhysicalSizeYUnit="µm"' in pixels
        assert series.keyframe.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert series.keyframe.is_tiled


def test_labels_open_as_an_ome_tiff_of_one_channel(plain, tmp_path):
    path = exported(plain, "labels", tmp_path / "a.ome.tif")
    source = open_source(str(path), slide=SlideOptions(scale=(0, 255)))
    assert (source.info.height, source.info.width) == (300, 400)
    assert source.info.native_mpp == pytest.approx(0.5)
    source.close()


def test_every_level_of_a_cut_is_that_of_the_store(tmp_path):
    height, width = 1900, 1300
    spec = StoreSpec(height, width, shard=512, scale=(0.25, 0.25), scale_unit="micrometer")
    store = ResultStore(str(tmp_path / "out")).create(spec)
    rng = np.random.default_rng(0)
    levels = []
    for level in range(spec.levels):
        values = rng.integers(0, 70_000, spec.shape(level), np.uint32)
        levels.append(values)
        for row in range(0, values.shape[0], 512):
            for col in range(0, values.shape[1], 512):
                block = np.ascontiguousarray(values[row : row + 512, col : col + 512])
                store.write("instances", level, Window(col, row, *block.shape[::-1]), block)
    cut = Cut.of((height, width), (701, 1850), (-5, 9999))
    assert cut.row <= 701
    assert cut.row + cut.height == 1850
    wanted = rng.random(70_001) < 0.5
    path = tmp_path / "a.ome.tif"
    write_label_tiff(str(path), store, "instances", cut, wanted, 70_000)
    with tifffile.TiffFile(path) as tiff:
        (series,) = tiff.series
        assert len(series.levels) == cut.n_levels == 3
        for level, found in enumerate(series.levels):
            row, col, h, w = cut.level(level)
            part = levels[level][row : row + h, col : col + w]
            assert np.array_equal(found.asarray(), np.where(wanted[part], part, 0))
        assert series.dtype == np.uint32
        assert f'PositionY="{cut.row * 0.25}"' in tiff.ome_metadata


def test_class_probability_and_box_take_the_same_instances_in_all_formats(classes, tmp_path):
    table = pq.read_table(Path(classes.out, "instances.parquet")).to_pylist()
    x, y = (float(np.median([row[name] for row in table])) for name in "xy")
    least = float(np.median([row["mean_probability"] for row in table if row["class"] != "red"]))
    chosen = [
        row for row in table
        if row["class"] in ("green", "blue") and row["mean_probability"] >= least and row["x"] < x and row["y"] >= y
    ]  # fmt: skip
    ids = [row["id"] for row in chosen]
    assert 0 < len(ids) < len(table) / 4
    more = [
        "--class",
        "green",
        "--class",
        "blue",
        "--min-probability",
        str(least),
        "--box",
        "0",
        str(y),
        str(x),
        "1e6",
    ]
    rois = roifile.roiread(exported(classes, "imagej", tmp_path / "a.zip", *more))
    assert [int(roi.name.rpartition("-")[2]) for roi in rois] == ids
    coco = json.loads(exported(classes, "coco", tmp_path / "a.json", *more).read_text())
    assert [one["id"] for one in coco["annotations"]] == ids
    read = pa.csv.read_csv(exported(classes, "csv", tmp_path / "a.csv", *more))
    assert read["id"].to_pylist() == ids
    labels = open_result(classes.out).labels[0].compute()
    written = tifffile.imread(exported(classes, "labels", tmp_path / "a.tif", *more[:6]))
    of_classes = [row["id"] for row in table if row["class"] != "red" and row["mean_probability"] >= least]
    assert np.array_equal(written, np.where(np.isin(labels, of_classes), labels, 0))
    path = exported(classes, "mask", tmp_path / "b.tif", "--class", "green")
    mask = tifffile.imread(path)
    assert "0 background, 1 red, 2 green, 3 blue" in tifffile.tiffcomment(path)
    assert np.array_equal(mask, np.where(open_result(classes.out).mask[0].compute() == 2, 2, 0))


def test_boxes_are_in_pixels_of_the_slide_at_full_resolution(hamamatsu, tmp_path):
    labels = open_result(hamamatsu.out).labels[0].compute()
    assert labels.shape == (120, 160)
    path = exported(hamamatsu, "labels", tmp_path / "a.tif", "--box", "100", "81", "201", "150")
    assert np.array_equal(tifffile.imread(path), labels[40:75, 50:101])
    table = pq.read_table(Path(hamamatsu.out, "instances.parquet")).to_pylist()
    root = ElementTree.parse(exported(hamamatsu, "imagescope", tmp_path / "a.xml")).getroot()
    assert float(root.get("MicronsPerPixel")) == pytest.approx(0.5)
    right = max(float(vertex.get("X")) for vertex in root.iter("Vertex"))
    assert right == pytest.approx(2 * max(row["bbox_col1"] for row in table), abs=1)


def test_labels_are_cut_to_the_box(classes, tmp_path):
    labels = open_result(classes.out).labels[0].compute()
    path = exported(classes, "labels", tmp_path / "a.tif", "--box", "100", "80", "200.5", "150")
    assert np.array_equal(tifffile.imread(path), labels[80:150, 100:201])


def test_rasters_have_labels_and_a_table_and_say_so(raster, tmp_path, capsys):
    labels = open_result(raster.out).labels[0].compute()
    assert np.array_equal(tifffile.imread(exported(raster, "labels", tmp_path / "a.tif")), labels)
    corners = [500_600, 4_500_000 - 2500, 500_000 + 1600, 4_500_000 - 1500]
    cut = exported(raster, "labels", tmp_path / "b.tif", "--box", *map(str, corners))
    assert np.array_equal(tifffile.imread(cut), labels[150:250, 60:160])
    assert exported(raster, "csv", tmp_path / "a.csv").read_text().count("\n") == labels.max() + 1
    capsys.readouterr()
    said = refused(capsys, raster.out, "--to", "asap")
    assert "labels, mask, csv" in said
    assert "features.gpkg" in said


def test_a_file_stands_beside_the_result_and_is_not_replaced_unasked(plain, tmp_path, capsys):
    shutil.copytree(plain.out, tmp_path / "run")
    run = str(tmp_path / "run")
    assert export.main([run + "/", "--to", "csv"]) == 0
    path = tmp_path / "run.csv"
    assert str(path) in capsys.readouterr().out
    content = path.read_text()
    path.write_text("mine")
    assert "--overwrite" in refused(capsys, run, "--to", "csv")
    assert path.read_text() == "mine"
    assert export.main([run, "--to", "csv", "--overwrite"]) == 0
    assert path.read_text() == content
    assert "stay as they are" in refused(
        capsys, run, "--to", "csv", "--out", f"{run}/instances.parquet", "--overwrite"
    )
    assert "a file is where" in refused(capsys, run, "--to", "csv", "--out", str(path / "a.csv"))
    assert "is a folder" in refused(capsys, run, "--to", "csv", "--out", str(tmp_path))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["run", "run.csv"]


def test_what_is_no_finished_run_is_refused_in_one_line(plain, tmp_path, capsys):
    assert "no such folder" in refused(capsys, str(tmp_path / "none"), "--to", "csv")
    (tmp_path / "several").mkdir()
    shutil.copytree(plain.out, tmp_path / "several" / "a")
    run = tmp_path / "several" / "a"
    assert f"folder of the run, {run}" in refused(capsys, str(run / "result.zarr"), "--to", "csv")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "photographs.json").write_text("{}")
    assert "masks of photographs" in refused(capsys, str(tmp_path / "photos"), "--to", "csv")
    (tmp_path / "empty").mkdir()
    assert "holds no run" in refused(capsys, str(tmp_path / "empty"), "--to", "csv")
    outlines = run / "instances.geojson.gz"
    whole = outlines.read_bytes()
    outlines.write_bytes(whole[: len(whole) // 2])
    assert "instances.geojson.gz is missing or was changed" in refused(capsys, str(run), "--to", "asap")
    outlines.write_bytes(whole)
    shard = run / "result.zarr/labels/instances/0/c/0/0"
    shard.write_bytes(shard.read_bytes()[:-9])
    assert "is missing or was changed" in refused(capsys, str(run), "--to", "labels")
    assert export.main([str(run), "--to", "csv"]) == 0  # which needs no labels
    capsys.readouterr()
    (run / ".fewscope/finished.json").write_text("{}")
    assert "finished.json is damaged" in refused(capsys, str(run), "--to", "csv")
    (run / ".fewscope/finished.json").unlink()
    assert "has not finished" in refused(capsys, str(run), "--to", "csv")


def test_outlines_are_needed(plain, tmp_path, capsys):
    for outlines in ("points", "none"):
        config = dataclasses.replace(plain, out=str(tmp_path / outlines), outlines=outlines)
        segmented(config)
        said = refused(capsys, config.out, "--to", "imagescope")
        assert "--outlines polygons" in said
        assert not (tmp_path / f"{outlines}.xml").exists()


def test_wrong_choices_are_refused_in_one_line(plain, classes, hamamatsu, tmp_path, capsys):
    assert "give red or green or blue" in refused(capsys, classes.out, "--to", "csv", "--class", "pink")
    assert "0 to 1" in refused(capsys, plain.out, "--to", "csv", "--min-probability", "2")
    assert "X0 below X1" in refused(capsys, plain.out, "--to", "csv", "--box", "5", "0", "2", "9")
    assert "outside" in refused(capsys, plain.out, "--to", "labels", "--box", "900", "0", "950", "9")
    assert "only NDPI files" in refused(capsys, plain.out, "--to", "ndpview")
    said = refused(capsys, hamamatsu.out, "--to", "ndpview", "--slide", str(tmp_path / "moved.ndpi"))
    assert "not there" in said
    assert "not the slide of" in refused(capsys, hamamatsu.out, "--to", "ndpview", "--slide", plain.source)


def test_nothing_chosen_is_an_empty_file_that_opens(plain, tmp_path):
    more = ["--box", "-9", "-9", "-8", "-8"]
    assert json.loads(exported(plain, "coco", tmp_path / "a.json", *more).read_text())["annotations"] == []
    root = ElementTree.parse(exported(plain, "imagescope", tmp_path / "a.xml", *more)).getroot()
    assert not list(root.iter("Region"))
    assert exported(plain, "csv", tmp_path / "a.csv", *more).read_text().startswith('"id",')


def test_results_and_files_of_other_storage(plain, tmp_path):
    memory = fsspec.filesystem("memory")
    memory.put(plain.out, "/exported/run", recursive=True)
    for to, ending in (("csv", ".csv"), ("labels", ".labels.ome.tif"), ("asap", ".asap.xml")):
        assert export.main(["memory://exported/run", "--to", to]) == 0
        here = exported(plain, to, tmp_path / f"a{ending}").read_bytes()
        there = memory.cat_file(f"/exported/run{ending}")
        assert there == here
    memory.rm("/exported", recursive=True)


def test_a_run_that_did_not_keep_its_place_asks_its_slide(classes, tmp_path, capsys, monkeypatch):
    kept = exported(classes, "coco", tmp_path / "a.json").read_bytes()
    monkeypatch.setattr(FinishedRun, "place", None)
    assert exported(classes, "coco", tmp_path / "b.json").read_bytes() == kept
    said = refused(
        capsys, classes.out, "--to", "coco", "--slide", "moved.scn", "--out", str(tmp_path / "c.json")
    )
    assert "moved.scn: the slide of" in said


def test_of_several_sources_each_gets_a_file_and_the_tables_become_one(plain, classes, tmp_path, capfd):
    study = tmp_path / "study"
    for name, config in (("a", plain), ("b", classes)):
        shutil.copytree(config.out, study / name)
    assert export.main([str(study), "--to", "labels"]) == 0
    for name in ("a", "b"):
        labels = tifffile.imread(tmp_path / f"study-labels/{name}.labels.ome.tif")
        assert np.array_equal(labels, open_result(str(study / name)).labels[0].compute())
    assert export.main([str(study), "--to", "csv"]) == 0
    table = pyarrow.csv.read_csv(tmp_path / "study.csv")
    counts = [open_result(str(study / name)).table.count_rows() for name in ("a", "b")]
    assert f"{sum(counts):,} instances of 2 sources" in capfd.readouterr().out
    assert table["source"].to_pylist() == [plain.source] * counts[0] + [classes.source] * counts[1]
    assert table["class"].to_pylist()[: counts[0]] == [""] * counts[0]  # the first has one class
    assert table["id"].to_pylist() == [*range(1, counts[0] + 1), *range(1, counts[1] + 1)]
    assert export.main([str(study), "--to", "csv"]) == 2
    assert export.main([str(study), "--to", "csv", "--out", str(study / "a" / "t.csv")]) == 2
    assert "lies in the run" in capfd.readouterr().err
