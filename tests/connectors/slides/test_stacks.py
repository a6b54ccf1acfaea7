"""Z-stacks and time series: each layout is read as it was written, and projections are numpy's."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from rasterio.windows import Window
from scipy import ndimage

from fewscope.connectors.open import open_source, stack_size
from fewscope.connectors.slide_options import SlideOptions, StackOptions
from fewscope.connectors.source import Source
from fewscope.errors import ConfigError, SourceError
from tests.helpers.channel_slides import shrunk, write_imagej, write_ome_tiff, write_ome_zarr

SIZES = {"T": 2, "Z": 3, "C": 3, "Y": 40, "X": 50}
ALL = "TZCYX"
STACK = np.random.default_rng(0).integers(0, 255, [SIZES[a] for a in ALL]).astype(np.uint8)
OF_TIFF = ["".join(order) + "YX" for order in itertools.permutations("TZC")]


def in_order(axes: str, stack: np.ndarray = STACK) -> np.ndarray:
    """The stack with its axes in another order; axes that are left out are those of number 0."""
    place = tuple(slice(None) if axis in axes else 0 for axis in ALL)
    kept = [axis for axis in ALL if axis in axes]
    return np.ascontiguousarray(np.transpose(stack[place], [kept.index(axis) for axis in axes]))


def options(plane: Any = None, time: int | None = None, **more: Any) -> SlideOptions:
    return SlideOptions(scale=(0, 255), stack=StackOptions(plane, time, **more))


def whole(source: Source) -> np.ndarray:
    """(H, W, C)."""
    return source.read(Window(0, 0, source.info.width, source.info.height))[0]


def read(path: str, plane: Any, time: int | None, **more: Any) -> np.ndarray:
    """(C, H, W) of a file of three channels or of one."""
    with closing(open_source(path, slide=options(plane, time, **more))) as source:
        return np.moveaxis(whole(source), 2, 0)


def ome_tiff(path: Path, axes: str) -> str:
    return write_ome_tiff(path / "a.ome.tif", in_order(axes), axes=axes, factors=())


def ome_tiff_of_files(path: Path, axes: str) -> str:
    """Two files, one of each time point, which name each other."""
    del axes
    written = [write_ome_tiff(path / f"{t}.ome.tif", STACK[t], axes="ZCYX", factors=()) for t in (0, 1)]
    parts = []
    for t, file in enumerate(written):
        for z, c in itertools.product(range(3), range(3)):
            parts.append(
                f'<TiffData FirstC="{c}" FirstZ="{z}" FirstT="{t}" IFD="{z * 3 + c}" PlaneCount="1">'
                f'<UUID FileName="{Path(file).name}">urn:uuid:{t}</UUID></TiffData>'
            )
    with tifffile.TiffFile(written[0]) as tiff:
        text = tiff.ome_metadata or ""
    channels = text[text.index("<Channel") : text.index("<TiffData")]
    pixels = (
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="50" SizeY="40" SizeC="3" SizeZ="3" '
        f'SizeT="2" PhysicalSizeX="0.5" PhysicalSizeY="0.5">{channels}{"".join(parts)}</Pixels>'
    )
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:0">'
        f'<Image ID="Image:0" Name="a">{pixels}</Image></OME>'
    )
    tifffile.tiffcomment(written[0], xml.encode())
    return written[0]


def imagej(path: Path, axes: str) -> str:
    return write_imagej(path / "a.tif", in_order(axes), axes=axes)


def ome_zarr(version: str) -> Callable[[Path, str], str]:
    def write(path: Path, axes: str) -> str:
        name = str(path / "a.ome.zarr")
        return write_ome_zarr(
            name, in_order(axes), axes=axes.lower(), version=version, factors=(1,), chunk=32
        )

    return write


def noted_by_tifffile(path: Path, axes: str) -> str:
    kept = {"photometric": "minisblack", "metadata": {"axes": axes}}
    tifffile.imwrite(path / "a.tif", in_order(axes), **kept)
    return str(path / "a.tif")


LAYOUTS = [
    *((ome_tiff, axes) for axes in OF_TIFF),
    (ome_tiff_of_files, ALL),
    (imagej, ALL),
    *((ome_zarr(version), axes) for version in ("0.4", "0.5") for axes in OF_TIFF),
    *((noted_by_tifffile, axes) for axes in ("TZCYX", "CZTYX", "ZTCYX")),
]


@pytest.mark.parametrize(("write", "axes"), LAYOUTS, ids=lambda one: getattr(one, "__qualname__", one))
def test_every_layout_is_read_as_it_was_written(tmp_path, write, axes):
    path = write(tmp_path, axes)
    assert stack_size(path, SlideOptions()).n_times == 2
    assert stack_size(path, SlideOptions()).n_planes == 3
    for time, plane in itertools.product((1, 2), (1, 2, 3)):
        assert np.array_equal(read(path, plane, time), STACK[time - 1, plane - 1]), (time, plane)
    for time in (1, 2):
        assert np.array_equal(read(path, "max", time), STACK[time - 1].max(0))
        assert np.array_equal(read(path, "mean", time), np.rint(STACK[time - 1].mean(0)))
        assert np.array_equal(read(path, "middle", time), STACK[time - 1, 1])


@pytest.mark.parametrize("axes", ["ZYX", "TYX", "TZYX", "CZYX", "ZCYX", "TCYX"])
@pytest.mark.parametrize("write", [ome_tiff, imagej, ome_zarr("0.5"), noted_by_tifffile])
def test_axes_that_are_not_there_are_not_asked_for(tmp_path, write, axes):
    if write is imagej and axes == "CZYX":
        axes = "ZCYX"  # the order of ImageJ
    path = write(tmp_path, axes)
    time = 2 if "T" in axes else None
    expected = STACK[1 if "T" in axes else 0, :, :, :, :]
    expected = expected.max(0) if "Z" in axes else expected[0]
    expected = expected if "C" in axes else expected[:1].repeat(3, 0)
    assert np.array_equal(read(path, "max", time), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.uint32, np.float32])
def test_stored_values_of_a_projection_are_measured(tmp_path, dtype):
    values = np.random.default_rng(1).normal(1000, 300, (5, 60, 90))
    values = (
        (values / 8 if dtype == np.uint8 else values)
        .clip(0, 255 if dtype == np.uint8 else None)
        .astype(dtype)
    )
    write_ome_tiff(tmp_path / "a.ome.tif", values, axes="ZYX", factors=())
    exact = {"max": values.max(0), "mean": values.astype(np.float64).mean(0)}
    for plane, expected in exact.items():
        slide = SlideOptions(stack=StackOptions(plane))
        with closing(open_source(str(tmp_path / "a.ome.tif"), slide=slide)) as source:
            one = source.info.measured[0]
            found = one.low + one.step * source.read_measured(Window(3, 5, 80, 50))[..., 0]
        off = np.abs(found - expected[5:55, 3:83]).max()
        is_whole = np.dtype(dtype).kind in "ui"
        assert (
            off <= one.step / 2 * (np.dtype(dtype).itemsize > 2) + 0.5 * (is_whole and plane == "mean") + 1e-3
        )


def test_a_projection_is_that_of_the_level_that_is_read(tmp_path):
    stack = np.random.default_rng(2).integers(0, 255, (4, 200, 260)).astype(np.uint8)
    tiff = write_ome_tiff(tmp_path / "a.ome.tif", stack, axes="ZYX", factors=(2, 4))
    of_zarr = write_ome_zarr(tmp_path / "a.ome.zarr", stack, axes="zyx", factors=(1, 2, 4))
    for path, factor in itertools.product((tiff, of_zarr), (1, 2, 4)):
        with closing(open_source(path, mpp=0.5 * factor, slide=options("max"))) as source:
            assert np.array_equal(whole(source)[..., 0], shrunk(stack, factor).max(0)), (path, factor)
            window = Window(7, 5, 31, 29)
            assert np.array_equal(source.read(window)[0], whole(source)[5:34, 7:38])


def test_levels_with_fewer_planes_are_not_used(tmp_path):
    """Some programs shrink a pyramid along z, too: plane 3 of such a level is another one."""
    import zarr

    stack = np.random.default_rng(3).integers(0, 255, (4, 64, 96)).astype(np.uint8)
    path = write_ome_zarr(tmp_path / "a.ome.zarr", stack, axes="zyx", factors=(1, 2))
    group = zarr.open_group(path)
    del group["1"]
    group.create_array("1", shape=(2, 32, 48), chunks=(1, 32, 48), dtype=np.uint8)[...] = 7
    with closing(open_source(path, mpp=1.0, slide=options(3))) as source:
        expected = stack[2].reshape(32, 2, 48, 2).mean((1, 3))
        assert np.abs(whole(source)[..., 0] - expected).max() <= 1


def blurred(sharp: int, n: int = 7, dark: bool = True, noise: float = 12.0) -> np.ndarray:
    """(n, 300, 340) uint8: discs whose plane number ``sharp`` is in focus."""
    rows, cols = np.indices((300, 340))
    discs = ((rows % 50 - 25) ** 2 + (cols % 50 - 25) ** 2 < 64).astype(float)
    rng = np.random.default_rng(sharp)
    planes = [ndimage.gaussian_filter(discs, 0.5 + 1.5 * abs(z - sharp)) for z in range(n)]
    values = np.array(planes) * 150 * (1 if dark else -1) + (40 if dark else 215)
    return (values + rng.normal(0, noise, values.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("sharp", [0, 2, 6])
def test_the_sharpest_plane_is_the_one_in_focus_also_with_noise(tmp_path, sharp):
    path = write_ome_tiff(tmp_path / "a.ome.tif", blurred(sharp), axes="ZYX", factors=())
    with closing(open_source(path, slide=options("sharpest"))) as source:
        assert source.info.plane == f"plane {sharp + 1} of 7"
        assert np.array_equal(whole(source)[..., 0], blurred(sharp)[sharp])
        assert not any("planes" in text for text in source.info.assumptions)


def test_without_a_choice_fluorescence_is_projected_and_transmitted_light_is_not(tmp_path):
    dark = write_ome_tiff(tmp_path / "dark.ome.tif", blurred(4), axes="ZYX", factors=())
    bright = write_ome_tiff(tmp_path / "bright.ome.tif", blurred(4, dark=False), axes="ZYX", factors=())
    stained = np.stack([blurred(2, dark=False)] * 3, -1)
    kept = {"axes": "ZYXS", "photometric": "rgb", "factors": ()}
    rgb = write_ome_tiff(tmp_path / "rgb.ome.tif", stained, **kept)
    for path, plane, word in (
        (dark, "maximum of 7 planes", "fluorescence"),
        (bright, "plane 5 of 7", "transmitted light"),
        (rgb, "plane 3 of 7", "transmitted light"),
    ):
        with closing(open_source(path)) as source:
            assert source.info.plane == plane
            said = [text for text in source.info.assumptions if "planes" in text]
            assert len(said) == 1
            assert word in said[0]
            assert "--plane" in said[0]


def test_all_time_points_of_a_series_are_projected_or_none_is(tmp_path):
    """Also one that is empty, whose noise is no darker than bright, and one that is full."""
    noise = np.random.default_rng(0).normal(40, 3, (3, 300, 340)).clip(0, 255).astype(np.uint8)
    movie = np.stack([noise, blurred(1, 3), blurred(1, 3), 255 - blurred(2, 3)])
    path = write_ome_tiff(tmp_path / "movie.ome.tif", movie, axes="TZYX", factors=())
    for time in range(1, 5):
        with closing(open_source(path, slide=SlideOptions(stack=StackOptions(time=time)))) as source:
            assert source.info.plane == "maximum of 3 planes", time


def test_openslide_is_not_given_a_stack_of_which_it_shows_the_first_plane(tmp_path):
    stack = np.stack([np.full((300, 340, 3), 20 * i, np.uint8) for i in range(4)])
    resolution = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER", "photometric": "rgb"}
    path = write_ome_tiff(tmp_path / "a.ome.tif", stack, axes="ZYXS", factors=(), **resolution)
    assert np.array_equal(read(path, 3, None), np.moveaxis(stack[2], 2, 0))
    pages = str(tmp_path / "pages.tif")
    tifffile.imwrite(pages, stack, tile=(128, 128), metadata=None, **resolution)
    assert np.array_equal(read(pages, 3, None, pages="planes"), np.moveaxis(stack[2], 2, 0))
    with pytest.raises(SourceError, match="4 pictures that does not say what they are; give --pages"):
        open_source(pages)


@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_pages_of_a_plain_tiff_are_what_is_asked_for(tmp_path, tile):
    pages = np.random.default_rng(5).integers(0, 255, (12, 40, 50)).astype(np.uint8)
    path = str(tmp_path / "a.tif")
    tifffile.imwrite(path, pages, photometric="minisblack", metadata=None, tile=tile)
    assert np.array_equal(read(path, "max", None, pages="planes")[0], pages.max(0))
    assert np.array_equal(read(path, None, 12, pages="times")[0], pages[11])
    assert stack_size(path, options(pages="times")).n_times == 12
    with closing(open_source(path, slide=options(pages="channels"))) as source:
        assert np.array_equal(whole(source), np.moveaxis(pages, 0, 2))
    with pytest.raises(SourceError, match=r"12 pictures that does not say .*--pages planes or times"):
        open_source(path)
    tifffile.imwrite(path, pages[:4], photometric="minisblack", metadata=None, tile=tile)
    with closing(open_source(path, slide=options())) as source:
        assert source.info.channels == tuple(f"channel {i}" for i in range(1, 5))
        assert any(
            "4 pages are; they were read as channels. --pages" in text for text in source.info.assumptions
        )


def test_what_imagej_calls_slices_may_be_time(tmp_path):
    path = write_imagej(tmp_path / "a.tif", STACK[0, :, 0], axes="ZYX", finterval=2.5)
    with closing(open_source(path, slide=options(None, 3, pages="times"))) as source:
        assert np.array_equal(whole(source)[..., 0], STACK[0, 2, 0])
        assert (source.info.time.number, source.info.time.total, source.info.time.seconds) == (3, 3, 5.0)


def test_when_a_time_point_was_taken_is_as_the_file_states_it(tmp_path):
    three = np.repeat(STACK[:, :1, 0], 2, axis=0)[:3, 0]
    stated: dict[str, tuple[str, list[float | None]]] = {}
    for name, more, expected in (
        ("step", {"TimeIncrement": 2.0, "TimeIncrementUnit": "min"}, [0.0, 120.0, 240.0]),
        ("planes", {"Plane": {"DeltaT": [1.0, 3.0, 9.5], "DeltaTUnit": ["s"] * 3}}, [0.0, 2.0, 8.5]),
        ("nothing", {}, [None] * 3),
    ):
        path = str(tmp_path / f"{name}.ome.tif")
        sizes = {"axes": "TYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
        tifffile.imwrite(path, three, ome=True, photometric="minisblack", metadata=sizes | more)
        stated[name] = path, expected
    path = write_imagej(tmp_path / "a.tif", three, axes="TYX", finterval=30.0)
    stated["imagej"] = path, [0.0, 30.0, 60.0]
    path = write_ome_zarr(tmp_path / "a.ome.zarr", three, axes="tyx", factors=(1,), seconds=60.0)
    stated["zarr"] = path, [0.0, 60.0, 120.0]
    for path, expected in stated.values():
        found = []
        for time in (1, 2, 3):
            with closing(open_source(path, slide=options(None, time))) as source:
                found.append(source.info.time.seconds)
        assert found == expected, path


def test_what_is_not_there_is_refused_with_what_there_is(tmp_path):
    series = ome_tiff(tmp_path, ALL)
    with pytest.raises(
        SourceError, match="series of 2 time points; give one of them, from 1 to 2, with --time"
    ):
        open_source(series)
    with pytest.raises(SourceError, match="has 2 time points, and no time point 3; give --time from 1 to 2"):
        open_source(series, slide=options(1, 3))
    with pytest.raises(SourceError, match="has 3 planes, and no plane 4; give --plane from 1 to 3"):
        open_source(series, slide=options(4, 1))
    flat = write_ome_tiff(tmp_path / "flat.ome.tif", STACK[0, 0], factors=())
    with pytest.raises(SourceError, match="has one plane, and no plane 2; leave --plane out"):
        open_source(flat, slide=options(2))
    with pytest.raises(SourceError, match="has one time point, and no time point 2; leave --time out"):
        open_source(flat, slide=options(None, 2))
    assert np.array_equal(read(flat, "max", 1), STACK[0, 0])
    for wrong in ({"plane": 0}, {"plane": "best"}, {"time": 0}, {"pages": "rows"}):
        with pytest.raises(ConfigError, match="--"):
            StackOptions(**wrong)


def test_a_plane_that_was_not_saved_is_named(tmp_path):
    path = ome_tiff(tmp_path, "TZCYX")
    with tifffile.TiffFile(path) as tiff:
        text = (tiff.ome_metadata or "").replace('SizeT="2"', 'SizeT="4"')
    tifffile.tiffcomment(path, text.encode())
    with pytest.raises(SourceError, match="lacks the plane of channel 1, plane 1, time point 4"):
        open_source(path, slide=options(1, 4))
    assert np.array_equal(read(path, 1, 2), STACK[1, 0])


def test_another_plane_or_time_point_is_another_source(tmp_path):
    path = ome_tiff(tmp_path, ALL)
    found = set()
    for plane, time in ((1, 1), (2, 1), (1, 2), ("max", 1), ("mean", 1)):
        with closing(open_source(path, slide=options(plane, time))) as source:
            found.add(source.info.fingerprint)
            with closing(pickle.loads(pickle.dumps(source))) as copy:
                assert np.array_equal(whole(copy), whole(source))
    assert len(found) == 5
