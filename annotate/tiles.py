"""Tiles of 256 px for the page: the image as JPEG, layers over it as PNG.

Zoom ``max_zoom`` shows an image px as one tile px; each zoom below it halves, down to zoom 0, one tile for all.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rasterio.windows import Window

from fewscope.connectors.pixels.composite import composite
from fewscope.connectors.source import ZoomableSource

TILE = 256
JPEG_QUALITY = 85
CACHE_BYTES = 192 * 2**20
OVERVIEW_ZOOMS = 3
"""Zooms 0 to this are cut from one overview, of at most 2048 px: a file without a pyramid is read but once."""


@dataclass(frozen=True, slots=True)
class TileAddress:
    """A tile of a source: zoom, and column and row of tiles from the image's upper left corner."""

    zoom: int
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class TileGrid:
    """The tiles of an image of ``width`` x ``height`` image px."""

    width: int
    height: int

    @property
    def max_zoom(self) -> int:
        """The zoom at which a tile px is an image px.

        >>> TileGrid(256, 10).max_zoom, TileGrid(257, 10).max_zoom, TileGrid(1024, 1025).max_zoom
        (0, 1, 3)
        """
        zoom, side = 0, max(self.width, self.height)
        while TILE * 2**zoom < side:
            zoom += 1
        return zoom

    def step(self, zoom: int) -> int:
        """Image px per tile px."""
        return 2 ** (self.max_zoom - zoom)

    def holds(self, tile: TileAddress) -> bool:
        """Whether the image has any pixel in a tile."""
        if not 0 <= tile.zoom <= self.max_zoom or min(tile.x, tile.y) < 0:
            return False
        side = TILE * self.step(tile.zoom)
        return tile.x * side < self.width and tile.y * side < self.height

    def box(self, tile: TileAddress) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of a tile in image px; it may reach beyond the image."""
        side = TILE * self.step(tile.zoom)
        return tile.x * side, tile.y * side, (tile.x + 1) * side, (tile.y + 1) * side


class TileCache:
    """Tiles that were made lately, of at most so many bytes. Threads may share it."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self._tiles: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[object, ...]) -> bytes | None:
        """A tile, if it is here."""
        with self._lock:
            data = self._tiles.get(key)
            if data is not None:
                self._tiles.move_to_end(key)
            return data

    def put(self, key: tuple[object, ...], data: bytes) -> None:
        """Keep a tile, and forget the oldest ones."""
        with self._lock:
            if key in self._tiles:
                return
            self._tiles[key] = data
            self._n_bytes += len(data)
            while self._n_bytes > self._max_bytes and len(self._tiles) > 1:
                self._n_bytes -= len(self._tiles.popitem(last=False)[1])


class ImageTiles:
    """JPEG tiles of a source, and its thumbnail; threads may share it.

    Attributes
    ----------
    key : str
        Tells apart what tiles at the same place show: by the source, and how it is shown.
    """

    def __init__(self, source: ZoomableSource, grid: TileGrid, cache: TileCache) -> None:
        self._source, self.grid, self._cache = source, grid, cache
        info = source.info
        self.key = hashlib.sha256(f"{info.fingerprint} {info.appearance}".encode()).hexdigest()[:24]
        self._overview: NDArray[np.uint8] | None = None
        self._overview_lock = threading.Lock()

    def etag(self, tile: TileAddress) -> str:
        """What a tile shows, by its source and place: it never changes."""
        return f'"{self.key}-{tile.zoom}-{tile.x}-{tile.y}"'

    def jpeg(self, tile: TileAddress) -> bytes:
        """A tile; beyond the image it is background."""
        key = (self.key, tile)
        data = self._cache.get(key)
        if data is None:
            data = jpeg(self._pixels(tile))
            self._cache.put(key, data)
        return data

    def thumbnail(self, max_side: int = TILE) -> bytes:
        """The whole image, JPEG of at most ``max_side`` px."""
        key = (self.key, "thumbnail", max_side)
        data = self._cache.get(key)
        if data is None:
            image = Image.fromarray(self._whole())
            image.thumbnail((max_side, max_side), Image.Resampling.BOX)
            data = jpeg(np.asarray(image))
            self._cache.put(key, data)
        return data

    def _pixels(self, tile: TileAddress) -> NDArray[np.uint8]:
        if tile.zoom <= OVERVIEW_ZOOMS and tile.zoom < self.grid.max_zoom:
            image = self._whole(tile.zoom)
            background = np.empty((TILE, TILE, 3), np.uint8)
            info = self._source.info
            background[:] = composite(np.array(info.background, np.uint8), info)
            part = image[tile.y * TILE : (tile.y + 1) * TILE, tile.x * TILE : (tile.x + 1) * TILE]
            background[: part.shape[0], : part.shape[1]] = part
            return background
        window = Window(tile.x * TILE, tile.y * TILE, TILE, TILE)
        return self._read_zoomed(window, self.grid.step(tile.zoom))

    def _read_zoomed(self, window: Window, step: float) -> NDArray[np.uint8]:
        """A window as people see it, (h, w, 3)."""
        return composite(self._source.read_zoomed(window, step)[0], self._source.info)

    def _whole(self, zoom: int | None = None) -> NDArray[np.uint8]:
        """The whole image at a zoom of the overview; the finest of them by default."""
        finest = min(OVERVIEW_ZOOMS, self.grid.max_zoom)
        with self._overview_lock:
            if self._overview is None:
                step = self.grid.step(finest)
                window = Window(0, 0, -(-self.grid.width // step), -(-self.grid.height // step))
                self._overview = self._read_zoomed(window, step)
        image = self._overview
        for _ in range(finest - (finest if zoom is None else zoom)):
            odd = (0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)
            padded = np.pad(image, odd, "edge").astype(np.uint16)
            quads = padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2]
            image = ((quads + 2) >> 2).astype(np.uint8)
        return image


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """uint8 (h, w, 3) as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def png(image: NDArray[np.uint8]) -> bytes:
    """uint8 (h, w, 4) as PNG, quickly rather than small."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
