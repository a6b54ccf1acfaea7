"""`fewscope regions`: counts and areas in regions are those of the table and the masks; their sums are the report's."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import tifffile
from affine import Affine
from PIL import Image
from rasterio.features import rasterize
from shapely.geometry import Point, box, shape

import fewscope
from fewscope.connectors.open import open_source
from fewscope.connectors.results.finished_run import FinishedRun
from fewscope.connectors.results.manifest import canonical_json, seal
from fewscope.connectors.results.reader import open_result
from fewscope.connectors.stain_options import Positive
from fewscope.connectors.storage.digests import digest_file
from fewscope.connectors.storage.filesystem import open_filesystem
from fewscope.jobs import regions
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.regions.table import csv_text, typed
from tests.helpers import drawn_files, fakes
from tests.helpers.finished_runs import segmented
from tests.helpers.region_jobs import counted, drawn, feature, refused
from tests.helpers.scanned_slides import write_hamamatsu, write_leica

ORIGIN = (96, 64)
SIZE = (260, 300)


@pytest.fixture(scope="module")
def classes(tmp_path_factory) -> SegmentConfig:
    """Three classes at half the resolution of a slide, a corner of it glass; its scanned area begins elsewhere."""
    folder = tmp_path_factory.mktemp("classes")
    picture = fakes.class_picture(*SIZE)
    picture[150:, 180:] = 230
    image = np.kron(picture, np.ones((2, 2, 1), np.uint8))
    write_leica(folder / "a.scn", image, ORIGIN)
    support = fakes.write_class_support(folder / "support")
    config = SegmentConfig(
        str(folder / "a.scn"), support, str(folder / "out"), slide_mpp=0.25, mpp=0.5, threshold=0.5,
        instances="components", min_area_um2=0, shard=128,
    )  # fmt: skip
    return segmented(config, fakes.ByChannel)


@pytest.fixture(scope="module")
def hamamatsu(tmp_path_factory) -> tuple[SegmentConfig, Affine]:
    """A slide that is not there any more; to nanometres from the centre of its glass."""
    folder = tmp_path_factory.mktemp("hamamatsu")
    write_hamamatsu(folder / "a.ndpi", fakes.picture(240, 320), (2_345_678, -7_654_321))
    source = open_source(str(folder / "a.ndpi"))
    to_nm = ~source.info.from_glass_nm
    source.close()
    support = fakes.write_support(folder / "support")
    config = SegmentConfig(
        str(folder / "a.ndpi"), support, str(folder / "out"), foreground="all", threshold=0.5,
        instances="components", min_area_um2=0, shard=512,
    )  # fmt: skip
    segmented(config)
    (folder / "a.ndpi").unlink()
    return config, to_nm


@pytest.fixture(scope="module")
def movie(tmp_path_factory) -> str:
    """The folder of the runs of two time points."""
    folder = tmp_path_factory.mktemp("movie")
    known = {"axes": "TYXS", "PhysicalSizeX": fakes.MPP, "PhysicalSizeY": fakes.MPP}
    values = np.stack([fakes.picture(240, 260, seed) for seed in (0, 1)])
    tifffile.imwrite(folder / "movie.ome.tif", values, photometric="rgb", metadata=known)
    support = fakes.write_support(folder / "support")
    for time in (1, 2):
        config = SegmentConfig(
            str(folder / "movie.ome.tif"), support, str(folder / f"out/movie.ome-t00{time}"), time=time,
            foreground="all", threshold=0.5, instances="components", min_area_um2=0, shard=128,
        )  # fmt: skip
        segmented(config)
    return str(folder / "out")


def halves(config: SegmentConfig, folder: Path) -> str:
    """Two polygons that are the slide together, and one that lies in both."""
    result = open_result(config.out)
    transform = FinishedRun(config.out).place.transform
    (left, top), (right, bottom) = transform @ (0, 0), transform @ (result.spec.width, result.spec.height)
    corner = [(left, top), (right, top), (left + 100, bottom), (left, bottom)]
    rest = shapely.box(left, top, right, bottom).difference(shapely.Polygon(corner))
    in_qupath = [
        shapely.affinity.translate(one, -ORIGIN[0], -ORIGIN[1])
        for one in (shapely.Polygon(corner), rest, Point(left + 200, top + 200).buffer(150))
    ]
    return drawn(
        folder / "halves.geojson",
        feature(in_qupath[0], name="upper", classification={"name": "Tumor"}),
        feature(in_qupath[1], name="lower"),
        feature(in_qupath[2], classification={"name": "Stroma"}),
    )


def test_counts_and_areas_are_those_of_loops_over_the_table_and_the_mask(classes, tmp_path):
    path = halves(classes, tmp_path)
    rows = counted(classes, tmp_path / "out", "--in", path)
    run = FinishedRun(classes.out)
    table, mask = (
        pq.read_table(Path(classes.out, "instances.parquet")).to_pylist(),
        run.result.mask[0].compute(),
    )
    fine, wide = run.analysed.foreground.shape
    tissue = np.asarray(
        Image.fromarray(run.analysed.foreground.astype(np.float32)).resize(
            mask.shape[::-1], Image.Resampling.BOX
        )
    )
    assert 0.6 < run.analysed.foreground.mean() < 0.95
    assert tissue.sum() * fine * wide == pytest.approx(run.analysed.foreground.sum() * mask.size)
    features = json.loads(Path(path).read_text())["features"]
    for number, one in enumerate(features, start=1):
        region = shapely.affinity.translate(shape(one["geometry"]), *ORIGIN)
        on_grid = shapely.affinity.affine_transform(
            region, np.array(~run.place.transform)[[0, 1, 3, 4, 2, 5]].tolist()
        )
        pixels = rasterize([on_grid], mask.shape) > 0
        inside = [row for row in table if region.contains(Point(row["x"], row["y"]))]
        assert inside
        for value, name in enumerate(fakes.CLASSES, start=1):
            (row,) = [r for r in rows if r["region"] == str(number) and r["class"] == name]
            of_class = [other for other in inside if other["class"] == name]
            assert int(row["count"]) == len(of_class)
            assert float(row["share"]) == pytest.approx(len(of_class) / len(inside), rel=1e-5)
            assert float(row["share_low"]) < float(row["share"]) < float(row["share_high"])
            covered = (mask[pixels] == value).sum() * 0.25e-6
            analysed = tissue[pixels].sum() * 0.25e-6
            assert float(row["covered_mm2"]) == pytest.approx(covered, rel=1e-5)
            assert float(row["analysed_mm2"]) == pytest.approx(analysed, rel=1e-4)
            assert float(row["density_per_mm2"]) == pytest.approx(len(of_class) / analysed, rel=1e-4)
            assert float(row["area_mm2"]) == pytest.approx(region.area * 0.0625e-6, rel=1e-4)
            sizes = [other["area_um2"] for other in of_class]
            quartiles = [float(row[n]) for n in ("area_um2_q25", "median_area_um2", "area_um2_q75")]
            assert quartiles == pytest.approx(np.quantile(sizes, (0.25, 0.5, 0.75)).tolist(), rel=1e-5)
            red = np.mean([other["intensity_red"] for other in of_class])
            assert float(row["intensity_red"]) == pytest.approx(red, rel=1e-5)


def test_parts_that_are_the_slide_add_up_to_its_report(classes, tmp_path):
    rows = counted(classes, tmp_path / "out", "--in", halves(classes, tmp_path))
    report = open_result(classes.out).report
    for of_class in report["classes"]:
        by = {row["region"]: row for row in rows if row["class"] == of_class["name"]}
        for label in ("whole source", "in any region"):
            assert int(by[label]["count"]) == of_class["count"]
            assert float(by[label]["covered_mm2"]) == pytest.approx(of_class["covered_mm2"], rel=1e-5)
            assert float(by[label]["analysed_mm2"]) == pytest.approx(report["area_mm2"], rel=1e-5)
            assert float(by[label]["density_per_mm2"]) == pytest.approx(of_class["density_per_mm2"], rel=1e-5)
        assert int(by["1"]["count"]) + int(by["2"]["count"]) == of_class["count"]
        assert float(by["1"]["covered_mm2"]) + float(by["2"]["covered_mm2"]) == pytest.approx(
            of_class["covered_mm2"], rel=1e-5
        )
        assert int(by["outside all regions"]["count"]) == 0


def test_qupath_gets_the_regions_where_they_were_with_their_numbers(classes, tmp_path):
    path = halves(classes, tmp_path)
    rows = counted(classes, tmp_path / "out", "--in", path, "--hot-spots", "2")
    given = json.loads(Path(path).read_text())["features"]
    found = json.loads((tmp_path / "out/regions.geojson").read_text())["features"]
    assert [one["properties"]["name"] for one in found] == [
        "upper",
        "lower",
        "Stroma",
        "Hot spot 1",
        "Hot spot 2",
    ]
    for one, before in zip(found, given, strict=False):
        assert shape(one["geometry"]).symmetric_difference(shape(before["geometry"])).area < 10
        assert one["properties"]["objectType"] == "annotation"
        assert one["properties"].get("classification") == before["properties"].get("classification")
    measured = found[0]["properties"]["measurements"]
    assert measured["red: Count"] == int(rows[0]["count"])
    assert measured["red: Density per mm^2"] == pytest.approx(float(rows[0]["density_per_mm2"]), rel=1e-5)
    again = counted(classes, tmp_path / "again", "--in", str(tmp_path / "out/regions.geojson"))
    assert [row["count"] for row in again[:15]] == [row["count"] for row in rows[:15]]


@pytest.mark.parametrize("to", ["imagescope.xml", "asap.xml", "RoiSet.zip"])
def test_other_programs_count_from_the_corner_of_the_file(classes, tmp_path, to):
    region = box(200, 150, 500, 400)
    path = drawn_files.write(tmp_path, to, [("Tumor", region)])
    rows = counted(classes, tmp_path / "out", "--in", path)
    table = pq.read_table(Path(classes.out, "instances.parquet")).to_pylist()
    truth = sum(region.contains(Point(row["x"], row["y"])) for row in table)
    assert sum(int(row["count"]) for row in rows if row["region"] == "1") == truth > 0


def test_ndp_view_is_placed_without_the_slide(hamamatsu, tmp_path):
    config, to_nm = hamamatsu
    region = box(40, 60, 200, 180)
    path = drawn_files.file(tmp_path, "a.ndpa", drawn_files.ndpview([("Tumor", region)], to_nm))
    rows = counted(config, tmp_path / "out", "--in", path)
    table = pq.read_table(Path(config.out, "instances.parquet")).to_pylist()
    assert int(rows[0]["count"]) == sum(region.contains(Point(row["x"], row["y"])) for row in table) > 0


def test_hot_spots_are_full_of_their_class_and_lie_in_the_regions(classes, tmp_path):
    region = drawn(tmp_path / "a.geojson", feature(box(50, 50, 450, 450)))
    argv = ("--in", region, "--hot-spots", "--field-area", "0.001", "--hot-spots-of", "green")
    rows = counted(classes, tmp_path / "out", *argv)
    spots = [row for row in rows if row["region"].startswith("H") and row["class"] == "green"]
    assert len(spots) == 3
    counts = [int(row["count"]) for row in spots]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 0
    found = json.loads((tmp_path / "out/regions.geojson").read_text())["features"][1:]
    fields = [shape(one["geometry"]) for one in found]
    assert all(box(49, 49, 451, 451).covers(field) for field in fields)
    assert all(fields[i].intersection(fields[j]).area < 1e-3 for i, j in ((0, 1), (0, 2), (1, 2)))
    table = pq.read_table(Path(classes.out, "instances.parquet")).to_pylist()
    points = [Point(r["x"] - ORIGIN[0], r["y"] - ORIGIN[1]) for r in table if r["class"] == "green"]
    assert counts == [sum(field.contains(point) for point in points) for field in fields]


@pytest.mark.parametrize(
    ("name", "mpp", "unit", "per", "px"),
    [("a.ome.tif", 0.004, "um2", "um2", 0.004**2), ("a.png", None, "px", "mpx", 1.0)],
)
def test_of_electron_micrographs_and_pictures_areas_are_in_the_unit_of_their_report(
    tmp_path, name, mpp, unit, per, px
):
    image = fakes.picture(240, 320)
    if mpp is None:
        Image.fromarray(image).save(tmp_path / name)
    else:
        known = {"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp}
        tifffile.imwrite(tmp_path / name, image, photometric="rgb", metadata=known)
    support = fakes.write_support(tmp_path / "support", mpp=mpp or 0.5)
    config = SegmentConfig(
        str(tmp_path / name), support, str(tmp_path / "out"), foreground="all", threshold=0.5,
        instances="components", min_area_um2=0, shard=512,
    )  # fmt: skip
    segmented(config)
    left = drawn(tmp_path / "left.geojson", feature(box(0, 0, 100, 240)))
    argv = ("--in", left, "--hot-spots", "1", "--field-area", str(4000 * px))
    rows = {row["region"]: row for row in counted(config, tmp_path / "regions", *argv)}
    assert float(rows["1"][f"analysed_{unit}"]) == pytest.approx(240 * 100 * px)
    per_px = 1e-6 if per == "mpx" else 1
    assert float(rows["1"][f"density_per_{per}"]) == pytest.approx(
        int(rows["1"]["count"]) / (240 * 100 * px * per_px), rel=1e-5
    )
    assert float(rows["H1"][f"area_{unit}"]) <= 4001 * px
    named = {"um2": "µm²", "px": "megapixel"}[unit]
    assert f"<th>per {named}</th>" in (tmp_path / "regions/regions.html").read_text(encoding="utf-8")
    (row, *_) = counted(config, tmp_path / "whole", "--hot-spots", "1")
    assert float(row[f"area_{unit}"]) == pytest.approx(0.1 * 240 * 320 * px, rel=0.1)


def test_what_cannot_be_counted_in_is_said(classes, tmp_path, capsys):
    shapes = [
        feature(shapely.Polygon([(50, 50), (250, 250), (250, 50), (50, 250)]), name="bow tie"),
        feature(box(9000, 9000, 9100, 9100), name="<b>far</b>"),
        feature(shapely.LineString([(0, 0), (9, 9)]), name="ruler"),
    ]
    path = drawn(tmp_path / "a.geojson", *shapes)
    rows = counted(classes, tmp_path / "out", "--in", path)
    said = capsys.readouterr().out
    assert "outside the slide: 2 (<b>far</b>)" in said
    assert "ruler" in said
    assert sum(int(row["count"]) for row in rows if row["region"] == "1") > 0
    assert float(rows[0]["area_mm2"]) == pytest.approx(2 * 200 * 100 / 2 * 0.0625e-6)
    assert not any(int(row["count"]) for row in rows if row["region"] == "2")
    page = (tmp_path / "out/regions.html").read_text()
    assert "&lt;b&gt;far" in page
    assert "<b>far" not in page

    out = classes.out
    far = drawn(tmp_path / "far.geojson", shapes[1])
    assert "outside the slide" in refused(capsys, out, "--in", far)
    empty = drawn(tmp_path / "empty.geojson")
    assert "no polygon" in refused(capsys, out, "--in", empty)
    assert "no such file" in refused(capsys, out, "--in", str(tmp_path / "none.geojson"))
    assert "--in FILE" in refused(capsys, out)
    assert "add --hot-spots" in refused(capsys, out, "--in", path, "--field-area", "1")
    assert "more than" in refused(capsys, out, "--hot-spots", "--field-area", "5")
    assert "give at least" in refused(capsys, out, "--hot-spots", "--field-area", "1e-12")
    assert "red or green or blue" in refused(capsys, out, "--hot-spots", "--hot-spots-of", "x")
    assert "--hot-spots 0" in refused(capsys, out, "--hot-spots", "0")
    assert "on rasters" in refused(capsys, out, "--in", path, "--name", "x")


def test_files_are_not_replaced_unless_asked_and_the_run_is_left_alone(classes, tmp_path, capsys):
    path = halves(classes, tmp_path)
    first = counted(classes, tmp_path / "out", "--in", path)
    files = {one.name: one.read_bytes() for one in (tmp_path / "out").iterdir()}
    assert "--overwrite" in refused(capsys, classes.out, "--in", path, "--out", str(tmp_path / "out"))
    assert counted(classes, tmp_path / "out", "--in", path, "--overwrite") == first
    assert {one.name: one.read_bytes() for one in (tmp_path / "out").iterdir()} == files
    assert "lies in the run" in refused(capsys, classes.out, "--in", path, "--out", f"{classes.out}/regions")


def test_positive_objects_are_those_of_the_table_and_make_hot_spots(tmp_path):
    config = SegmentConfig(
        fakes.write_slide(tmp_path / "a.tif", fakes.picture(300, 400)), fakes.write_support(tmp_path / "support"),
        str(tmp_path / "run"), stains="h-dab", positive=(Positive("DAB", (0.36, 0.4, 0.5)),), foreground="all",
        threshold=0.5, instances="components", min_area_um2=0, shard=128,
    )  # fmt: skip
    segmented(config)
    region = box(50, 40, 330, 260)
    path = drawn(tmp_path / "a.geojson", feature(region))
    argv = ("--in", path, "--hot-spots", "--field-area", "0.001", "--hot-spots-of", "DAB")
    rows = counted(config, tmp_path / "out", *argv)
    table = pq.read_table(Path(config.out, "instances.parquet")).to_pylist()
    inside = [row for row in table if region.contains(Point(row["x"], row["y"]))]
    grades = np.digitize([row["od_DAB"] for row in inside], (0.36, 0.4, 0.5))
    assert 0 < (grades > 0).sum() < len(grades)
    assert rows[0]["positive_DAB"] == str((grades > 0).sum())
    assert float(rows[0]["positive_fraction_DAB"]) == pytest.approx((grades > 0).mean(), rel=1e-5)
    assert float(rows[0]["h_score_DAB"]) == pytest.approx(100 * grades.mean(), rel=1e-5)
    report = open_result(config.out).report["channels"][0]["grades"][0]
    assert float(rows[-1]["positive_fraction_DAB"]) == pytest.approx(report["positive_fraction"], rel=1e-5)
    spots = [int(row["positive_DAB"]) for row in rows if row["region"].startswith("H")]
    assert spots == sorted(spots, reverse=True)
    assert spots[0] > 0
    assert "DAB positive in the hottest field" in (tmp_path / "out/regions.html").read_text()


def test_of_a_run_in_an_area_only_that_is_analysed(tmp_path):
    area = drawn(
        tmp_path / "area.geojson", feature(Point(200, 150).buffer(120), classification={"name": "Tumor"})
    )
    config = SegmentConfig(
        fakes.write_slide(tmp_path / "a.tif", fakes.picture(300, 400)), fakes.write_support(tmp_path / "support"),
        str(tmp_path / "run"), aoi=area, foreground="all", threshold=0.5, instances="components", min_area_um2=0,
        shard=128,
    )  # fmt: skip
    segmented(config)
    path = drawn(tmp_path / "a.geojson", feature(box(0, 0, 200, 300)), feature(box(200, 0, 400, 300)))
    rows = counted(config, tmp_path / "out", "--in", path)
    inside = rasterize([Point(200, 150).buffer(120)], (300, 400)) > 0
    assert float(rows[0]["analysed_mm2"]) == pytest.approx(inside[:, :200].sum() * 0.25e-6, rel=1e-5)
    assert float(rows[0]["area_mm2"]) == pytest.approx(0.015)
    report = open_result(config.out).report
    in_any, outside = rows[2], rows[3]
    assert float(in_any["analysed_mm2"]) == pytest.approx(report["area_mm2"], rel=0.001)
    assert int(in_any["count"]) == report["count"]
    assert float(outside["analysed_mm2"]) == pytest.approx(0, abs=1e-4)


def test_a_run_of_a_version_without_foreground_says_that_it_takes_whole_areas(classes, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(classes.out, old)
    record = old / "result.zarr/zarr.json"
    text = re.sub(r'"foreground":\s*\{[^}]*\},?', "", record.read_text())
    record.write_text(re.sub(r",(\s*\})", r"\1", text))
    finished = old / ".fewscope/finished.json"

    known = json.loads(finished.read_text())
    known["files"]["result.zarr/zarr.json"] = digest_file(*open_filesystem(str(record)))
    del known["seal"]
    finished.write_text(canonical_json({**known, "seal": seal(known)}))
    config = SegmentConfig(classes.source, classes.support, str(old))
    rows = counted(config, tmp_path / "out", "--in", halves(classes, tmp_path))
    assert float(rows[0]["analysed_mm2"]) == pytest.approx(float(rows[0]["area_mm2"]), rel=0.01)
    assert "does not say where the tissue lies" in (tmp_path / "out/regions.html").read_text()


def test_several_sources_have_files_named_after_them(classes, tmp_path, capsys):
    study = tmp_path / "study"
    for name in ("a", "b", "c"):
        shutil.copytree(classes.out, study / name)
    folder = tmp_path / "drawn"
    folder.mkdir()
    drawn(folder / "a.geojson", feature(box(0, 0, 300, 300)))
    drawn(folder / "b.geojson", feature(box(0, 0, 200, 200)), feature(box(100, 100, 300, 300)))
    drawn(folder / "x.geojson", feature(box(0, 0, 200, 200)))
    shutil.copytree(classes.out, study / "far")
    drawn(folder / "far.geojson", feature(box(9000, 9000, 9100, 9100)))
    assert regions.main([str(study), "--in", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "outside the slide" in capsys.readouterr().err
    shutil.rmtree(study / "far")
    (folder / "far.geojson").unlink()
    config = SegmentConfig("", "", str(study))
    rows = counted(config, tmp_path / "out", "--in", str(folder), "--overwrite")
    said = capsys.readouterr().out
    assert "no file for c" in said
    assert "x.geojson not named after a source" in said
    assert len(rows) == 3 * (1 + 3 + 2 + 3)
    assert all(row["source"] for row in rows)
    with open(tmp_path / "out/b/regions.csv") as file:
        of_b = list(csv.DictReader(file))
    assert [row["count"] for row in of_b] == [row["count"] for row in rows[-len(of_b) :]]


def test_the_time_points_of_a_series_share_a_file(movie, tmp_path, capsys):
    """Regions are of all time points; the file is named after the series, or given itself."""
    file = drawn(tmp_path / "whole.geojson", feature(box(0, 0, 300, 300)))
    config = SegmentConfig("", "", movie)
    rows = counted(config, tmp_path / "of-file", "--in", file)
    of_region = [row for row in rows if row["region"] == "1"]
    assert [row["time_point"] for row in of_region] == ["1", "2"]
    assert [row["count"] for row in of_region] == [
        str(open_result(f"{movie}/movie.ome-t00{time}").count) for time in (1, 2)
    ]
    for name in ("movie", "movie.ome", "movie.ome.tif"):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(file, folder / f"{name}.geojson")
        assert counted(config, tmp_path / f"of-{name}", "--in", str(folder)) == rows
    shutil.copy(file, folder / "movie.ome-t002.geojson")
    assert "are all named after movie.ome.tif" in refused(capsys, movie, "--in", str(folder))


def test_from_python_the_table_is_the_same(classes, tmp_path):
    path = halves(classes, tmp_path)
    rows = counted(classes, tmp_path / "out", "--in", path, "--hot-spots", "1", "--field-area", "0.002")
    table = fewscope.regions(classes.out, path, hot_spots=1, field_area=0.002)
    assert table.schema.names == list(rows[0])
    assert table["count"].to_pylist() == [int(row["count"]) for row in rows]


def test_millions_of_positive_objects_are_counted_to_the_last():
    table = pa.table({"positive_DAB": typed([1_234_567, 0]), "h_score_DAB": typed([12.5, None])})
    assert csv_text(table) == "positive_DAB,h_score_DAB\n1234567,12.5\n0,\n"
