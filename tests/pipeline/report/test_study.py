"""The table and the page of several sources."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from PIL import Image

from fewscope.pipeline.calibration.intervals import CountRatio, count_interval, share_left
from fewscope.pipeline.report.study import Done, table_text, write_study


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
