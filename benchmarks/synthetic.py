"""Slides and a model made up for measuring: what they hold is known, what they cost is stated.

A slide is one square period of pink ground and purple nuclei, repeated; the model calls purple what is not red,
exactly the same for a pixel in every tile, and burns a stated processor time per tile.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from affine import Affine
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window
from scipy import ndimage

from fewscope.connectors.slides.pyramid_tiff import write_pyramid

MPP = 0.5
"""um per px of the slides: 20x."""

PX_PER_NUCLEUS = 1300
"""Of dense tissue: 3,000 nuclei per mm2 at 20x."""

GROUND, NUCLEUS = (228, 184, 208), (108, 72, 140)
"""RGB of eosin and of haematoxylin, about."""

PERIOD = 1024
"""Side of the period, px: whole JPEG blocks and whole stored tiles, so that every repeat decodes alike."""

SupportItems = tuple[np.ndarray, np.ndarray]


def tissue(side: int = PERIOD, seed: int = 0, px_per_nucleus: int = PX_PER_NUCLEUS) -> np.ndarray:
    """A picture of nuclei that joins itself at its edges, (side, side, 3) uint8."""
    random = np.random.default_rng(seed)
    depth = np.zeros((side, side), np.float32)
    for _ in range(max(1, side * side // px_per_nucleus)):
        row, col = random.integers(0, side, 2)
        major, minor = random.uniform(7, 10), random.uniform(5, 7)
        angle = random.uniform(0, np.pi)
        y, x = np.mgrid[-12:13, -12:13]
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        blob = np.clip(1.4 * (1.3 - np.hypot(along / major, across / minor)), 0, 1)
        rows, cols = np.ix_((row + y[:, 0]) % side, (col + x[0]) % side)
        depth[rows, cols] = np.maximum(depth[rows, cols], blob)
    ground = np.array(GROUND, np.float32)
    picture = ground + depth[..., None] * (np.array(NUCLEUS, np.float32) - ground)
    grain = ndimage.gaussian_filter(random.normal(0, 12, (side, side)), 1.0, mode="wrap")
    return np.clip(np.rint(picture + grain[..., None]), 0, 255).astype(np.uint8)


def write_repeats(
    path: Path | str,
    picture: np.ndarray,
    height: int,
    width: int,
    mpp: float = MPP,
    compress: Literal["jpeg", "deflate"] = "jpeg",
) -> None:
    """Write a slide of `height` x `width` px that repeats a picture (h, w, 3) from its upper left corner on."""
    n = -(-width // picture.shape[1])

    def read_block(window: Window) -> np.ndarray:
        rows = (window.row_off + np.arange(window.height)) % picture.shape[0]
        return np.tile(picture[rows], (1, n, 1))[:, : window.width]

    write_pyramid(path, (height, width, read_block), mpp, compress=compress)


def put_on_earth(path: Path | str, crs: str = "EPSG:32633", pixel_m: float = 10.0) -> None:
    """Make a raster of a slide: 10 m pixels in UTM."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "r+") as file:
            file.crs = crs
            file.transform = Affine(pixel_m, 0, 500_000, 0, -pixel_m, 5_000_000)


def is_object(picture: np.ndarray) -> np.ndarray:
    """What `FakeModel` calls an object, with probability 0.5 or more: (H, W, 3) uint8 -> (H, W) bool."""
    return _PROBABILITY[picture[..., 0]] >= 128 / 255


# From the red channel alone, and in whole 255ths, so that what is stored is what the model said.
_PROBABILITY = (np.clip(128 + 3 * (168 - np.arange(256)), 0, 255) / 255).astype(np.float32)


def write_support(folder: Path, picture: np.ndarray, n: int = 5, mpp: float | None = MPP) -> Path:
    """Cut a support set of `n` patches out of a picture, labelled by the fake model's rule; returns the folder."""
    (folder / "image").mkdir(parents=True, exist_ok=True)
    (folder / "label").mkdir(exist_ok=True)
    side = 224
    for k in range(n):
        top = k * 97 % (picture.shape[0] - side + 1)
        left = k * 193 % (picture.shape[1] - side + 1)
        patch = picture[top : top + side, left : left + side]
        Image.fromarray(patch).save(folder / "image" / f"{k + 1}.png")
        Image.fromarray(is_object(patch).astype(np.uint8) * 255).save(folder / "label" / f"{k + 1}.png")
    if mpp is not None:
        (folder / "support.json").write_text(f'{{"mpp": {mpp}, "class": "nucleus"}}')
    return folder


@dataclass(frozen=True, slots=True)
class FakeFeatures:
    """What stands for a compiled support set."""

    digest: str = "fake"


class FakeModel:
    """Purple is nucleus, after burning `tile_ms` of processor time per tile (time of the thread, not of the clock).

    The burn is arithmetic in numpy, in pieces of about a millisecond, so other threads get Python's lock as often
    as they do beside a real network.
    """

    name = "fake"

    def __init__(self, tile_ms: float = 0.0) -> None:
        self.tile_ms = tile_ms
        self._ballast = np.linspace(0, 1, 2**16)

    def encode(self, images: np.ndarray, labels: np.ndarray) -> FakeFeatures:
        """Nothing to learn."""
        return FakeFeatures()

    def predict(self, tiles: np.ndarray, features: Any) -> np.ndarray:
        """(N, H, W, 3) uint8 -> (N, 1, H, W) float32."""
        until = time.thread_time() + len(tiles) * self.tile_ms / 1000
        probability = _PROBABILITY[tiles[..., 0]]
        out = np.empty_like(self._ballast)
        while time.thread_time() < until:
            np.tanh(self._ballast, out=out)
        return probability[:, None]


def config_options(slide: Path | str, support: Path | str, out: Path | str, **more: Any) -> Mapping[str, Any]:
    """Keywords of `SegmentConfig` for a made-up slide: every tile is computed, none is skipped as glass."""
    options = {"source": str(slide), "support": str(support), "out": str(out), "adapt_s": 0.0}
    return options | {"foreground": "all", "threshold": 0.5, "overwrite": True} | more
