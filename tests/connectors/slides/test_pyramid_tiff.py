"""Writing slides: from arrays, and from pictures of other programs."""

from __future__ import annotations

import os

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image
from rasterio.windows import Window

from fewscope.connectors.open import open_source
from fewscope.connectors.slides.pyramid_tiff import convert, write_pyramid
from fewscope.connectors.slides.pyramid_tiff import main as convert_main
from fewscope.errors import SourceError
from tests.helpers.openslide_pictures import picture
from tests.helpers.source_conformance import same_pixels


def test_streaming_writes_what_writing_an_array_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "fewscope.connectors.slides.pyramid_tiff.BAND_BYTES", 3 * 300 * 64
    )  # bands of 64 rows
    image, asked = picture(500, 300), []

    def read_block(window):
        asked.append((window.row_off, window.height))
        return image[window.row_off : window.row_off + window.height]

    write_pyramid(tmp_path / "streamed.tif", (500, 300, read_block), 0.5, tile=64)
    write_pyramid(tmp_path / "whole.tif", image, 0.5, tile=64)
    assert asked == [(row, min(64, 500 - row)) for row in range(0, 500, 64)]
    pair = [open_source(str(tmp_path / name)) for name in ("streamed.tif", "whole.tif")]
    assert same_pixels(*(source.read(Window(0, 0, 300, 500)) for source in pair))


def test_a_writer_that_fails_leaves_no_file(tmp_path):
    def read_block(window):
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        write_pyramid(tmp_path / "never.tif", (500, 300, read_block), 0.5)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_pictures_become_slides(tmp_path, mode):
    png = tmp_path / "picture.png"
    shown = Image.fromarray(picture(70, 90)).convert(mode)
    shown.save(png)
    out = tmp_path / "slide.tif"
    assert convert_main([str(png), str(out), "--mpp", "0.5", "--compress", "deflate"]) == 0
    image, _ = open_source(str(out)).read(Window(0, 0, 90, 70))
    assert np.array_equal(image, np.asarray(shown.convert("RGB")))
    assert open_source(str(out)).info.native_mpp == pytest.approx(0.5)


def test_the_converter_says_what_it_does_not_convert(tmp_path, capsys):
    deep = tmp_path / "deep.png"
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(deep)
    assert convert_main([str(deep), str(tmp_path / "o.tif"), "--mpp", "1"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(deep) in said
    assert "8-bit" in said
    assert os.listdir(tmp_path) == ["deep.png"]


@pytest.mark.parametrize(
    ("options", "values", "expected"),
    [
        ({"photometric": "miniswhite"}, lambda grey: 255 - grey, lambda grey: grey),
        ({"photometric": "minisblack"}, lambda grey: grey > 127, lambda grey: np.where(grey > 127, 255, 0)),
        ({"photometric": "miniswhite"}, lambda grey: grey <= 127, lambda grey: np.where(grey > 127, 255, 0)),
    ],
    ids=["white is zero", "1 bit", "1 bit, white is zero"],
)
def test_grey_and_bits_of_either_meaning_are_converted(tmp_path, options, values, expected):
    grey = np.random.default_rng(0).integers(0, 256, (40, 56), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", values(grey), **options)
    convert(str(tmp_path / "a.tif"), str(tmp_path / "b.tif"), 0.5, "deflate")
    with rasterio.open(tmp_path / "b.tif") as slide:
        np.testing.assert_array_equal(slide.read(), np.repeat(expected(grey)[None], 3, axis=0))


def test_a_cielab_picture_is_refused(tmp_path):
    """Its colours depend on a white point that files leave out: they were off by up to 96 of 255."""
    Image.new("LAB", (40, 30), (128, 10, 20)).save(tmp_path / "a.tif")
    with pytest.raises(SourceError, match="CIELAB"):
        convert(str(tmp_path / "a.tif"), str(tmp_path / "b.tif"), 0.5)
    assert not (tmp_path / "b.tif").exists()
