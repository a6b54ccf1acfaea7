"""The page on a time series: it shows one time point, says so, and its runs and labels are of that one."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from fewscope.annotate.run_routes import start_run
from fewscope.annotate.session import Session
from fewscope.connectors.slide_options import SlideOptions, StackOptions
from fewscope.errors import SupportError
from tests.helpers.channel_slides import write_ome_tiff
from tests.helpers.pages import Page, config_of, rectangle, visit


@pytest.fixture
def movie(tmp_path) -> tuple[Path, np.ndarray]:
    """Two time points of three planes, 256 x 256 px."""
    noise = np.random.default_rng(0).normal(size=(2, 3, 256, 256))
    values = (ndimage.gaussian_filter(noise, (0, 0, 9, 9)) * 900 + 128).clip(0, 255).astype(np.uint8)
    path = tmp_path / "movie.ome.tif"
    write_ome_tiff(path, values, axes="TZYX", factors=())
    return path, values


class Started:
    """Runs that are noted, not started."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.words = folder, [""]

    def new_folder(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder

    def start(self, folder: Path, job: str, sources: Any, words: list[str], request: Any) -> None:
        self.words = words


@pytest.mark.parametrize("time", [None, 2])
def test_one_time_point_is_shown_labelled_and_run(movie, tmp_path, time):
    path, values = movie
    given = () if time is None else ("--time", str(time))
    slide = SlideOptions(scale=(0, 255), stack=StackOptions("max", time))
    config = replace(config_of(path, tmp_path / "out", mpp=0.5, slide_arguments=given), slide=slide)
    shown = (time or 1) - 1

    async def journey(page: Page) -> None:
        (one,) = (await page.get("/api/info"))["sources"]
        assert one["name"] == f"movie.ome, time point {shown + 1}"
        assert any(f"shows time point {shown + 1} of 2; --time" in note for note in one["notes"])
        tile = np.asarray(Image.open(io.BytesIO(await page.get("/tile/image/0/0/0/0.jpg"))))
        assert np.abs(tile[..., 0].astype(int) - values[shown].max(0)).mean() < 4  # JPEG
        await page.ops(rectangle(10, 10, 234, 234, "region"), rectangle(20, 20, 60, 60))
        features = json.loads((tmp_path / "out/labels.geojson").read_text())["features"]
        assert [one["geometry"]["plane"] for one in features] == [{"c": -1, "z": 0, "t": shown}] * 2
        runs = Started(tmp_path / "runs")
        start_run(page.session, runs, None, {"sources": ["0"]})  # type: ignore[arg-type]
        assert [runs.words[i + 1] for i, word in enumerate(runs.words) if word == "--time"] == [
            str(shown + 1)
        ]

    visit(config, journey)
    other = SlideOptions(scale=(0, 255), stack=StackOptions("max", 2 - shown))
    with pytest.raises(SupportError, match=f"drawn on time point {shown + 1}, but time point {2 - shown}"):
        Session(replace(config, slide=other))
