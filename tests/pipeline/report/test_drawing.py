"""The pictures of a report show what the source and the result show."""

from __future__ import annotations

import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
import shapely
from PIL import Image
from skimage.color import rgb2lab

from fewscope.pipeline.report import drawing, figures
from fewscope.pipeline.report.figures import draw
from fewscope.pipeline.report.formatting import short
from fewscope.pipeline.report.render import Measures, render
from fewscope.pipeline.report.statistics import instance_statistics
from fewscope.pipeline.tiling.area import Area
from tests.helpers.reports import (
    FakeSource,
    Links,
    pyramid,
    run_report,
    support_of,
    table_of,
)


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


def test_the_area_asked_for_is_outlined_and_fields_are_grey_outside():
    labels = np.zeros((600, 1100), np.uint32)
    labels[100:140, 100:140] = 1
    area = Area(shapely.box(60, 50, 260, 450), labels.shape)
    source = FakeSource(labels)
    result = SimpleNamespace(semantic=pyramid((labels > 0).astype(np.uint8)), instances=pyramid(labels))
    foreground = np.ones((60, 110), bool)
    found = instance_statistics(table_of(labels), *labels.shape, foreground)
    drawn, whole = (draw(source, result, found, foreground, support_of(1), area=a) for a in (area, None))
    overview = decoded(drawn.overview)
    blue = overview[..., 2] > overview[..., 0] + 80
    rows, cols = np.nonzero(blue)
    assert (rows.min(), rows.max() + 1, cols.min(), cols.max() + 1) == pytest.approx(
        (50, 450, 60, 260), abs=3
    )
    there, before = decoded(drawn.fields[0].outlined), decoded(whole.fields[0].outlined)
    assert np.abs(there - before)[90:600, 100:380].mean() < 3  # 1.5 px for each
    assert np.abs(there - 150).mean() < np.abs(before - 150).mean()
    assert np.abs(there - 150)[:60, 500:].max() < 60


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
