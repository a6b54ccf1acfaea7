"""A slide that the tests of the server share."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from tests.helpers.pages import picture


@pytest.fixture(scope="session")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "slide.tif"
    write_pyramid(path, picture(), mpp=0.5)
    return path
