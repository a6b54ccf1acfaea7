"""The report says what the table says, shows what the source shows, and trusts no string from outside."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest

from fewscope.pipeline.report.content import Dropped, Quality, Timings, Unlike, UnlikeTile
from fewscope.pipeline.report.formatting import short
from fewscope.pipeline.report.headline import count_in_words
from fewscope.pipeline.report.render import Measures, render, write_report
from tests.helpers.reports import (
    HEIGHT,
    WIDTH,
    Links,
    discs,
    run_report,
)


def test_every_interval_stands_beside_its_estimate_in_page_and_json():
    """What was found may lie outside of it, as here: 95 % interval of the truth, not of what was found."""
    report, pictures = run_report(
        count_estimate=500, count_interval=(400, 600), covered_ratio=(0.5, 0.7), dropped=Dropped(7, 120)
    )
    numbers = json.loads(report.to_json())
    assert numbers["count"] == report.count < 400
    assert numbers["count_estimate"] == 500
    assert numbers["covered_estimate_px"] == pytest.approx(0.6 * report.covered_px)
    assert (numbers["dropped_count"], numbers["dropped_px"]) == (7, 120)
    text = " ".join(Links(render(report, pictures)).text.split())
    assert re.search(r"objects of class “\w+” found", text)
    assert "Estimated true number 500 95 % interval 400 to 600" in text
    assert re.search(r"estimated true area [\d.,]+ \S+, 95 % interval", text)
    assert "7 smaller objects" in text
    assert count_in_words(numbers) == (
        f"{report.count:,} {report.class_name} found; estimated true number 500 (95 % interval 400 to 600)"
    )


def test_with_several_classes_each_estimate_has_its_name():
    one = {"name": "a", "count": 44, "count_estimate": 65, "count_interval": [45, 86]}
    words = count_in_words({"count": 50, "classes": [one, {"name": "b", "count": 6, "count_interval": None}]})
    assert words == "50 objects found: 44 a [estimated true number 65 (95 % interval 45 to 86)], 6 b"


@pytest.mark.parametrize(
    ("mpp", "ground"),
    [(0.5, {}), (0.004, {}), (None, {}), (None, {"kind": "raster", "metres_per_px": 10.0})],
)
def test_the_density_at_seams_is_in_the_unit_that_stands_there(mpp, ground):
    """As near to that of the whole source as equally spaced objects are."""
    report, pictures = run_report(mpp=mpp)
    page = render(replace(report, **ground), pictures)
    chart = page.partition("Density by distance from the nearest seam")[2].partition("</svg>")[0]
    highest = max(float(tick.replace(",", "")) for tick in re.findall(r'text-anchor="end">([^<]+)<', chart))
    show = Measures(ground["metres_per_px"] * 1e6 if ground else mpp, ground.get("kind", "slide"))
    assert f"objects {show.density_unit}" in chart
    assert 0.5 < highest / show.per_area(report.density_per_mpx) < 2


def test_both_ends_of_a_range_have_one_unit():
    """Here the lower quartile is below 0.01 um2, which alone is told in nm2, and the upper one above."""
    report, pictures = run_report(mpp=0.0075)
    quartiles = [report.sizes.area_px[name] * 0.0075**2 for name in ("q25", "q75")]
    assert quartiles[0] < 0.01 <= quartiles[1]
    text = Links(render(report, pictures)).text
    shown = text.partition("Interquartile range of areas")[2][:60]
    assert re.match(r"\s*0\.00\d+ µm²to 0\.01\d* µm²", shown), shown


PAGES = {
    "plain": {},
    "nothing found": {"labels": np.zeros((HEIGHT, WIDTH), np.uint32)},
    "no resolution": {"mpp": None},
    "one patch, no quality": {"k": 1},
    "with quality": {
        "quality": Quality(0.71, (0.6, 0.8), (0.7, None), 0.42, "best overlap", "leave-one-out"),
        "held_out": np.ones((2, 224, 224), np.uint8),
        "count_interval": (60, 90),
        "count_interval_source": "from the held-out patches",
        "timings": Timings({"plan": 1.0, "segment": 75.0}, 76.0, 100, 1.3, 0.9, 0.05, 0.0, "2025-01-01"),
    },
    "hardly unlike the patches": {"unlike": Unlike(0.05, 64, ())},
    "smaller than a tile": {"labels": discs(100, 90)},
    "one object of one pixel": {"labels": np.pad(np.ones((1, 1), np.uint32), ((3, 96), (3, 96)))},
}


@pytest.mark.parametrize("case", PAGES)
def test_a_page_fetches_nothing_runs_nothing_and_says_the_count(case):
    report, pictures = run_report(**PAGES[case])
    page = render(report, pictures)
    links = Links(page)
    assert links.fetched
    assert all(link.startswith("data:image/") for link in links.fetched)
    assert links.scripts == 0
    assert not re.search(r"@import|url\((?!#)", page)
    assert f"{report.count:,}" in links.text
    assert not re.search(r"\b(nan|inf|None)\b", links.text)


def test_the_same_inputs_give_the_same_page(plain):
    assert render(*plain) == render(*run_report())


def test_no_resolution_is_said_and_no_micrometre_is_shown():
    report, pictures = run_report(mpp=None)
    assert report.density_per_mm2 is None
    assert report.area_mm2 is None
    text = Links(render(report, pictures)).text
    assert "states no resolution" in text
    assert "µm²" not in text
    assert "mm²" not in text


def test_strings_from_outside_are_text():
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
    report, pictures = run_report(
        uri=f"s3://bucket/{evil}.svs",
        class_name=evil,
        quality=Quality(0.5, None, (0.5, 0.5), 0.5, evil, evil),
        count_interval=(1, 2),
        count_interval_source=evil,
        notes=[evil],
        assumptions=[evil],
        run={evil: {evil: evil}, "hash": evil},
        timings=Timings({evil: 1.0}, started=evil),
    )
    pictures = replace(pictures, patches=tuple(replace(patch, name=evil) for patch in pictures.patches))
    page = render(report, pictures)
    links = Links(page)
    assert links.scripts == 0
    assert all(link.startswith("data:image/") for link in links.fetched)
    assert links.text.count("alert(1)") >= 10


def test_a_file_name_that_is_no_text_still_gets_its_report(tmp_path, plain):
    name = "\udcff.svs"
    report, pictures = replace(plain[0], title=name, run={"source": {"file": name}}), plain[1]
    page = write_report(str(tmp_path), report, pictures)
    assert "?.svs" in Path(page).read_text("utf-8")


@pytest.fixture(scope="module")
def full():
    return run_report(**PAGES["with quality"])


@pytest.mark.parametrize("remote", [False, True])
def test_page_and_json_hold_the_same_numbers(tmp_path, remote, full):
    out = "memory://report-test/out" if remote else str(tmp_path / "new" / "folder")
    report, pictures = full
    address = write_report(out + "/", report, pictures)
    assert address == f"{out}/report.html"
    with fsspec.open(f"{out}/report.json", "rt") as file:
        numbers = json.load(file)
    with fsspec.open(address, "rt", encoding="utf-8") as file:
        text = Links(file.read()).text
    assert list(numbers)[:3] == ["title", "class_name", "count"]
    assert numbers["count"] == report.count == discs().max()
    assert numbers["count_interval"] == [60, 90]
    assert numbers["quality"]["iou"] == [0.7, None]
    assert numbers["timings"]["stages"] == {"plan": 1.0, "segment": 75.0}
    for shown in (
        f"{numbers['count']:,}",
        "60 to 90",
        "0.71",
        short(numbers["density_per_mm2"]),
        "1 min 15 s",
    ):
        assert shown in text


def test_an_estimate_that_is_not_a_number_is_none(plain):
    nan = float("nan")
    report = replace(plain[0], quality=Quality(nan, (nan, 0.5), (nan, 0.5)))
    assert json.loads(report.to_json())["quality"]["iou"] == [None, 0.5]
    assert "not estimated" in Links(render(report, plain[1])).text


def test_ground_unlike_the_patches_is_shown_with_what_was_found_there():
    tiles = UnlikeTile(0, 224, 224, 224, 0.9), UnlikeTile(40, 0, 224, 224, 0.4)
    report, pictures = run_report(unlike=Unlike(0.31, 64, tiles))
    numbers = json.loads(report.to_json())["unlike"]
    assert (numbers["fraction"], numbers["tiles"]) == (0.31, 64)
    assert numbers["largest"][1] == {"row": 40, "col": 0, "height": 224, "width": 224, "fraction": 0.4}
    assert len(pictures.unlike) == 2
    text = Links(render(report, pictures)).text
    for shown in ("31%", "sample of 64 tiles", "90%", "row 0, column 224", "row 40, column 0"):
        assert shown in text
    assert "Unlike the patches" not in Links(render(*run_report())).text


def test_the_page_stays_small():
    report, pictures = run_report(discs(600, 600, 20, 7))
    assert len(render(report, pictures)) < 5e6
