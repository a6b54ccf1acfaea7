"""Slides: exact positions at any resolution, believable resolutions, broken places that stay small."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import numpy as np
import openslide
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.windows import Window

from fewscope.connectors.open import open_source
from fewscope.connectors.pixels.resample import resample, taps
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from fewscope.errors import SourceError
from tests.helpers.openslide_pictures import one_line, picture
from tests.helpers.rasters import break_tile
from tests.helpers.source_conformance import same_pixels


@pytest.fixture(scope="session")
def odd_slide_path(tmp_path_factory):
    """Sizes that no factor divides: levels whose downsamples are not whole."""
    path = tmp_path_factory.mktemp("slide") / "odd.tif"
    write_pyramid(path, picture(611, 837), 0.25, tile=64, overviews=[2, 4])
    return str(path)


@pytest.fixture(scope="session")
def broken_slide_path(tmp_path_factory):
    """One tile of 128 px (row 2, col 3 of tiles) does not decode."""
    path = str(tmp_path_factory.mktemp("slide") / "broken.tif")
    write_pyramid(path, picture(600, 840), 0.25, tile=128, overviews=[])
    break_tile(path, 2 * 7 + 3)
    return path


def test_level_0_is_the_picture_that_was_written(slide_path):
    source = open_source(slide_path, mpp=0.25)
    image, valid = source.read(Window(0, 0, 840, 600))
    assert np.array_equal(image, picture(600, 840))
    assert valid.all()
    assert source.info.transform.a == 1.0


@pytest.mark.parametrize("mpp", [0.5, 0.7, 0.3425])
def test_shrinking_is_the_mean_over_the_area(slide_path, mpp):
    """Against area integrals of the level that is read: a cumulative sum read between pixels."""
    source = open_source(slide_path, mpp=mpp)
    info = source.info
    assert (info.height, info.width) == (round(600 * 0.25 / mpp), round(840 * 0.25 / mpp))
    step = 1 if mpp < 0.5 else 2
    level = picture(600, 840).reshape(600 // step, step, 840 // step, step, 3).mean((1, 3))
    integral = np.pad(level.cumsum(0).cumsum(1), ((1, 0), (1, 0), (0, 0)))
    rows = np.minimum(np.arange(info.height + 1) * info.transform.e / step, 600 // step)
    cols = np.minimum(np.arange(info.width + 1) * info.transform.a / step, 840 // step)

    def between(array, at, axis):
        low = np.minimum(at.astype(int), array.shape[axis] - 2)
        part = (at - low).reshape([-1 if i == axis else 1 for i in range(3)])
        return array.take(low, axis) * (1 - part) + array.take(low + 1, axis) * part

    sums = between(between(integral, rows, 0), cols, 1)
    area = np.diff(rows)[:, None, None] * np.diff(cols)[None, :, None]
    expected = np.diff(np.diff(sums, axis=0), axis=1) / area
    image, valid = source.read(Window(0, 0, info.width, info.height))
    assert valid.all()
    inner = (slice(0, info.height - 1), slice(0, info.width - 1))  # the last px reach past the edge
    assert np.abs(image[inner] - expected[inner]).max() < 1.01  # two roundings: the level's and ours


def test_enlarging_interpolates_between_pixel_centres(tmp_path):
    ramp = np.repeat(np.repeat(np.arange(0, 160, 8, dtype=np.uint8)[None, :, None], 16, 0), 3, 2)
    write_pyramid(tmp_path / "ramp.tif", ramp, 0.5)
    image, _ = open_source(str(tmp_path / "ramp.tif"), mpp=0.25).read(Window(0, 0, 40, 32))
    assert image[5, 1:9, 0].tolist() == [2, 6, 10, 14, 18, 22, 26, 30]


@settings(max_examples=40)
@given(
    scale=st.one_of(st.floats(0.13, 9), st.integers(1, 8).map(float)),
    start=st.integers(0, 50),
    length=st.integers(1, 40),
    seed=st.integers(0, 99),
    holes=st.booleans(),
)
def test_resampling_a_window_equals_cropping_the_resampled_whole(scale, start, length, seed, holes):
    rng = np.random.default_rng(seed)
    height, width = 300, 41
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    valid = rng.random((height, width)) > 0.2 if holes else np.ones((height, width), bool)
    n_rows = max(1, int(height / scale))
    cols = taps(0, max(1, int(width / scale)), scale, width)
    whole = resample(image, valid, taps(0, n_rows, scale, height), cols, (0, 0), (9, 8, 7))
    start = min(start, n_rows - 1)
    rows = taps(start, min(start + length, n_rows), scale, height)
    top, bottom = rows.span
    part = resample(image[top:bottom], valid[top:bottom], rows, cols, (top, 0), (9, 8, 7))
    crop = slice(start, start + len(rows.index))
    assert same_pixels(part, (whole[0][crop], whole[1][crop]))


@settings(max_examples=30)
@given(scale=st.floats(0.13, 20), value=st.integers(0, 255))
def test_a_flat_picture_stays_flat_at_any_scale(scale, value):
    image = np.full((60, 60, 3), value, np.uint8)
    along = taps(0, max(1, round(60 / scale)), scale, 60)
    out, valid = resample(image, np.ones((60, 60), bool), along, along, (0, 0), (0, 0, 0))
    assert (out == value).all()
    assert valid.all()


def test_pixels_that_are_not_valid_do_not_colour_their_neighbours():
    image = np.full((4, 4, 3), 200, np.uint8)
    valid = np.ones((4, 4), bool)
    image[0, 0] = 0
    valid[0, 0] = False
    image[2:, 2:] = 0
    valid[2:, 2:] = False
    along = taps(0, 2, 2.0, 4)
    out, seen = resample(image, valid, along, along, (0, 0), (1, 2, 3))
    assert out[0, 0].tolist() == [200, 200, 200]
    assert seen.tolist() == [[True, True], [True, False]]
    assert out[1, 1].tolist() == [1, 2, 3]


# --- broken places --------------------------------------------------------------------------------------


def test_a_broken_tile_costs_its_blocks_and_nothing_else(broken_slide_path):
    source = open_source(broken_slide_path, mpp=0.25)
    image, valid = source.read(Window(0, 0, 840, 600))
    expected = np.ones((600, 840), bool)
    expected[256:512, 256:512] = False  # the 256 px block that holds rows 256:384, cols 384:512
    assert np.array_equal(valid, expected)
    assert np.array_equal(image[valid], picture(600, 840)[valid])
    assert (image[~valid] == source.info.background).all()


def test_good_places_can_be_read_after_a_bad_one(broken_slide_path):
    source = open_source(broken_slide_path, mpp=0.25)
    assert not source.read(Window(390, 260, 20, 20))[1].any()
    image, valid = source.read(Window(0, 0, 200, 200))
    assert valid.all()
    assert np.array_equal(image, picture(600, 840)[:200, :200])


def test_openslide_still_latches_errors(broken_slide_path):
    """Why handles are reopened (openslide issue 689); if this fails, the reopening can go."""
    slide = openslide.OpenSlide(broken_slide_path)
    with pytest.raises(openslide.OpenSlideError):
        slide.read_region((390, 260), 0, (20, 20))
    with pytest.raises(openslide.OpenSlideError):
        slide.read_region((0, 0), 0, (20, 20))


@pytest.mark.parametrize("share", [0.99, 0.6, 0.2, 0.001])
def test_a_slide_cut_short_is_refused_or_read_as_far_as_it_goes(slide_path, tmp_path, share):
    content = Path(slide_path).read_bytes()
    path = tmp_path / "short.tif"
    path.write_bytes(content[: int(len(content) * share)])
    try:
        source = open_source(str(path), mpp=0.25)
    except SourceError as error:
        refusal = str(error)
    else:
        image, valid = source.read(Window(0, 0, 840, 600))
        assert np.array_equal(image[valid], picture(600, 840)[valid])
        return
    assert "\n" not in refusal
    assert str(path) in refusal


# --- files that are not slides --------------------------------------------------------------------------


def make_empty(path):
    path.write_bytes(b"")


def make_text(path):
    path.write_text("not a slide")


def make_folder(path):
    path.mkdir()


def make_png(path):
    Image.fromarray(picture(40, 50)).save(path, format="PNG")


def make_strip_tiff(path):
    Image.fromarray(picture(40, 50)).save(path, format="TIFF")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, ["no such file"]),
        (make_empty, ["empty", "copy it again"]),
        (make_text, ["not a slide", "copy it again"]),
        (make_folder, ["folder"]),
        (make_png, ["PNG", "50 x 40", "fewscope.connectors.slides.pyramid_tiff"]),
        (make_strip_tiff, ["plain TIFF", "50 x 40", ".tif", "fewscope.connectors.slides.pyramid_tiff"]),
    ],
)
def test_what_is_not_a_slide_is_refused_in_one_line(tmp_path, make, words):
    path = tmp_path / "a file.svs"
    make(path)
    with pytest.raises(SourceError) as error:
        open_source(str(path), mpp=0.5)
    for word in [str(path), *words]:
        assert word in one_line(error)


def test_resolutions_of_slides_are_not_those_of_rasters(slide_path):
    with pytest.raises(SourceError, match="with res"):
        open_source(slide_path, mpp=0.5, raster=RasterOptions())


def test_names_of_any_alphabet(slide_path, tmp_path):
    path = tmp_path / "срез 切片 😐.tif"
    path.write_bytes(Path(slide_path).read_bytes())
    assert open_source(str(path)).info.native_width == 840


# --- identity, background, remote -----------------------------------------------------------------------


def test_fingerprint_is_of_the_content_not_the_name(slide_path, odd_slide_path, tmp_path):
    copy = tmp_path / "renamed.tiff"
    copy.write_bytes(Path(slide_path).read_bytes())
    first = open_source(slide_path).info.fingerprint
    assert open_source(str(copy)).info.fingerprint == first
    assert open_source(odd_slide_path).info.fingerprint != first


def test_a_slide_that_changed_is_not_read_as_the_old_one(slide_path, odd_slide_path, tmp_path):
    path = tmp_path / "slide.tif"
    path.write_bytes(Path(slide_path).read_bytes())
    reopen, arguments = open_source(str(path)).__reduce__()
    path.write_bytes(Path(odd_slide_path).read_bytes())
    with pytest.raises(SourceError, match="changed"):
        reopen(*arguments)


def test_fluorescence_has_a_black_background(tmp_path):
    dark = np.zeros((300, 300, 3), np.uint8)
    dark[50:60, 50:60] = 250
    write_pyramid(tmp_path / "dark.tif", dark, 0.5)
    assert open_source(str(tmp_path / "dark.tif")).info.background == (0, 0, 0)


def test_a_remote_slide_is_copied_once_and_again_when_it_changes(
    slide_path, odd_slide_path, tmp_path, monkeypatch
):
    monkeypatch.setenv("FEWSCOPE_CACHE", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/slide.tif", Path(slide_path).read_bytes())
    source = open_source("memory://bucket/slide.tif", mpp=0.25)
    assert np.array_equal(source.read(Window(0, 0, 99, 99))[0], picture(600, 840)[:99, :99])
    open_source("memory://bucket/slide.tif")
    assert len(os.listdir(tmp_path / "cache")) == 1
    memory.pipe("/bucket/slide.tif", Path(odd_slide_path).read_bytes())
    assert open_source("memory://bucket/slide.tif").info.native_width == 837
    with pytest.raises(SourceError, match=r"memory://bucket/none.svs.*no such file"):
        open_source("memory://bucket/none.svs")
    with pytest.raises(SourceError, match="nowhere://"):
        open_source("nowhere://bucket/slide.svs")
