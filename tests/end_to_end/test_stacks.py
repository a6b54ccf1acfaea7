"""A z-stack over time: each time point is counted by itself, the page shows the count over time, and runs resume."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from scipy import ndimage
from skimage.measure import label

from fewscope import segment
from fewscope.connectors.results.reader import open_result
from fewscope.errors import RunMismatch, SourceError
from fewscope.jobs import annotate, export, segment_wsi
from fewscope.jobs.time_series import FIELD_PIXELS
from tests.helpers.channel_slides import write_ome_tiff

SIDE = 240
COUNTS = (9, 16, 25)


def planes(n: int) -> tuple[np.ndarray, np.ndarray]:
    """(3, SIDE, SIDE) uint16: bright discs, every third in focus in each plane; and the number of each."""
    rows, cols = np.indices((SIDE, SIDE))
    per_side = round(n**0.5)
    step = SIDE / per_side
    mask = np.zeros((3, SIDE, SIDE), bool)
    for i in range(n):
        row, col = (i // per_side + 0.5) * step, (i % per_side + 0.5) * step
        mask[i % 3] |= (rows - row) ** 2 + (cols - col) ** 2 <= 64
    stack = sum(
        ndimage.gaussian_filter(mask[own].astype(float), (0.6 + 3 * abs(np.arange(3) - own))[z])[None]
        * (np.arange(3) == z)[:, None, None]
        for own in range(3)
        for z in range(3)
    )
    noise = np.random.default_rng(n).normal(0, 12, stack.shape)
    return (400 + 900 * stack + noise).astype(np.uint16), label(mask.any(0)).astype(np.uint16)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> tuple[str, str]:
    """A movie of three time points and three planes, 30 s apart; two labelled z-stacks."""
    folder = tmp_path_factory.mktemp("study")
    movie = np.stack([planes(n)[0] for n in COUNTS])
    known = {"axes": "TZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "TimeIncrement": 30.0}
    tifffile.imwrite(folder / "movie.ome.tif", movie, ome=True, photometric="minisblack", metadata=known)
    (folder / "discs").mkdir()
    for n in (16, 36):
        values, numbers = planes(n)
        write_ome_tiff(folder / f"discs/{n}.ome.tif", values, axes="ZYX", factors=())
        tifffile.imwrite(folder / f"discs/{n}.ome_masks.tif", numbers)
    return str(folder / "movie.ome.tif"), str(folder / "discs")


def command(movie: str, support: str, out: Path, *more: str) -> list[str]:
    return [movie, "--support", support, "--out", str(out), "--local", "--adapt", "0", *more]


@pytest.mark.slow
def test_each_time_point_is_counted_and_the_page_shows_them_over_time(study, tmp_path, capfd, quick_texture):
    movie, support = study
    out = tmp_path / "out"
    assert segment_wsi.main(command(movie, support, out)) == 0
    assert "movie.ome.tif, time point 3: 25 " in capfd.readouterr().out
    with open(out / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["count"]) for row in rows] == list(COUNTS)
    assert [(row["time_point"], row["time_s"]) for row in rows] == [("1", "0"), ("2", "30"), ("3", "60")]
    page = (out / "index.html").read_text()
    assert page.count("<polyline") == 1
    assert "at 3 time points of <bdi>movie.ome.tif</bdi>" in page
    assert "time, s" in page
    folder = out / "movie.ome-t002"
    report = json.loads((folder / "report.json").read_text())
    assert (report["plane"], report["time_point"], report["time_s"]) == ("maximum of 3 planes", 2, 30.0)
    assert report["title"] == "movie.ome.tif, time point 2"
    assert any("--plane" in text for text in report["assumptions"])
    labels = open_result(str(folder)).labels[0].compute()
    table = pq.read_table(folder / "instances.parquet").to_pydict()
    (column,) = [name for name in table if name.startswith("intensity_")]
    projected = planes(COUNTS[1])[0].max(0)
    expected = [projected[labels == i].mean() for i in table["id"]]
    assert table[column] == pytest.approx(expected)


@pytest.mark.slow
def test_another_plane_or_time_point_does_not_resume(study, tmp_path, quick_texture):
    movie, support = study
    out = str(tmp_path / "out")
    options = {"adapt_s": 0.0, "time": 1}
    first = segment(movie, support, out, plane=2, **options)
    assert first.report["plane"] == "plane 2 of 3"
    before = (tmp_path / "out/report.json").read_bytes()
    segment(movie, support, out, plane=2, **options)
    assert (tmp_path / "out/report.json").read_bytes() == before
    with pytest.raises(RunMismatch, match="plane"):
        segment(movie, support, out, plane="max", **options)
    with pytest.raises(RunMismatch, match="time_point"):
        segment(movie, support, out, plane=2, adapt_s=0.0, time=2)
    with pytest.raises(SourceError, match="series of 3 time points"):
        segment(movie, support, out, adapt_s=0.0)


@pytest.mark.slow
def test_outlines_drawn_at_one_time_point_are_learned_from_at_all(study, tmp_path, capfd, quick_texture):
    movie, _ = study
    square = [[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE], [0, 0]]
    features = [("Region", square)]
    step = SIDE / 3
    for i in range(9):
        row, col = (i // 3 + 0.5) * step + 0.5, (i % 3 + 0.5) * step + 0.5
        angles = np.linspace(0, 2 * np.pi, 25)
        features.append(("disc", [[col + 8 * np.cos(a), row + 8 * np.sin(a)] for a in angles]))
    drawn, out = tmp_path / "drawn.geojson", tmp_path / "out"
    write_drawn(drawn, features)
    assert segment_wsi.main(command(movie, str(drawn), out, "--plane", "max")) == 0
    with open(out / "summary.csv", newline="") as file:
        assert [int(row["count"]) for row in csv.DictReader(file)] == list(COUNTS)
    for t in range(3):  # where QuPath shows them
        with gzip.open(out / f"movie.ome-t00{t + 1}/instances.geojson.gz", "rt") as file:
            planes_of = [one["geometry"]["plane"] for one in json.load(file)["features"]]
        assert planes_of == [{"c": -1, "z": 0, "t": t}] * COUNTS[t]
    assert export.main([str(out), "--to", "csv", "--out", str(tmp_path / "all.csv")]) == 0
    with open(tmp_path / "all.csv", newline="") as file:
        points = [row["time_point"] for row in csv.DictReader(file)]
    assert [points.count(str(t)) for t in (1, 2, 3)] == list(COUNTS)
    write_drawn(drawn, features, time=2)  # as QuPath states it
    argv = command(movie, str(drawn), tmp_path / "other", "--time", "1", "--support-time", "1")
    assert segment_wsi.main(argv) == 2
    assert (
        "was drawn on time point 2, but time point 1 is read; give --support-time" in capfd.readouterr().err
    )


def test_annotations_are_read_on_the_time_point_that_they_state(study, tmp_path):
    movie, support = study
    square = [("Region", [[0, 0], [SIDE, 0], [SIDE, SIDE], [0, 0]])]
    second, third, other = (tmp_path / f"{name}.geojson" for name in ("second", "third", "other"))
    write_drawn(second, square, time=2)
    write_drawn(third, square, time=3)
    write_drawn(other, square)

    def read_on(*more: str) -> set[int | None]:
        args = segment_wsi.parse(command(movie, str(second), tmp_path / "out", *more))
        return {config.support_time for config in segment_wsi.configs(args)}

    assert read_on() == {2}
    assert read_on("--time", "1") == {2}
    assert read_on("--support-time", "1") == {1}
    assert read_on("--support", support) == {2}
    assert read_on("--support", str(third)) == {1}  # which of them is not certain
    assert read_on("--support", str(other), "--time", "3") == {None}


def write_drawn(path: Path, features: list[tuple[str, list[list[float]]]], time: int | None = None) -> None:
    """Write outlines as QuPath does, on a time point counted from 1 if one is given."""
    plane = {} if time is None else {"plane": {"c": -1, "z": 0, "t": time - 1}}
    collection = {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring], **plane},
                "properties": {"classification": {"name": name}},
            }
            for name, ring in features
        ],
    }
    path.write_text(json.dumps(collection))


def test_what_is_asked_for_of_a_large_series_or_one_time_point(study, tmp_path, monkeypatch, capfd):
    movie, support = study
    monkeypatch.setattr("fewscope.jobs.time_series.FIELD_PIXELS", SIDE**2 - 1)
    assert FIELD_PIXELS == 4096**2
    assert segment_wsi.main(command(movie, support, tmp_path / "out")) == 2
    assert "give one of them, from 1 to 3, with --time, or --time all" in capfd.readouterr().err
    args = segment_wsi.parse(command(movie, support, tmp_path / "out", "--time", "all"))
    assert [(one.time, one.support_time) for one in segment_wsi.configs(args)] == [(1, 1), (2, 1), (3, 1)]
    args = segment_wsi.parse(command(movie, support, tmp_path / "out", "--time", "3", "--plane", "2"))
    (one,) = segment_wsi.configs(args)
    assert (one.time, one.plane, one.out) == (3, 2, str(tmp_path / "out"))
    for wrong in (["--time", "0"], ["--plane", "best"], ["--pages", "rows"]):
        with pytest.raises(SystemExit):
            segment_wsi.parse(command(movie, support, tmp_path / "out", *wrong))


def test_the_page_hands_on_what_it_was_given(study):
    args = annotate.parse([study[0], "--time", "2", "--plane", "max", "--pages", "planes"])
    given = annotate.given(args, annotate.SLIDE_OPTIONS)
    assert given == ("--plane", "max", "--time", "2", "--pages", "planes")
