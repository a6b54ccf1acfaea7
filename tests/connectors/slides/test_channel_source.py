"""OME-TIFF and OME-Zarr as slides: which planes are read, what is said of them, and clear errors."""

from __future__ import annotations

import json
import pickle
import struct
import warnings
from collections.abc import Iterator
from contextlib import closing

import fsspec
import numpy as np
import pytest
import tifffile
import zarr
from rasterio.windows import Window

from fewscope.connectors.open import is_slide, open_any, open_source
from fewscope.connectors.pixels.composite import composite
from fewscope.connectors.slide_options import SlideOptions
from fewscope.connectors.slides.channel_source import ChannelSource
from fewscope.errors import ConfigError, SourceError
from tests.helpers.channel_slides import (
    MARKERS,
    shrunk,
    write_imagej,
    write_ome_tiff,
    write_ome_zarr,
    write_qptiff,
)
from tests.helpers.object_stores import s3_bucket

FULL = SlideOptions(scale=(0, 255))


def planes(n_channels: int = 5, height: int = 120, width: int = 150, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (n_channels, height, width)).astype(dtype)


def whole(source) -> np.ndarray:
    return source.read(Window(0, 0, source.info.width, source.info.height))[0]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_bucket("channels") as address:
        yield address


@pytest.mark.parametrize("write", [write_ome_tiff, write_ome_zarr])
def test_the_channels_asked_for_come_in_that_order_with_their_own_values(tmp_path, write):
    data = planes()
    path = write(tmp_path / ("a.ome.tif" if write is write_ome_tiff else "a.zarr"), data)
    with_all = open_source(path, slide=FULL)
    assert np.array_equal(whole(with_all), np.moveaxis(data, 0, 2))
    assert with_all.info.channels == MARKERS
    assert with_all.info.n_channels == 5
    four = open_source(path, slide=SlideOptions(("panck", "4", "DAPI", "CD3"), scale=(0, 255)))
    assert np.array_equal(whole(four), np.moveaxis(data[[4, 3, 0, 1]], 0, 2))
    assert four.info.channels == ("PanCK", "CD20", "DAPI", "CD3")
    assert four.info.appearance != with_all.info.appearance
    for source in (with_all, four):
        source.close()


@pytest.mark.parametrize("write", [write_qptiff, write_imagej])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_other_tiffs_of_channels_are_read_with_their_names_and_resolution(tmp_path, write, dtype):
    data = planes(5, 260, 300, dtype)
    path = write(tmp_path / ("a.qptiff" if write is write_qptiff else "a.tif"), data, MARKERS, 0.4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a user would see it
        source = open_any(path, mpp=0.4, slide=FULL)
        assert np.array_equal(whole(source), np.moveaxis(data, 0, 2))
    assert source.info.channels == MARKERS
    assert source.info.native_mpp == pytest.approx(0.4, rel=1e-4)
    assert source.info.assumptions == ()
    source.close()
    one = open_source(path, slide=SlideOptions(("cd8",), scale=(0, 255)), mpp=0.4)
    assert np.array_equal(whole(one), np.repeat(data[2][..., None], 3, axis=2))
    one.close()


def test_a_file_behind_a_link_to_its_folder_is_the_same_file(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_ome_tiff(tmp_path / "real/a.ome.tif", planes(4))
    (tmp_path / "other.ome.tif").symlink_to(tmp_path / "real/a.ome.tif")
    sources = [
        open_source(str(tmp_path / name)) for name in ("real/a.ome.tif", "link/a.ome.tif", "other.ome.tif")
    ]
    assert len({source.info.fingerprint for source in sources}) == 1
    for source in sources:
        assert np.array_equal(whole(source), whole(sources[0]))
    for source in sources:
        source.close()


@pytest.mark.parametrize("write", [write_ome_tiff, write_qptiff])
def test_xml_that_defines_entities_is_refused(tmp_path, write):
    path = write(tmp_path / "a.ome.tif", planes(2))
    content = (tmp_path / "a.ome.tif").read_bytes()
    start = content.index(b"<?xml")
    end = content.index(b"?>", start) + 2
    declared = b'<!DOCTYPE a [<!ENTITY b "c">]>'.ljust(end - start)  # in its place, so that nothing moves
    (tmp_path / "a.ome.tif").write_bytes(content[:start] + declared + content[end:])
    with pytest.raises(SourceError, match="defines entities"):
        open_any(path, mpp=0.5, slide=FULL)


def test_levels_and_colours_of_a_qptiff_are_the_files(tmp_path):
    data = planes(4, 256, 320)
    colours = ("0,0,255", "0,255,0", "255,0,0", "0,255,255")
    source = open_source(
        write_qptiff(tmp_path / "a.qptiff", data, colours=colours, mpp=0.25), mpp=0.5, slide=FULL
    )
    assert np.array_equal(whole(source), np.moveaxis(shrunk(data, 2), 0, 2))
    assert source.info.colours == ((0, 0, 255), (0, 255, 0), (255, 0, 0), (0, 255, 255))
    assert source.info.vendor == "QPTIFF"
    source.close()


def test_an_rgb_qptiff_is_a_picture(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (1, 256, 320, 3)).astype(np.uint8)
    source = open_any(write_qptiff(tmp_path / "a.qptiff", image, [""]))
    assert np.array_equal(whole(source), image[0])
    assert source.info.background == (255, 255, 255)
    source.close()


def test_what_a_stack_of_imagej_leaves_open_is_said_or_asked_for(tmp_path):
    data = planes(4)
    with pytest.raises(SourceError, match=r"does not state its resolution; give .*--slide-mpp"):
        open_any(write_imagej(tmp_path / "a.tif", data, mpp=None))
    said = "ImageJ=1.54f\nimages=4\nunit=micron\n"
    options = {"photometric": "minisblack", "metadata": None, "resolution": (2.0, 2.0)}
    tifffile.imwrite(tmp_path / "c.tif", data, description=said, **options)
    plain = open_any(str(tmp_path / "c.tif"), slide=FULL)
    assert np.array_equal(whole(plain), np.moveaxis(data, 0, 2))
    assert any("4 planes are; they were read as channels" in line for line in plain.info.assumptions)
    plain.close()


def test_up_to_three_channels_are_rgb(tmp_path):
    data = planes()
    path = write_ome_tiff(tmp_path / "a.ome.tif", data)
    for names, indices in (
        (("CD3",), [1, 1, 1]),
        (("CD3", "CD8"), [1, 2, 1]),
        (("CD8", "CD3", "DAPI"), [2, 1, 0]),
    ):
        source = open_source(path, slide=SlideOptions(names, scale=(0, 255)))
        assert np.array_equal(whole(source), np.moveaxis(data[indices], 0, 2)), names
        assert source.info.channels == ()
        assert all(name in source.info.bands for name in names)
        source.close()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_channels_are_stretched_by_themselves_once_for_the_whole_slide(tmp_path, dtype):
    data = (planes(4, 300, 340) * np.array([1, 0.5, 0.1, 0])[:, None, None]).astype(dtype)
    source = open_source(write_ome_tiff(tmp_path / "a.ome.tif", data))
    image = whole(source)
    low, high = np.percentile(data[:3], (1, 99.8), axis=(1, 2))
    scaled = (data[:3].astype(float) - low[:, None, None]) / (high - low)[:, None, None] * 255
    assert np.abs(image[..., :3] - np.moveaxis(scaled.clip(0, 255), 0, 2)).max() <= 1
    assert not image[..., 3].any(), "an empty channel stays empty"
    assert np.array_equal(source.read(Window(37, 21, 50, 40))[0], image[21:61, 37:87])
    assert "stretched" in " ".join(source.info.assumptions)
    assert "99.8 %" in source.info.bands
    assert source.info.background == (0, 0, 0, 0)
    source.close()


def test_a_coarser_level_is_read_for_a_coarser_grid(tmp_path):
    data = planes(4, 256, 384)
    data[:, :, :] = data.mean()
    marked = [data, *(shrunk(data, factor) for factor in (2, 4))]
    for level, part in enumerate(marked):
        part[...] = 50 * (level + 1)  # tells which level was read
    path = tmp_path / "a.ome.tif"
    options = {"tile": (128, 128), "photometric": "minisblack"}
    with tifffile.TiffWriter(path, ome=True) as writer:
        size = {f"PhysicalSize{axis}": 0.25 for axis in "XY"}
        writer.write(marked[0], subifds=2, metadata={"axes": "CYX"} | size, **options)
        for part in marked[1:]:
            writer.write(part, subfiletype=1, **options)
    for mpp, value in ((0.25, 50), (0.5, 100), (0.7, 100), (1.0, 150)):
        source = open_source(str(path), mpp=mpp, slide=FULL)
        assert set(np.unique(whole(source)).tolist()) == {value}, mpp
        source.close()


def test_resolution_and_names_are_the_files(tmp_path):
    data = planes(4)
    tiff = open_source(write_ome_tiff(tmp_path / "a.ome.tif", data, mpp=0.325), mpp=0.325)
    assert (tiff.info.native_mpp, tiff.info.mpp_source) == (0.325, "OME-XML")
    assert tiff.info.vendor == "OME-TIFF"
    for version in ("0.4", "0.5"):
        source = open_source(write_ome_zarr(tmp_path / f"{version}.zarr", data, version=version))
        assert (source.info.native_mpp, source.info.mpp_source) == (0.5, "OME-Zarr")
        assert source.info.vendor == f"OME-Zarr {version}"
        assert source.info.channels == MARKERS[:4]
        source.close()
    twice = open_source(write_ome_tiff(tmp_path / "b.ome.tif", data, ("DAPI", "CD3", "DAPI", "")))
    assert twice.info.channels == ("DAPI (1)", "CD3", "DAPI (3)", "channel 4")
    ultrastructure = open_source(write_ome_zarr(tmp_path / "e.zarr", data, mpp=0.004))
    assert (ultrastructure.info.mpp, ultrastructure.info.native_mpp) == (0.004, 0.004)
    unstated = write_ome_tiff(tmp_path / "c.ome.tif", data, mpp=None)
    with pytest.raises(SourceError, match=r"does not state its resolution; give .* --slide-mpp"):
        open_source(unstated)
    assert open_source(unstated, slide_mpp=0.5).info.native_mpp == 0.5
    for source in (tiff, twice):
        source.close()


def test_one_of_several_images_is_read_and_the_others_are_named(tmp_path):
    data, other = planes(4), planes(5, 90, 70)
    path = write_ome_tiff(tmp_path / "a.ome.tif", data, more=[other])
    first = open_source(path, mpp=0.5)
    assert first.info.native_height == 120
    assert "--series takes another" in first.info.assumptions[0]
    second = open_source(path, mpp=0.5, slide=SlideOptions(series=2, scale=(0, 255)))
    assert np.array_equal(whole(second), np.moveaxis(other, 0, 2))
    assert first.info.fingerprint != second.info.fingerprint
    with pytest.raises(SourceError, match="has no image 3; give --series from these: 1 "):
        open_source(path, mpp=0.5, slide=SlideOptions(series=3))
    root = zarr.open_group(str(tmp_path / "b.zarr"), mode="w", zarr_format=3)
    root.attrs["ome"] = {"version": "0.5", "bioformats2raw.layout": 3}
    for name, pixels in (("0", data), ("1", other)):
        write_ome_zarr("", pixels, group=root.create_group(name))
    third = open_source(str(tmp_path / "b.zarr"), slide=SlideOptions(series=2, scale=(0, 255)))
    assert np.array_equal(whole(third), np.moveaxis(other, 0, 2))
    assert "--series" in open_source(str(tmp_path / "b.zarr")).info.assumptions[0]
    for source in (first, second, third):
        source.close()


@pytest.mark.slow
def test_an_ome_zarr_in_a_bucket_is_read_in_place_and_known_again(tmp_path, bucket):
    data = planes(3, 300, 400, np.uint16)
    local = write_ome_zarr(tmp_path / "a.zarr", data)
    remote = f"{bucket}/a.zarr"
    store = fsspec.filesystem("s3")
    store.put(local, remote, recursive=True)
    with_files = open_source(local)
    assert is_slide(remote)
    source = open_source(remote)
    assert np.array_equal(whole(source), whole(with_files))
    reopened = pickle.loads(pickle.dumps(source))  # as a worker does
    assert np.array_equal(whole(reopened), whole(source))
    data[:, :50, :50] = 0
    store.put(write_ome_zarr(tmp_path / "b.zarr", data), f"{bucket}/b.zarr", recursive=True)
    with closing(open_source(f"{bucket}/b.zarr")) as other:
        assert other.info.fingerprint != source.info.fingerprint
    for one in (with_files, source, reopened):
        one.close()
    with pytest.raises(SourceError, match=r"none\.zarr"):
        open_source(f"{bucket}/none.zarr")


def test_only_what_fails_to_decode_is_lost(tmp_path):
    path = write_ome_zarr(tmp_path / "a.zarr", planes(4, 700, 700), chunk=256)
    (tmp_path / "a.zarr/0/c/2/1/1").write_bytes(b"no chunk")
    source = open_source(path, slide=FULL)
    image, valid = source.read(Window(0, 0, 700, 700))
    lost = np.zeros((700, 700), bool)
    lost[256:512, 256:512] = True
    assert np.array_equal(valid, ~lost)
    assert not image[lost].any()
    assert source.unreadable() == (Window(256, 256, 256, 256),)
    source.close()


def test_a_changed_file_is_refused_when_it_is_reopened(tmp_path):
    path = write_ome_tiff(tmp_path / "a.ome.tif", planes(4))
    source = open_source(path)
    restore, arguments = source.__reduce__()
    write_ome_tiff(tmp_path / "a.ome.tif", planes(4) + 1)
    with pytest.raises(SourceError, match="changed since it was first opened"):
        restore(*arguments)
    source.close()


def test_an_rgb_slide_that_openslide_reads_stays_with_it(tmp_path):
    image = np.moveaxis(planes(3, 256, 384), 0, 2)
    options = {"photometric": "rgb", "axes": "YXS", "factors": (), "mpp": None}
    options |= {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    path = write_ome_tiff(tmp_path / "a.ome.tif", image, **options)
    source = open_source(path)
    assert source.info.vendor == "generic-tiff"
    assert np.array_equal(whole(source), image)
    source.close()
    with pytest.raises(SourceError, match=r"--channels, --series, --scale.* are for OME-TIFF"):
        open_source(str(tmp_path / "a.svs"), slide=SlideOptions(("DAPI",)))


def test_they_are_slides_to_a_page_that_is_given_any_file(tmp_path):
    for path in (
        write_ome_tiff(tmp_path / "a.ome.tif", planes(4)),
        write_ome_tiff(tmp_path / "b.tif", planes(4), tile=None),
        write_ome_zarr(tmp_path / "c.zarr", planes(4)),
        write_ome_zarr(tmp_path / "d.zarr", planes(4), version="0.4"),
    ):
        source = open_any(path)
        assert isinstance(source, ChannelSource)
        assert source.info.kind == "slide"
        source.close()


def test_people_see_a_composite_of_the_channels_in_the_files_colours(tmp_path):
    path = write_ome_zarr(tmp_path / "a.zarr", planes(4))
    text = (tmp_path / "a.zarr/zarr.json").read_text()
    metadata = json.loads(text)
    colours = ("0000FF", "00ff00", "FF0000", "000000")
    for channel, colour in zip(metadata["attributes"]["ome"]["omero"]["channels"], colours, strict=True):
        channel["color"] = colour
    (tmp_path / "a.zarr/zarr.json").write_text(json.dumps(metadata))
    source = open_source(path, slide=FULL)
    image = whole(source)
    assert np.array_equal(composite(image, source.info), image[..., [2, 1, 0]])
    assert "DAPI blue, CD3 green, CD8 red; CD20 not shown" in source.info.bands
    source.close()


def bad(folder, kind: str) -> str:
    path = folder / "a.ome.tif"
    if kind == "in a circle":
        path = folder / "a.tif"
        write_imagej(path, planes(4))
        data = bytearray(path.read_bytes())
        (first,) = struct.unpack_from("<I", data, 4)
        (n_entries,) = struct.unpack_from("<H", data, first)
        struct.pack_into("<I", data, first + 2 + 12 * n_entries, first)  # the next directory is itself
        path.write_bytes(data)
    if kind == "cut short":
        write_ome_tiff(path, planes(4))
        path.write_bytes(path.read_bytes()[:3000])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "a folder":
        (folder / "a.zarr").mkdir()
        return str(folder / "a.zarr")
    elif kind == "a plain zarr":
        zarr.create_array(str(folder / "a.zarr"), shape=(4, 4), dtype="u1")
        return str(folder / "a.zarr")
    elif kind == "a plate":
        zarr.open_group(str(folder / "a.zarr"), mode="w").attrs["ome"] = {"version": "0.5", "plate": {}}
        return str(folder / "a.zarr")
    return str(path)


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ("missing", "no such file"),
        ("empty", "is empty"),
        ("cut short", "cut off"),
        ("in a circle", "lacks the plane of channel 2"),
        ("a folder", "cannot be read as OME-Zarr"),
        ("a plain zarr", "OME-Zarr"),
        ("a plate", "is a plate of many images; give one of them"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, kind, match):
    with pytest.raises(SourceError, match=match) as caught:
        open_source(bad(tmp_path, kind), slide=SlideOptions(series=1))
    assert "\n" not in str(caught.value)


def test_an_unknown_channel_lists_those_there_are(tmp_path):
    path = write_ome_tiff(tmp_path / "a.ome.tif", planes(4), ("DAPI", "CD3", "CD3", "CD8"))
    for asked, match in (
        (
            ("CD4",),
            r"has no channel 'CD4'; give --channels from these: 1 DAPI, 2 CD3 \(2\), 3 CD3 \(3\), 4 CD8",
        ),
        (("7",), "has no channel '7'"),
        (("DAPI", "1"), "'DAPI' twice"),
    ):
        with pytest.raises(SourceError, match=match):
            open_source(path, slide=SlideOptions(asked))
    for options, match in (
        ({"channels": ("DAPI", "DAPI")}, "twice"),
        ({"channels": ("",)}, "empty name"),
        ({"series": 0}, "counted from 1"),
        ({"scale": (5.0, 5.0)}, "the first below the second"),
    ):
        with pytest.raises(ConfigError, match=match):
            SlideOptions(**options)
