"""A slide that several modules read."""

from __future__ import annotations

import pytest

from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from tests.helpers.openslide_pictures import picture


@pytest.fixture(scope="session")
def slide_path(tmp_path_factory):
    """600 x 840 px at 0.25 um per px, with levels of factor 2 and 4."""
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    write_pyramid(path, picture(600, 840), 0.25, tile=128, overviews=[2, 4])
    return str(path)
