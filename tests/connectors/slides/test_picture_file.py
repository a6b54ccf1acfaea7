"""Pictures of fields of view as slides: which pixels are read, at which resolution, and clear errors."""

from __future__ import annotations

import pickle
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from affine import Affine
from PIL import Image
from rasterio.windows import Window

from fewscope.connectors.open import is_slide, open_any, open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.slide_folders import slides_in
from fewscope.connectors.slide_options import SlideOptions
from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from fewscope.connectors.source import Source
from fewscope.errors import SourceError
from tests.helpers.channel_slides import write_ome_tiff


def colours(height: int = 300, width: int = 420) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def whole(source: Source) -> np.ndarray:
    return source.read(Window(0, 0, source.info.width, source.info.height))[0]


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif", ".TIFF", ".webp"])
def test_a_picture_keeps_its_pixels_without_a_resolution(tmp_path, ending):
    image, path = colours(), str(tmp_path / f"a{ending}")
    Image.fromarray(image).save(path, **({"lossless": True} if ending == ".webp" else {}))
    with closing(open_source(path)) as source:
        info = source.info
        assert np.array_equal(whole(source), image)
        assert (info.mpp, info.native_mpp, info.transform) == (None, None, Affine.identity())
        assert info.is_field
        assert any("--slide-mpp" in text for text in info.assumptions)
        part, valid = source.read(Window(-10, 250, 100, 100))
        assert np.array_equal(part[:50, 10:], image[250:, :90])
        assert (valid.sum(), valid[:50, 10:].all()) == (50 * 90, True)
        with closing(pickle.loads(pickle.dumps(source))) as sent:
            assert np.array_equal(whole(sent), image)


def test_a_jpeg_is_what_its_decoder_says(tmp_path):
    path = tmp_path / "a.jpg"
    small = Image.fromarray(colours(10, 15)).resize((480, 320), Image.Resampling.BICUBIC)
    small.save(path, quality=95, subsampling=0)  # GDAL and Pillow enlarge colours in different ways
    with closing(open_source(str(path))) as source, Image.open(path) as picture:
        assert (
            np.abs(whole(source).astype(int) - np.asarray(picture)).max() <= 4
        )  # colours enlarged otherwise


def test_grey_palette_opacity_and_single_bits_become_rgb(tmp_path):
    image = colours()
    grey, bits = image[..., 0], image[..., 0] > 127
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(bits).save(tmp_path / "bits.png")
    Image.fromarray(bits).save(tmp_path / "bits.tif")
    few = Image.fromarray(image).quantize(16)
    few.save(tmp_path / "few.png")
    alpha = np.full_like(grey, 255)
    alpha[:100] = 0
    Image.fromarray(np.dstack([image, alpha])).save(tmp_path / "alpha.png")
    expected = {
        "grey.png": np.dstack([grey] * 3),
        "bits.png": np.dstack([bits * np.uint8(255)] * 3),
        "bits.tif": np.dstack([bits * np.uint8(255)] * 3),
        "few.png": np.asarray(few.convert("RGB")),
        "alpha.png": np.where(alpha[..., None] > 0, image, 255),
    }
    for name, pixels in expected.items():
        with closing(open_source(str(tmp_path / name))) as source:
            assert np.array_equal(whole(source), pixels), name


def test_more_bits_are_stretched_and_the_channels_counted(tmp_path):
    values = (300 + 4 * colours()[..., 0].astype(np.uint16)).clip(0, 65535)
    Image.fromarray(values).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", values)
    for name in ("a.png", "a.tif"):
        with closing(open_source(str(tmp_path / name))) as source:
            low, high = source.info.ranges[0]
            assert (low, high) == pytest.approx(np.percentile(values, (1, 99.8)), abs=4)
            shown = np.clip((values - low) / (high - low) * 255, 0, 255)
            assert np.abs(whole(source)[..., 1] - shown).max() <= 0.51
        asked = SlideOptions(scale=(300, 1320))
        with closing(open_source(str(tmp_path / name), slide=asked)) as source:
            assert np.abs(whole(source)[..., 2] - (values - 300.0) / 4).max() <= 0.51
            assert source.info.ranges == ()
    five = np.random.default_rng(0).integers(0, 4000, (5, 90, 80)).astype(np.uint16)
    tifffile.imwrite(
        tmp_path / "5.tif", five, planarconfig="separate", photometric="minisblack", metadata=None
    )
    with closing(open_source(str(tmp_path / "5.tif"))) as source:
        assert source.info.channels == tuple(f"channel {i}" for i in range(1, 6))
        assert whole(source).shape == (90, 80, 5)


def test_pages_of_a_tiff_are_channels_and_that_is_said(tmp_path):
    values = np.random.default_rng(0).integers(0, 4000, (2, 90, 80)).astype(np.uint16)
    pages(tmp_path / "2.tif", values)
    with closing(open_source(str(tmp_path / "2.tif"), slide=SlideOptions(("2",), scale=(0, 4000)))) as source:
        assert np.abs(whole(source)[..., 0] - values[1] / 4000 * 255).max() <= 0.51
        assert any("2 pages" in text for text in source.info.assumptions)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.uint32])
def test_values_are_measured_as_they_are_stored(tmp_path, dtype):
    values = np.random.default_rng(0).normal(1000, 300, (2, 60, 90)).clip(0)
    values = (values.clip(0, 255) if dtype == np.uint8 else values - 800 * (dtype == np.int16)).astype(dtype)
    values[1, 3, 4] = min(
        3000, np.iinfo(dtype).max if dtype != np.float32 else 3000
    )  # brighter than all others
    pages(tmp_path / "2.tif", values)
    with closing(open_source(str(tmp_path / "2.tif"))) as source:
        read = source.read_measured(Window(10, 2, 50, 40))
        for i, one in enumerate(source.info.measured):
            found = one.low + one.step * read[..., i]
            step = one.step if np.dtype(dtype).itemsize > 2 else 0.0  # 8 and 16 bits stay what they are
            assert np.abs(found - values[i, 2:42, 10:60]).max() <= step / 2 + 1e-9
            assert step < 0.5


def test_the_resolution_is_that_of_the_tiff_or_the_one_given(tmp_path):
    image = colours()
    for name, per_inch in (("fine", 25400 / 0.25), ("screen", 72)):
        Image.fromarray(image).save(tmp_path / f"{name}.tif", dpi=(per_inch, per_inch))
    with closing(open_source(str(tmp_path / "fine.tif"))) as source:
        assert (source.info.mpp, source.info.native_mpp) == pytest.approx((0.25, 0.25))  # not DEFAULT_MPP
        assert np.array_equal(whole(source), image)
    with closing(open_source(str(tmp_path / "fine.tif"), mpp=0.5)) as source:
        assert (source.info.height, source.info.width) == (150, 210)
    with closing(open_source(str(tmp_path / "screen.tif"))) as source:
        assert source.info.mpp is None
    with closing(open_source(str(tmp_path / "screen.tif"), slide_mpp=0.4)) as source:
        assert (source.info.mpp, source.info.mpp_source) == (0.4, "--slide-mpp")
        assert np.array_equal(whole(source), image)


def pages(path: Path, values: np.ndarray) -> None:
    tifffile.imwrite(path, values, photometric="minisblack", metadata=None)


def exif(path: Path) -> None:
    picture = Image.fromarray(colours())
    tags = picture.getexif()
    tags[0x0112] = 6
    picture.save(path, "JPEG", exif=tags, quality=95, subsampling=0)


def animation(path: Path) -> None:
    first, second = Image.fromarray(colours()), Image.fromarray(255 - colours())
    first.save(path, "WEBP", save_all=True, append_images=[second])


def test_a_picture_to_be_shown_turned_is_read_as_it_is_stored_and_that_is_said(tmp_path):
    """As a telephone at an ocular takes it. Pixels, coordinates and outlines are those of the file."""
    exif(tmp_path / "a.jpg")
    with closing(open_source(str(tmp_path / "a.jpg"))) as source:
        stored = np.asarray(Image.open(tmp_path / "a.jpg"))
        assert whole(source).shape == stored.shape
        assert np.abs(whole(source).astype(int) - stored).max() <= 4
        assert any("EXIF orientation" in text for text in source.info.assumptions)


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("a.png", lambda path: None, "no such file"),
        ("a.png", lambda path: path.write_bytes(b""), "is empty"),
        ("a.png", lambda path: path.write_text("nothing"), "is not a picture that can be read"),
        ("a.png", lambda path: path.mkdir(), "is a folder"),
        ("a.webp", animation, "is an animation"),
        ("a.tif", lambda path: pages(path, np.zeros((9, 40, 40), np.uint8)), "a file of 9 pictures"),
        ("a.tif", lambda path: Image.fromarray(colours()).convert("LAB").save(path), "CIELAB"),
    ],
)
def test_what_is_no_picture_of_one_field_is_refused_in_one_line(tmp_path, name, make, words):
    path = tmp_path / name
    make(path)
    with pytest.raises(SourceError, match=words) as error:
        open_source(str(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_picture_loses_what_does_not_decode(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, colours(1200, 300), compression="zlib", rowsperstrip=64, metadata=None)
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages.first.dataoffsets[12]
    content = bytearray(path.read_bytes())
    content[offset : offset + 400] = b"\xff" * 400
    path.write_bytes(bytes(content))
    with closing(open_source(str(path))) as source:
        image, valid = source.read(Window(0, 0, 300, 1200))
        assert not valid[12 * 64].any()
        assert valid[:768].all()
        assert np.array_equal(image[:768], colours(1200, 300)[:768])
        assert source.unreadable()


def test_a_changed_picture_is_refused_when_it_is_opened_again(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(colours()).save(path)
    with closing(open_source(str(path))) as source:
        sent = pickle.dumps(source)
    Image.fromarray(255 - colours()).save(path)
    with pytest.raises(SourceError, match="changed since"):
        pickle.loads(sent)


def test_what_lies_on_a_map_is_a_raster_and_a_tiled_tiff_stays_with_openslide(tmp_path):
    image = colours()
    profile = {"driver": "GTiff", "height": 300, "width": 420, "count": 3, "dtype": "uint8"}
    with rasterio.open(
        tmp_path / "map.tif", "w", crs="EPSG:32618", transform=Affine(10, 0, 5e5, 0, -10, 1e6), **profile
    ) as raster:
        raster.write(np.moveaxis(image, 2, 0))
    Image.fromarray(image).save(tmp_path / "plain.png")
    write_pyramid(tmp_path / "tiled.tif", image, 0.5)
    assert not is_slide(str(tmp_path / "map.tif"))
    assert is_slide(str(tmp_path / "plain.png"))
    with closing(open_any(str(tmp_path / "plain.png"), raster=RasterOptions(bands=(3, 2, 1)))) as source:
        assert source.info.kind == "raster"  # as its bands are asked for
    with pytest.raises(SourceError, match="georeferenced raster"):
        open_source(str(tmp_path / "map.tif"))
    with closing(open_any(str(tmp_path / "plain.png"))) as source:
        assert (source.info.kind, source.info.vendor) == ("slide", "PNG picture")
    with closing(open_source(str(tmp_path / "tiled.tif"))) as source:
        assert source.info.vendor == "generic-tiff"


def test_a_source_of_the_same_exposure_is_shown_as_the_labelled_one(tmp_path):
    rng = np.random.default_rng(0)
    bright = rng.normal(300, 4, (200, 200))
    bright[50:80, 50:80] = 1300
    empty, other = rng.normal(300, 4, (200, 200)), bright * 9 + 4000
    for name, values in (("bright", bright), ("empty", empty), ("other", other)):
        tifffile.imwrite(tmp_path / f"{name}.tif", values.astype(np.uint16))
    opened = {name: open_source(str(tmp_path / f"{name}.tif")) for name in ("bright", "empty", "other")}
    ranges = opened["bright"].info.ranges
    assert whole(opened["empty"]).std() > 40  # noise, as if it were signal
    same = opened["empty"].matched(ranges)
    assert whole(same).max() < 10
    assert same.info.ranges == ranges
    assert same.info.appearance != opened["empty"].info.appearance
    assert any("as the labelled pictures" in text for text in same.info.assumptions)
    with closing(pickle.loads(pickle.dumps(same))) as sent:
        assert np.array_equal(whole(sent), whole(same))
    assert opened["other"].matched(ranges) is opened["other"]
    assert opened["bright"].matched(ranges) is opened["bright"]
    assert opened["empty"].matched((*ranges, *ranges)) is opened["empty"]
    for source in opened.values():
        source.close()


def test_a_folder_holds_slides_and_pictures_but_not_their_masks(tmp_path):
    for name in (
        "b.png",
        "a.tif",
        "a_masks.tif",
        "c.inst.png",
        "c.png",
        "1.jpg",
        "1.png",
        "notes.txt",
        ".d.png",
    ):
        Image.fromarray(colours(20, 20)).save(tmp_path / name, "PNG")
    write_ome_tiff(tmp_path / "e.ome.tif", np.zeros((5, 64, 64), np.uint8))
    (tmp_path / "f.zarr").mkdir()
    found = [Path(path).name for path in slides_in(str(tmp_path))]
    assert found == ["1.jpg", "a.tif", "b.png", "c.png", "e.ome.tif", "f.zarr"]
    assert slides_in(str(tmp_path / "f.zarr")) == []
