"""The table and the page of several sources."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from fewscope.pipeline.calibration.intervals import CountRatio, count_interval, share_left
from fewscope.pipeline.report.series import Done, series_of
from fewscope.pipeline.report.study import table_text, write_study


def report(count: int, **more: object) -> dict[str, object]:
    return {
        "title": f"{count}.tif",
        "class_name": "cell",
        "count": count,
        "count_estimate": count + 1,
        "count_interval": [count - 1, count + 3],
        "density_per_mm2": None,
        "covered_fraction": 0.25,
        "sizes": {"area_px": {"median": 81.5}, "median_diameter_um": None},
        "quality": {"iou_mean": 0.75},
        "notes": ["one"],
        **more,
    }


def rows(done: list[Done]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table_text(done))))


def test_a_row_has_what_its_report_has_and_a_source_that_failed_says_why():
    found = rows([Done("in/a.tif", "a", report(40)), Done("in/b.tif", "b", None, "in/b.tif: is empty")])
    assert found[0] == {
        **{"source": "in/a.tif", "class": "cell", "count": "40", "count_estimate": "41", "count_low": "39"},
        **{"count_high": "43", "covered_fraction": "0.25", "median_area_px": "81.5", "estimated_iou": "0.75"},
        **{"n_warnings": "1", "report": "a/report.html", "error": ""},
    }
    assert found[1]["error"] == "in/b.tif: is empty"
    assert found[1]["count"] == ""


def series(times_s: list[float | None], counts: list[int]) -> list[Done]:
    """Time points of one movie."""
    return [
        Done(
            "in/movie.tif",
            f"movie-t{t:03d}",
            report(n, time_point=t, **({} if s is None else {"time_s": s})),
            time_point=t,
        )
        for t, (s, n) in enumerate(zip(times_s, counts, strict=True), start=1)
    ]


def test_time_points_have_their_times_in_the_table():
    done = [*series([0.0, 90.0], [10, 20]), Done("in/movie.tif", "movie-t003", None, "is empty", 3)]
    found = rows(done)
    assert [(row["time_point"], row["time_s"]) for row in found] == [("1", "0"), ("2", "90"), ("3", "")]
    assert "time_point" not in rows([Done("a.tif", "a", report(1))])[0]


@pytest.mark.parametrize(
    ("times_s", "label", "ends"),
    [
        ([0.0, 60.0, 120.0], "time, s", ("0", "120")),
        ([0.0, 3600.0, 7200.0], "time, min", ("0", "120")),
        ([0.0, 1800.0, 36000.0], "time, h", ("0", "10")),
        ([None, None, None], "time point", ("1", "3")),
    ],
)
def test_counts_over_time_are_drawn_where_they_are(times_s, label, ends):
    counts = [40, 10, 30]
    ((chart),) = [one["chart"] for one in series_of(series(times_s, counts))]
    assert chart["label"] == label
    assert (chart["x_ticks"][0][1], chart["x_ticks"][-1][1]) == ends
    xs, ys = [point[0] for point in chart["points"]], [point[1] for point in chart["points"]]
    assert (xs[0], xs[-1]) == (chart["left"], chart["right"])
    expected = 0.5 if times_s[1] is None else times_s[1] / times_s[2]
    assert (xs[1] - xs[0]) / (xs[2] - xs[0]) == pytest.approx(expected, abs=0.001)
    heights = [chart["base"] - y for y in ys]
    assert heights[1] / heights[0] == pytest.approx(10 / 40, abs=0.01)
    assert heights[2] / heights[0] == pytest.approx(30 / 40, abs=0.01)
    band = [float(pair.split(",")[1]) for pair in chart["band"].split()]
    assert all(band[i] < ys[i] < band[5 - i] for i in range(3))  # the interval of `report` lies on both sides


def test_the_page_shows_a_chart_of_each_series_alone(tmp_path: Path):
    write_study(str(tmp_path), [*series([0.0, 60.0], [3, 5]), Done("a.tif", "a", report(1))])
    page = (tmp_path / "index.html").read_text()
    assert page.count("<polyline") == 1
    assert "3 found at the first of 2 time points, 5 at the last" in page
    write_study(str(tmp_path), [Done("a.tif", "a", report(1)), Done("b.tif", "b", report(2))])
    assert "<polyline" not in (tmp_path / "index.html").read_text()


def test_objects_of_several_time_points_are_not_added_up(tmp_path: Path):
    """Each is found again at the next one."""
    other = [replace(one, source="in/other.tif") for one in series([0.0, 60.0], [7, 9])]
    write_study(str(tmp_path), [*series([0.0, 60.0], [3, 5]), *other, Done("a.tif", "a", report(1))])
    page = (tmp_path / "index.html").read_text()
    assert "<h1><bdi>cell</bdi> in 3 sources, 2 of them time series</h1>" in page
    assert "<title>3 sources" in page
    assert "Estimated true number:" not in page
    write_study(str(tmp_path), [Done("a.tif", "a", report(1)), Done("a.tif", "a-2", report(2))])
    assert "Estimated true number: 5." in (tmp_path / "index.html").read_text()


def test_each_class_has_a_row():
    of_classes = [
        {"name": "red", "count": 3, "count_estimate": None, "count_interval": None, "quality": None},
        {"name": "blue", "count": 4, "count_estimate": 5, "count_interval": [4, 6], "quality": None},
    ]
    found = rows([Done("a.tif", "a", report(7, classes=of_classes))])
    assert [(row["class"], row["count"], row["count_high"]) for row in found] == [
        ("red", "3", ""),
        ("blue", "4", "6"),
    ]


def test_a_spreadsheet_takes_no_name_for_a_formula():
    (row,) = rows([Done("=HYPERLINK(1).tif", "a", report(1))])
    assert row["source"] == "'=HYPERLINK(1).tif"


def test_the_page_shows_all_of_them_and_escapes_their_names(tmp_path: Path):
    (tmp_path / "a b").mkdir()
    Image.new("RGB", (640, 400)).save(tmp_path / "a b/overview.jpg")
    done = [
        Done("<b>.tif", "a b", report(40, title="<b>.tif")),
        Done("c.tif", "c", report(2)),
        Done("d.tif", "d", None, "d.tif: <is> empty"),
    ]
    write_study(str(tmp_path), done)
    page = (tmp_path / "index.html").read_text()
    assert "42 objects of class “<bdi>cell</bdi>” in 2 sources" in page
    assert "<b>" not in page
    assert "&lt;is&gt; empty" in page
    assert 'href="a%20b/report.html"' in page
    assert page.count("data:image/jpeg") == 1  # the other has no picture


def test_the_interval_is_wide_where_patches_do_not_speak_for_the_source():
    ratio = CountRatio(0.9, 1.0, 1.1)
    assert count_interval(100, ratio, share_left(0.9, 0.85)) == (90, 111)
    low, high = count_interval(100, ratio, share_left(0.9, 0.09)) or (0, 0)
    assert (low, high) == (9, 1101)


@pytest.mark.parametrize(("mpp", "told"), [(0.5, "1,250 per mm²"), (0.004, "30 per µm²")])
def test_the_page_counts_per_area_as_the_reports_do(tmp_path, mpp, told):
    density = {0.5: 1250.0, 0.004: 30e6}[mpp]
    done = [Done("in/a.tif", "a", report(40, mpp=mpp, density_per_mm2=density))]
    write_study(str(tmp_path), done)
    assert f" · {told} · " in (tmp_path / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("of", "told"),
    [
        ({"density_per_mpx": 408.333}, "25% of the area · 408 per megapixel"),
        (
            {"density_per_mpx": 12.0, "density_per_km2": 0.1234, "covered_km2": 7.283},
            "7.28 km² · 0.123 per km²",
        ),
    ],
)
def test_the_page_tells_densities_of_pictures_without_a_resolution_and_of_maps(tmp_path, of, told):
    write_study(str(tmp_path), [Done("in/a.tif", "a", report(40, mpp=None, **of))])
    assert told in (tmp_path / "index.html").read_text(encoding="utf-8")
