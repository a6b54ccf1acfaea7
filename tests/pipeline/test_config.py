"""A configuration that makes no sense is refused when it is made, and making one loads nothing heavy."""

import subprocess
import sys

import pytest

from fewscope.connectors.raster_options import RasterOptions
from fewscope.errors import ConfigError
from fewscope.pipeline.config import IndexBands, RasterConfig, SegmentConfig


@pytest.mark.parametrize(
    ("option", "value", "cure"),
    [
        ("threshold", 1.0, "leave it out"),
        ("threshold", 0.0, "leave it out"),
        ("adapt_s", -1.0, "or 0"),
        ("adapt_s", float("nan"), "or 0"),
        ("connectivity", 3, "nor 2"),
        ("min_area_um2", -0.5, "or 0"),
        ("max_unreadable", 1.5, "use 0.1"),
        ("overlap", 113, "use 32"),
        ("overlap", -1, "use 32"),
        ("object_radius_um", 0.0, "typical radius"),
        ("shard", 100, "use 1024"),
        ("unit", 1024, "give both"),
        ("cell_part", "nuclei", "auto, nucleus, cell"),
        ("geojson_origin", "slide", "scan, file"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_cure(option, value, cure):
    with pytest.raises(ConfigError, match=cure) as caught:
        SegmentConfig("slide.svs", "support", "out", **{option: value})
    assert str(value) in str(caught.value) or f"{value:g}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: RasterConfig(min_area_m2=-1.0), "--min-area-m2 -1"),
        (lambda: RasterConfig(simplify_px=-1.0), "--simplify -1"),
        (lambda: IndexBands(green=2), "--nir"),
        (lambda: RasterOptions(bands=(1, 1)), "twice"),
        (lambda: RasterOptions(scale=(2.0, 1.0)), "--scale 2 1"),
        (lambda: RasterOptions(res=0.0), "--res 0"),
        (lambda: RasterOptions(bbox=(1.0, 2.0, 1.0, 3.0)), "--bbox"),
    ],
)
def test_options_of_rasters_are_refused_likewise(make, word):
    with pytest.raises(ConfigError, match=word):
        make()


def test_ends_of_the_ranges_are_allowed():
    SegmentConfig("a", "b", "c", overlap=112, max_unreadable=1.0, adapt_s=0.0, shard=16, unit=32)
    SegmentConfig("a", "b", "c", overlap=0, max_unreadable=0.0, min_area_um2=0.0)


def test_a_configuration_is_made_without_numpy_gdal_or_torch():
    script = (
        "import sys, fewscope.pipeline.config as c; c.SegmentConfig('', '', '');"
        "print(*[name for name in ('numpy', 'rasterio', 'torch', 'ray', 'zarr') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
