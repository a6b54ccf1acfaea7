"""The report says what the table says, shows what the source shows, and trusts no string from outside."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.windows import Window
from scipy import ndimage
from skimage.color import rgb2lab

from fewscope.pipeline.report import drawing, figures
from fewscope.pipeline.report.content import Dropped, Quality, Timings, Unlike, UnlikeTile, make_report
from fewscope.pipeline.report.figures import draw
from fewscope.pipeline.report.formatting import short
from fewscope.pipeline.report.headline import count_in_words
from fewscope.pipeline.report.render import Measures, render, write_report
from fewscope.pipeline.report.statistics import area_mean, instance_statistics

HEIGHT, WIDTH = 310, 450


class FakeSource:
    """A pink image with dark discs where `labels` are, in memory."""

    def __init__(self, labels, uri="slides/a.svs", mpp=0.5):
        self.image = np.where(labels[..., None] > 0, (70, 40, 120), (235, 180, 210)).astype(np.uint8)
        height, width = labels.shape
        self.largest = 0
        self.info = SimpleNamespace(
            uri=uri,
            height=height,
            width=width,
            mpp=mpp,
            mpp_source="test",
            native_mpp=mpp,
            native_height=height,
            native_width=width,
            vendor="fake",
            crs=None,
            fingerprint="f00",
            kind="slide",
            bands="",
            notes=(),
            assumptions=(),
            channels=(),
        )

    def overview(self, max_side):
        step = -(-max(self.image.shape) // max_side)
        image = self.image[::step, ::step]
        return image, np.ones(image.shape[:2], bool)

    def read(self, window):
        self.largest = max(self.largest, window.height, window.width)
        rows = window.row_off + np.arange(window.height)
        cols = window.col_off + np.arange(window.width)
        inside = np.outer(
            (rows >= 0) & (rows < self.image.shape[0]), (cols >= 0) & (cols < self.image.shape[1])
        )
        image = self.image[rows.clip(0, len(self.image) - 1)][:, cols.clip(0, self.image.shape[1] - 1)].copy()
        image[~inside] = 255
        return image, inside


class Lazy:
    """An array that remembers the most pixels it was asked for at once."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.largest = array, array.shape, array.dtype, 0

    def __getitem__(self, key):
        block = self.array[key]
        self.largest = max(self.largest, block.size)
        return block


def discs(height=HEIGHT, width=WIDTH, step=40, radius=9):
    row, col = np.indices((height, width))
    n = 1 + (row // step) % 3  # three sizes
    inside = (row % step - step // 2) ** 2 + (col % step - step // 2) ** 2 < (radius - n) ** 2
    return ndimage.label(inside)[0].astype(np.uint32)


def table_of(labels, probability=0.8):
    ids = np.arange(1, labels.max() + 1)
    boxes = ndimage.find_objects(labels.astype(np.int32))
    centres = np.array(ndimage.center_of_mass(labels > 0, labels, ids)).reshape(-1, 2)
    return pa.table(
        {
            "id": ids.astype(np.int64),
            "centroid_row": centres[:, 0],
            "centroid_col": centres[:, 1],
            "area_px": np.bincount(labels.ravel(), minlength=len(ids) + 1)[1:].astype(np.int64),
            "bbox_row0": np.array([b[0].start for b in boxes], np.int64),
            "bbox_col0": np.array([b[1].start for b in boxes], np.int64),
            "bbox_row1": np.array([b[0].stop for b in boxes], np.int64),
            "bbox_col1": np.array([b[1].stop for b in boxes], np.int64),
            "mean_probability": np.full(len(ids), probability),
        }
    )


def pyramid(array):
    levels = [array]
    while max(levels[-1].shape) > 256:
        levels.append(levels[-1][::2, ::2])
    return [Lazy(level) for level in levels]


def support_of(k=2, names=None):
    rng = np.random.default_rng(1)
    labels = np.zeros((k, 224, 224), np.uint8)
    labels[:, 60:100, 60:100] = 1
    labels[:, :, :20] = 255
    images = rng.integers(0, 255, (k, 224, 224, 3), np.uint8)
    return SimpleNamespace(
        images=images,
        labels=labels,
        instances=None,
        complete=None,
        n_dense=k,
        class_names=("nucleus",),
        names=names or tuple(f"{i}.jpg" for i in range(1, k + 1)),
    )


def run_report(
    labels=None, *, k=2, uri="slides/a.svs", mpp=0.5, quality=None, held_out=None, unlike=None, **told
):
    labels = discs() if labels is None else labels
    source = FakeSource(labels, uri, mpp)
    result = SimpleNamespace(semantic=pyramid((labels > 0).astype(np.uint8)), instances=pyramid(labels))
    foreground = np.ones((31, 45), bool)
    table = ds.dataset(table_of(labels))
    found = instance_statistics(
        table, *labels.shape, foreground, seam_rows=[128, 256], seam_cols=[128, 256, 384]
    )
    told = {"class_name": "nucleus", "run": {"hash": "abc"}, "timings": Timings()} | told
    report = make_report(source.info, found, quality=quality, unlike=unlike, **told)
    windows = [Window(t.col, t.row, t.width, t.height) for t in unlike.largest] if unlike else ()
    return report, draw(source, result, found, foreground, support_of(k), held_out, windows)


@pytest.fixture(scope="module")
def plain():
    return run_report()


# What the numbers promise


@settings(max_examples=40)
@given(st.lists(st.integers(1, 30), max_size=60), st.integers(1, 7), st.floats(0, 1))
def test_sizes_and_samples_are_those_of_the_sorted_table(areas, n_samples, q):
    n = len(areas)
    zeros = np.zeros(n)
    table = pa.table(
        {"id": np.arange(1, n + 1), "area_px": np.array(areas, np.int64)}
        | dict.fromkeys(
            ("centroid_row", "centroid_col", "bbox_row0", "bbox_col0", "bbox_row1", "bbox_col1"), zeros
        )
    )
    found = instance_statistics(table, 100, 100, np.ones((10, 10), bool), n_samples=n_samples)
    assert found.count == n
    assert found.covered_px == sum(areas)
    if n:
        assert found.quantile(q) == pytest.approx(np.quantile(areas, q))
        order = np.lexsort((np.arange(n), areas))
        ranks = (
            np.linspace(0, n - 1, min(n, n_samples)).round().astype(int)
            if min(n, n_samples) > 1
            else [n // 2]
        )
        assert [row["id"] for row in found.samples] == [int(order[rank]) + 1 for rank in ranks]


def test_how_the_table_is_cut_into_batches_does_not_matter(monkeypatch):
    table = table_of(discs())
    whole = instance_statistics(table, HEIGHT, WIDTH, np.ones((31, 45), bool), seam_rows=[256])
    monkeypatch.setattr("fewscope.pipeline.report.statistics.BATCH_ROWS", 7)
    for cut in (table, ds.dataset(table)):
        again = instance_statistics(cut, HEIGHT, WIDTH, np.ones((31, 45), bool), seam_rows=[256])
        assert again.samples == whole.samples
        assert again.seams == whole.seams
        np.testing.assert_array_equal(again.grid, whole.grid)
        np.testing.assert_array_equal(again.field_counts, whole.field_counts)


def test_every_object_is_in_one_density_cell():
    found = instance_statistics(table_of(discs()), HEIGHT, WIDTH, np.ones((31, 45), bool))
    assert found.grid.sum() == found.count == discs().max()


def test_areas_and_densities_by_hand():
    foreground = np.zeros((31, 90), bool)
    foreground[:, :45] = True  # the left half is tissue
    found = instance_statistics(table_of(discs()), HEIGHT, WIDTH, foreground)
    info = FakeSource(discs()).info
    report = make_report(info, found, class_name="n", run={}, timings=Timings(), unreadable_px=9_750)
    assert report.area_px == pytest.approx(HEIGHT * WIDTH / 2 - 9_750)
    assert report.area_mm2 == pytest.approx(report.area_px * 0.25e-6)
    assert report.density_per_mm2 == pytest.approx(report.count / report.area_mm2)
    assert report.unreadable_fraction == pytest.approx(9_750 / 69_750)
    assert report.covered_fraction == pytest.approx((discs() > 0).sum() / 60_000)
    assert report.sizes.median_area_um2 == pytest.approx(np.median(np.bincount(discs().ravel())[1:]) / 4)


def test_the_covered_area_has_an_interval_and_is_at_most_all_there_is():
    report, pictures = run_report(covered_ratio=(0.9, 1.2))
    assert report.covered_interval_px == pytest.approx((0.9 * report.covered_px, 1.2 * report.covered_px))
    text = " ".join(Links(render(report, pictures)).text.split())
    assert "95 % interval" in text
    assert json.loads(report.to_json())["covered_interval_px"] == list(report.covered_interval_px)
    report, _ = run_report(covered_ratio=(0.9, 1e9))
    assert report.covered_interval_px[1] == report.area_px
    report, pictures = run_report()
    assert report.covered_interval_px is None
    assert "95 % interval" not in Links(render(report, pictures)).text


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


def test_no_interval_of_an_area_is_negative():
    report, _ = run_report(covered_ratio=(-0.2, 1.0))
    assert report.covered_interval_px == (0.0, report.covered_px)
    assert report.covered_estimate_px == pytest.approx(0.4 * report.covered_px)


def test_the_histograms_hold_every_object_once(plain):
    report, _ = plain
    for histogram in (report.sizes.area, report.sizes.diameter):
        assert sum(histogram.counts) + histogram.beyond == report.count
        assert len(histogram.edges) == len(histogram.counts) + 1


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 25), st.integers(1, 25))
def test_area_mean_keeps_the_mean_and_equals_block_means(height, width, rows, cols):
    array = np.random.default_rng(height * 41 + width).random((height, width))
    means = area_mean(array, np.linspace(0, height, rows + 1), np.linspace(0, width, cols + 1))
    assert means.shape == (rows, cols)
    assert means.mean() == pytest.approx(array.mean())
    repeated = np.kron(array, np.ones((rows, cols)))  # fine enough that every box is whole pixels
    truth = repeated.reshape(rows, height, cols, width).mean(axis=(1, 3))
    np.testing.assert_allclose(means, truth, atol=1e-12)


def test_objects_cut_at_seams_are_noticed_and_whole_ones_are_not():
    rng = np.random.default_rng(3)
    mask = np.zeros((1024, 1024), bool)
    for row, col in rng.integers(10, 1010, (900, 2)):
        mask[row - 4 : row + 5, col - 4 : col + 5] = True
    whole = ndimage.label(mask)[0].astype(np.uint32)
    cut = np.zeros_like(whole)
    for top in (0, 512):
        for left in (0, 512):
            block = np.s_[top : top + 512, left : left + 512]
            part = ndimage.label(mask[block])[0]
            cut[block] = np.where(part > 0, part + cut.max(), 0)
    assert cut.max() > whole.max()
    for labels, expected in ((whole, False), (cut, True)):
        found = instance_statistics(
            table_of(labels), 1024, 1024, np.ones((64, 64), bool), seam_rows=[512], seam_cols=[512]
        )
        assert found.seams.suspicious is expected
        assert found.seams.n_seams == 2


def test_one_unit_has_no_seam_check():
    assert (
        instance_statistics(table_of(discs()), HEIGHT, WIDTH, np.ones((6, 9), bool), seam_rows=[0]).seams
        is None
    )


# What the pictures promise


def decoded(picture):
    head, data = picture.uri.split(",")
    assert head == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), int)


def test_lightness_of_the_colour_map_rises_in_equal_steps():
    lightness = rgb2lab(drawing.colour_map()[None] / 255)[0, :, 0]
    assert lightness[0] < 20
    assert lightness[-1] > 88
    np.testing.assert_allclose(np.diff(lightness[::15]), np.diff(lightness[::15]).mean(), atol=1.0)


def test_an_outline_lies_on_the_border_and_leaves_the_inside_alone():
    labels = np.zeros((60, 60), np.uint32)
    labels[20:40, 20:40] = 4_000_000_000
    image = np.full((60, 60, 3), 128, np.uint8)
    drawn = drawing.outlined(image, labels, 4).astype(int)
    yellow = np.abs(drawn - drawing.FOUND).sum(axis=-1) < 60
    rows, cols = np.nonzero(yellow)
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == pytest.approx((80, 159, 80, 159), abs=1)
    assert (drawn[90:150, 90:150] == 128).all()


def test_touching_objects_are_outlined_one_by_one():
    labels = np.zeros((40, 40), np.uint32)
    labels[10:30, 10:20], labels[10:30, 20:30] = 1, 2
    drawn = drawing.outlined(np.zeros((40, 40, 3), np.uint8), labels, 4).astype(int)
    assert (drawn[60:100, 78:82, 0] > 150).any(axis=1).all()


def test_the_overview_is_tinted_where_objects_are():
    labels = np.zeros((300, 400), np.uint32)
    labels[50:150, 100:250] = 1
    _, pictures = run_report(labels)
    overview = decoded(pictures.overview)
    assert overview[100, 175, 2] < 80 < overview[225, 325, 2]  # yellow has no blue


def test_agreement_colours():
    label = np.zeros((224, 224), np.uint8)
    label[:, 112:] = 1
    label[200:] = 255
    predicted = np.zeros((224, 224), bool)
    predicted[:100] = True
    shown = drawing.agreement(np.full((224, 224, 3), 100, np.uint8), label, predicted).astype(int)
    agrees, extra, missed, neither = shown[100, 350], shown[100, 100], shown[300, 350], shown[300, 100]
    assert agrees[2] > agrees[0] + 60  # blue
    assert missed[0] > missed[2] + 60  # orange red
    assert extra[:2].min() > 160 > extra[2]  # yellow
    assert np.ptp(neither) == 0


def test_only_bounded_pieces_are_read():
    labels = np.zeros((1200, 1400), np.uint32)
    labels[5:1150, 5:1300] = 1  # one object nearly as large as the source
    labels[1160:1170, 30:40] = 2
    source = FakeSource(labels)
    result = SimpleNamespace(semantic=pyramid((labels > 0).astype(np.uint8)), instances=pyramid(labels))
    foreground = np.ones((24, 28), bool)
    found = instance_statistics(table_of(labels), 1200, 1400, foreground)
    drawn = draw(source, result, found, foreground, support_of(1))
    assert source.largest <= figures.CROP_PX
    assert result.instances[0].largest <= figures.CROP_PX**2
    assert max(level.largest for level in result.semantic) <= figures.CROP_PX * 1400
    assert [portrait.whole for portrait in drawn.gallery] == [True, False]


def test_of_many_support_patches_ten_are_shown_and_all_are_counted():
    report, pictures = run_report(k=12)
    assert len(pictures.patches) == 10
    text = Links(render(report, pictures)).text
    assert "learned from 12 labelled patches" in text
    assert "first 10 of 12" in text


@pytest.mark.parametrize("mpp", [0.25, 0.5, None])
@pytest.mark.parametrize("span_px", [48, 224, 512, 100_000])
def test_a_scale_bar_is_as_long_as_it_says(mpp, span_px):
    bar = Measures(mpp).bar(drawing.Picture("", 100, 100, span_px))
    number, unit = bar["label"].split()
    px = float(number.replace(",", "")) * {"px": 1, "µm": 1 / (mpp or 1), "mm": 1000 / (mpp or 1)}[unit]
    assert bar["percent"] / 100 * span_px == pytest.approx(px, rel=1e-3)
    assert 4 < bar["percent"] <= 22


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.0123"), (1.2, "1.2"), (45.64, "45.6"), (12345.6, "12,346"), (0.9999, "1")],
)
def test_numbers_are_short(value, text):
    assert short(value) == text


# What the page promises


class Links(HTMLParser):
    """Everything that a browser would fetch or run."""

    def __init__(self, page):
        super().__init__()
        self.fetched, self.scripts, self.text = [], 0, ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script" or any(name.startswith("on") for name, _ in attributes)
        self.fetched += [
            value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")
        ]

    def handle_data(self, data):
        self.text += data


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
