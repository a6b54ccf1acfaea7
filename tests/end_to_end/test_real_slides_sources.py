"""The promises of a source on real slides: Aperio, Hamamatsu, DICOM, generic TIFF; and on broken files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from rasterio.windows import Window

from fewscope.connectors.open import open_source
from fewscope.connectors.slide_options import SlideOptions
from fewscope.connectors.slides.pyramid_tiff import convert
from fewscope.errors import SourceError
from tests.helpers.source_conformance import SourceConformance

SHARED_DATA = Path(
    os.environ.get("FEWSCOPE_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data"
)
SLIDES = SHARED_DATA / "slides"


@pytest.fixture(scope="module", autouse=True)
def slides_are_there():
    if SLIDES.is_dir():
        return
    explain = f"no slides in {SLIDES}; set FEWSCOPE_SHARED_DATA to the folder that holds slides/"
    if os.environ.get("CI") == "true":
        pytest.fail(explain)
    pytest.skip(explain)


# Working resolutions that keep a read of the whole small, and levels as they are as well as resampled.
READABLE = [
    ("CMU-1-Small-Region.svs", {"mpp": 2.0}),
    ("TCGA-CR-7395-01A-01-TS1.svs", {"mpp": 2.0, "slide_mpp": 0.25}),
    ("test3-DAPI.ndpi", {"mpp": 3.65}),
    ("test3-DAPI.ndpi", {"mpp": 2.5}),
    ("wsi2dcm-jpeg.dcm", {"mpp": 20.0}),
    ("odd/small.svs", {}),
    ("odd/😐.svs", {}),
    ("odd/boxes.tiff", {"slide_mpp": 0.25}),
    ("odd/small_HE_levels.tiff", {"slide_mpp": 0.25, "mpp": 1.0}),
    ("odd/unreadable.svs", {}),
]


@pytest.fixture(scope="module", params=READABLE, ids=lambda case: f"{case[0]}-{case[1].get('mpp')}")
def source(request):
    source = open_source(str(SLIDES / request.param[0]), **request.param[1])
    yield source
    source.close()


class TestRealSlide(SourceConformance):
    def test_everything_but_the_unreadable_is_valid(self, source, whole):
        readable = "unreadable" not in source.info.uri
        assert whole[1].all() == readable
        assert whole[1].any() == readable


@pytest.mark.parametrize(
    ("name", "mpp", "origin", "background"),
    [
        ("CMU-1-Small-Region.svs", 0.499, "openslide.mpp-x", (255, 255, 255)),
        ("test3-DAPI.ndpi", 0.5, "openslide.mpp-x", (0, 0, 0)),
        ("wsi2dcm-jpeg.dcm", 16.783, "openslide.mpp-x", (255, 255, 255)),
        ("odd/small_vectra.qptiff", 0.496535, "TIFF resolution", (0, 0, 0)),
    ],
)
def test_what_is_known_of_real_slides(name, mpp, origin, background):
    info = open_source(str(SLIDES / name)).info
    assert info.mpp == pytest.approx(mpp)
    assert (info.mpp_source, info.background) == (origin, background)


def test_a_qptiff_of_a_scanner_names_its_channels():
    """By what made them fluoresce, since it names no biomarkers. Thumbnail, macro and label are no channels."""
    source = open_source(str(SLIDES / "odd/small_vectra.qptiff"))
    assert source.info.bands.startswith("channels DAPI, FITC, Cy3 as red, green, blue")
    assert (source.info.vendor, source.info.height, source.info.width) == ("QPTIFF", 1440, 1920)
    nuclei = open_source(str(SLIDES / "odd/small_vectra.qptiff"), slide=SlideOptions(("dapi",)))
    window = Window(0, 0, 1920, 1440)
    image, valid = nuclei.read(window)
    assert valid.all()
    assert np.array_equal(image[..., 1], source.read(window)[0][..., 0])


def test_levels_agree_on_where_things_are():
    """The same place of an NDPI slide, read from its finest level and from one that the file brings."""
    slide = str(SLIDES / "test3-DAPI.ndpi")
    fine, coarse = open_source(slide, slide_mpp=1, mpp=1), open_source(slide, slide_mpp=1, mpp=4)
    window = Window(300, 500, 64, 48)
    expected = fine.read(Window(1200, 2000, 256, 192))[0].reshape(48, 4, 64, 4, 3).mean((1, 3))
    found = coarse.read(window)[0].astype(float)
    assert np.abs(found - expected).mean() < 3
    for shift in (-1, 1):
        moved = coarse.read(Window(300 + shift, 500, 64, 48))[0].astype(float)
        assert np.abs(found - expected).mean() < np.abs(moved - expected).mean()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("TCGA-CR-7395-01A-01-TS1.svs", ["does not state its resolution", "--slide-mpp"]),
        ("odd/boxes.tiff", ["352.778", "72 dpi", "--slide-mpp"]),
        ("odd/small_HE_levels.tiff", ["352.858", "--slide-mpp"]),
        ("odd/broken.svs", ["not a slide", "copy it again"]),
        ("odd/small_dicom.dcm", ["OpenSlide cannot open it", "image flavor"]),
        ("odd/unopenable.tiff", ["Unsupported TIFF compression"]),
    ],
)
def test_files_that_cannot_be_used_say_why_and_what_to_do(name, words):
    with pytest.raises(SourceError) as error:
        open_source(str(SLIDES / name))
    said = str(error.value)
    assert "\n" not in said
    for word in [str(SLIDES / name), *words]:
        assert word in said


def test_a_plain_tiff_becomes_a_slide(tmp_path):
    convert(str(SLIDES / "odd/kidney-48-5.tif"), str(tmp_path / "kidney.tif"), 0.5)
    info = open_source(str(tmp_path / "kidney.tif")).info
    assert (info.height, info.width, info.mpp) == (901, 1493, pytest.approx(0.5))
