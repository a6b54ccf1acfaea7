"""Resolutions: those of the file, those of the command line, and those that cannot be believed."""

from __future__ import annotations

import pytest
import tifffile

from fewscope.connectors.open import open_source
from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from fewscope.connectors.slides.resolution import resolve_mpp, working_scale
from fewscope.connectors.source import DEFAULT_MPP
from fewscope.errors import SourceError
from tests.helpers.openslide_pictures import one_line, picture


def test_a_slide_that_does_not_state_its_resolution_needs_a_flag(tmp_path):
    path = str(tmp_path / "unknown.tif")
    write_pyramid(path, picture(64, 64), None)
    with pytest.raises(SourceError) as error:
        open_source(path)
    assert "--slide-mpp" in one_line(error)
    assert path in one_line(error)
    asked = open_source(path, mpp=0.4).info
    assert (asked.mpp, asked.native_mpp, asked.mpp_source, asked.height) == (0.4, 0.4, "--mpp", 64)
    told = open_source(path, mpp=0.5, slide_mpp=0.25).info
    assert (told.mpp, told.native_mpp, told.mpp_source, told.height) == (0.5, 0.25, "--slide-mpp", 32)


def test_the_flag_wins_over_the_file(slide_path):
    info = open_source(slide_path, slide_mpp=1.0).info
    assert (info.mpp, info.mpp_source, info.height) == (1.0, "--slide-mpp", 600)
    assert open_source(slide_path).info.mpp_source == "TIFF resolution"


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ({"openslide.mpp-x": "0.01", "openslide.mpp-y": "0.01"}, ["0.01", "0.05..50", "--slide-mpp"]),
        ({"openslide.mpp-x": "352.8", "openslide.mpp-y": "352.8"}, ["352.8", "72 dpi", "--slide-mpp"]),
        ({"openslide.mpp-x": "250", "openslide.mpp-y": "0.25"}, ["250", "0.25", "--slide-mpp"]),
        (
            {"openslide.mpp-x": "0.00025", "openslide.mpp-y": "0.00025"},
            ["0.00025", "0.05..50", "--slide-mpp"],
        ),
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.26"}, ["0.25", "0.26", "across", "--slide-mpp"]),
        ({"openslide.mpp-x": "zero", "openslide.mpp-y": "nan"}, ["zero", "nan", "--slide-mpp"]),
        ({"openslide.objective-power": "40"}, ["40x", "0.25", "--slide-mpp"]),
        ({}, ["--slide-mpp"]),
    ],
)
def test_resolutions_that_cannot_be_believed_are_refused_with_their_values(properties, words):
    with pytest.raises(SourceError) as error:
        resolve_mpp("a.svs", properties, None, None)
    for word in ["a.svs", *words]:
        assert word in one_line(error)
    assert resolve_mpp("a.svs", properties, None, 0.25) == (0.25, "--slide-mpp")
    assert resolve_mpp("a.svs", properties, None, 0.004) == (0.004, "--slide-mpp")


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.252"}, (0.251, "openslide.mpp-x")),
        ({"aperio.MPP": "0.2498"}, (0.2498, "aperio.MPP")),
        (
            {"tiff.ResolutionUnit": "inch", "tiff.XResolution": "101600", "tiff.YResolution": "101600"},
            (0.25, "TIFF resolution"),
        ),
    ],
)
def test_where_a_resolution_comes_from(properties, expected):
    found = resolve_mpp("a.svs", properties, 0.5, None)
    assert found == (pytest.approx(expected[0]), expected[1])


@pytest.mark.parametrize("dpi", [72, 96])
def test_the_resolution_of_a_screen_is_none(tmp_path, caplog, dpi):
    """What vips and Photoshop write where they know of none; such a slide is as one that states nothing."""
    path = str(tmp_path / "screen.tif")
    options = {"tile": (64, 64), "photometric": "rgb", "metadata": None, "resolutionunit": "INCH"}
    tifffile.imwrite(path, picture(64, 64), resolution=(dpi, dpi), **options)
    with pytest.raises(SourceError, match=f"does not state its resolution .{dpi} dpi.*--slide-mpp"):
        open_source(path)
    assert not caplog.records
    asked = open_source(path, mpp=0.4).info
    assert (asked.mpp, asked.native_mpp, asked.mpp_source) == (0.4, 0.4, "--mpp")
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert f"{dpi} dpi" in warnings[0]
    assert open_source(path, slide_mpp=0.25).info.native_mpp == 0.25


@pytest.mark.parametrize("flag", ["mpp", "slide_mpp"])
def test_implausible_flags_are_refused(slide_path, flag):
    with pytest.raises(SourceError, match=rf"--{flag.replace('_', '-')} 250 "):
        open_source(slide_path, **{flag: 250})


def test_working_resolution():
    assert working_scale("a", 0.25, None, [1]) == (2.0, DEFAULT_MPP)
    assert working_scale("a", 0.499, None, [1]) == (1.0, 0.499)  # within 2 % of the default: as it is
    assert working_scale("a", 0.2525, None, [1]) == (2.0, 0.505)
    assert working_scale("a", 0.23, None, [1]) == (pytest.approx(0.5 / 0.23), 0.5)
    assert working_scale("a", 16.8, None, [1]) == (1.0, 16.8)
    assert working_scale("a", 0.004, None, [1, 2]) == (1.0, 0.004)  # 0.5 would make one pixel of 125
    assert working_scale("a", 0.25, 1.0005, [1, 4]) == (4, 1.0)  # a level's, within 0.1 %
    assert working_scale("a", 0.25, 1.01, [1, 4]) == (pytest.approx(4.04), 1.01)
    with pytest.raises(SourceError, match="34 times finer"):
        working_scale("a", 16.8, 0.5, [1])
