"""Band values of one or more scenes on one grid. Where they overlap, the first scene wins, or the best.

A `SceneStack` is made of scenes, each of one file, or of one file per band. It is picklable, and any number of threads
may read: each takes an idle handle of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window
from scipy.ndimage import distance_transform_edt, map_coordinates

from fewscope.connectors.pixels.levels import Block, Level, whole_blocks
from fewscope.connectors.rasters.alignment import Grid, Place, open_on_grid
from fewscope.connectors.rasters.gdal_file import RasterFile, close_raster, open_raster
from fewscope.connectors.rasters.stored_values import common_type, read_bands
from fewscope.connectors.storage.gdal import gdal
from fewscope.connectors.storage.handles import IdleHandles

log = logging.getLogger(__name__)

MAX_IDLE = 64  # idle handles kept open
DEPTH_SIDE = 512  # px; longest side of the coarsest level of several scenes, and of the map of depth

Values = tuple[NDArray[np.generic], NDArray[np.bool_]]
"""(bands, valid): (n_bands, h, w) of the stack's type, bool (h, w)."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Bands of one file, and its place on the grid.

    Attributes
    ----------
    rescale
        Factor and summand of each band that bring its values to the scale and offset of the first scene's; empty where
        they are the same.
    """

    file: RasterFile
    bands: tuple[int, ...]
    place: Place
    rescale: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One scene: layers that together have all bands.

    Attributes
    ----------
    layers
        One with all bands, or one for each band.
    depth
        For ``pick="best"``: float32 (h, w) over the whole grid, distance to the nearest place without valid pixels.
    """

    layers: tuple[Layer, ...]
    depth: NDArray[np.float32] | None = None

    def touches(self, block: Block, factor: float) -> bool:
        """Whether it may have pixels in a block of a level whose pixels are ``factor`` grid pixels wide."""
        place = self.layers[0].place
        return (
            place.rows[0] < block[1] * factor
            and block[0] * factor < place.rows[1]
            and place.cols[0] < block[3] * factor
            and block[2] * factor < place.cols[1]
        )


class SceneStack:
    """Scenes on a grid; see the module.

    Parameters
    ----------
    grid
        The common grid.
    scenes
        In the order of precedence.
    pick
        "first": the first scene with a valid pixel wins. "best": the one whose edge is farthest from it.
    """

    def __init__(
        self, grid: Grid, scenes: tuple[Scene, ...], pick: Literal["first", "best"] = "first"
    ) -> None:
        self.grid = grid
        self.scenes = scenes
        self.pick = pick
        self.levels = _levels(grid, scenes)
        self._handles: IdleHandles[rasterio.DatasetReader] = IdleHandles(close_raster, MAX_IDLE)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.grid, self.scenes, self.pick)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values, common to all files; float32 for complex values, whose magnitude is read."""
        names = {
            layer.file.dtypes[band - 1]
            for scene in self.scenes
            for layer in scene.layers
            for band in layer.bands
        }
        is_rescaled = any(layer.rescale for scene in self.scenes for layer in scene.layers)
        if is_rescaled or any("complex" in name for name in names):
            return np.dtype(np.float32)
        return np.result_type(*(np.dtype(name) for name in names))

    @property
    def n_bands(self) -> int:
        """Number of bands that `read` returns."""
        return sum(len(layer.bands) for layer in self.scenes[0].layers)

    def close(self) -> None:
        """Close all files; reading afterwards raises ValueError."""
        self._handles.close()

    def read(self, level: Level, block: Block) -> Values:
        """Values of a block of a level; RasterioError if any of it fails to decode."""
        return self._combine(
            [(s, self._read_scene(s, level, block)) for s in self._near(level, block)], level, block
        )

    def read_around(self, level: Level, block: Block) -> tuple[Values, bool]:
        """Values as in `read`, without scenes that fail to decode here, and whether there were any."""
        found, failed = [], False
        for scene in self._near(level, block):
            try:
                found.append((scene, self._read_scene(scene, level, block)))
            except RasterioError as error:
                log.debug("%s: at %s of level %d: %s", scene.layers[0].file.uri, block, level.index, error)
                failed = True
        return self._combine(found, level, block), failed

    def read_pieces(
        self, level: Level, chunk: Block, grid: tuple[int, int]
    ) -> list[tuple[Block, Values, bool]]:
        """Read a chunk as one piece; if it fails to decode, as blocks of ``grid`` (rows, cols) with `read_around`."""
        try:
            return [(chunk, self.read(level, chunk), False)]
        except RasterioError as error:
            log.debug("level %d at %s: %s", level.index, chunk, error)
        return [(block, *self.read_around(level, block)) for block in whole_blocks(*chunk, level, grid, grid)]

    def _near(self, level: Level, block: Block) -> list[Scene]:
        return [scene for scene in self.scenes if scene.touches(block, level.row_step)]

    def _combine(self, found: list[tuple[Scene, Values]], level: Level, block: Block) -> Values:
        """The valid value of the first, or best, scene for each pixel."""
        if len(found) == 1:
            return found[0][1]
        shape = block[1] - block[0], block[3] - block[2]
        bands = np.zeros((self.n_bands, *shape), self.dtype)
        valid = np.zeros(shape, np.bool_)
        deepest = np.full(shape, -1, np.float32)
        for scene, (own_bands, own_valid) in found:
            depth = _depth(scene, self.grid, level, block) if self.pick == "best" else np.float32(0)
            better = own_valid & (depth > deepest)
            bands[:, better] = own_bands[:, better]
            deepest = np.where(better, depth, deepest)
            valid |= own_valid
        return bands, valid

    def _read_scene(self, scene: Scene, level: Level, block: Block) -> Values:
        parts = [self._read_layer(layer, level, block) for layer in scene.layers]
        bands = np.concatenate([own for own, _ in parts]) if len(parts) > 1 else parts[0][0]
        return bands, np.logical_and.reduce([valid for _, valid in parts])

    def _read_layer(self, layer: Layer, level: Level, block: Block) -> Values:
        shape = block[1] - block[0], block[3] - block[2]
        with self._handle(layer, level) as handle:
            if not self._is_direct(layer, level):
                window = Window(block[2], block[0], shape[1], shape[0])
                # the view's last band is its mask, unless the file has an alpha band
                values = read_bands(handle, [*layer.bands, layer.file.alpha or handle.count], window)
                bands, valid = values[:-1], np.real(values[-1]) > 0
            else:
                bands = np.zeros((len(layer.bands), *shape), common_type(handle, layer.bands))
                valid = np.zeros(shape, np.bool_)
                row, col = layer.place.offset or (0, 0)
                top, bottom = max(block[0] - row, 0), min(block[1] - row, handle.height)
                left, right = max(block[2] - col, 0), min(block[3] - col, handle.width)
                if top < bottom and left < right:
                    inner = (
                        slice(top + row - block[0], bottom + row - block[0]),
                        slice(left + col - block[2], right + col - block[2]),
                    )
                    window = Window(left, top, right - left, bottom - top)
                    bands[:, *inner] = read_bands(handle, layer.bands, window)
                    valid[inner] = _valid(handle, layer, window, bands[:, *inner])
        if np.iscomplexobj(bands):
            bands = np.abs(bands)
        if bands.dtype.kind == "f":
            valid &= np.isfinite(bands).all(0)
        if layer.rescale:
            factor, summand = np.array(layer.rescale, np.float32).T[..., None, None]
            bands = bands.astype(np.float32) * factor + summand
        return bands.astype(self.dtype, copy=False), valid

    @contextmanager
    def _handle(self, layer: Layer, level: Level) -> Iterator[rasterio.DatasetReader]:
        """The file at a level, or a view of it, for this thread alone."""
        key = layer.file.path, level.index
        with gdal(), self._handles.take(key, lambda: self._open(layer, level), layer.file.uri) as handle:
            yield handle

    def _is_direct(self, layer: Layer, level: Level) -> bool:
        """Whether the file's pixels lie on those of the level."""
        return layer.place.offset is not None and (level.index == 0 or _keeps_overviews(self.scenes))

    def _open(self, layer: Layer, level: Level) -> rasterio.DatasetReader:
        file = layer.file
        if self._is_direct(layer, level):
            overview = level.index - 1 if level.index else None
            as_data = file.opacity_as_data is not None
            return open_raster(
                file.path, file.georeference, file.crs, overview, file.warp_nodata, opacity_as_data=as_data
            )
        if file.colours[0] == ColorInterp.palette:
            resampling = Resampling.nearest  # palette indexes have no mean
        else:
            resampling = Resampling.average if level.index else Resampling.bilinear
        return open_on_grid(file, self.grid.shrunk(2**level.index), resampling)


def measure_depth(stack: SceneStack, scene: Scene) -> NDArray[np.float32]:
    """Distance of each place of the grid to the nearest without a valid pixel of the scene: float32 (h, w), coarse."""
    alone = SceneStack(stack.grid, (scene,))
    level = next(
        (level for level in alone.levels if max(level.height, level.width) <= DEPTH_SIDE), alone.levels[-1]
    )
    (_, valid), _ = alone.read_around(level, (0, level.height, 0, level.width))
    alone.close()
    distance = distance_transform_edt(np.pad(valid, 1))[1:-1, 1:-1]
    return np.asarray(distance, np.float32)


def _depth(scene: Scene, grid: Grid, level: Level, block: Block) -> NDArray[np.float32]:
    """`Scene.depth`, interpolated to the pixels of a block."""
    if scene.depth is None:
        return np.zeros((block[1] - block[0], block[3] - block[2]), np.float32)
    rows = (np.arange(block[0], block[1]) + 0.5) * level.row_step * scene.depth.shape[0] / grid.height - 0.5
    cols = (np.arange(block[2], block[3]) + 0.5) * level.col_step * scene.depth.shape[1] / grid.width - 0.5
    places = np.meshgrid(rows, cols, indexing="ij")
    return np.asarray(map_coordinates(scene.depth, places, order=1, mode="nearest"), np.float32)


def _keeps_overviews(scenes: tuple[Scene, ...]) -> bool:
    """Whether the grid is that of a single file, whose overviews can be read."""
    return len(scenes) == 1 and len(scenes[0].layers) == 1 and scenes[0].layers[0].place.offset == (0, 0)


def _levels(grid: Grid, scenes: tuple[Scene, ...]) -> tuple[Level, ...]:
    """The grid itself, then the file's overviews, or, for warped or several files, halvings by GDAL."""
    levels = [Level(0, grid.height, grid.width, 1.0, 1.0)]
    if _keeps_overviews(scenes):
        for index, (height, width) in enumerate(scenes[0].layers[0].file.overviews, start=1):
            steps = grid.height / height, grid.width / width
            whole = round(max(steps))
            # writers round the size of an overview up or down
            if abs(grid.height / whole - height) < 1 and abs(grid.width / whole - width) < 1:
                steps = float(whole), float(whole)
            if max(steps) / min(steps) < 1.02:
                levels.append(Level(index, height, width, *steps))
        return tuple(levels)
    while max(levels[-1].height, levels[-1].width) > DEPTH_SIDE:
        factor = 2 ** len(levels)
        shrunk = grid.shrunk(factor)
        levels.append(Level(len(levels), shrunk.height, shrunk.width, float(factor), float(factor)))
    return tuple(levels)


def _valid(
    dataset: rasterio.DatasetReader, layer: Layer, window: Window, bands: NDArray[np.generic]
) -> NDArray[np.bool_]:
    """Valid pixels of a window of a file: by nodata (a pixel is valid if any band differs from it), mask and alpha."""
    flags = dataset.mask_flag_enums[layer.bands[0] - 1]
    valid = np.ones(bands.shape[1:], np.bool_)
    if layer.file.nodata:
        pairs = zip(bands, (layer.file.nodata[band - 1] for band in layer.bands), strict=True)
        valid = np.logical_or.reduce([_differs(band, nodata) for band, nodata in pairs])
    elif MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        valid = dataset.read_masks(layer.bands[0], window=window) > 0
    # nodata takes precedence over it in GDAL, which ignores alpha of float type
    if layer.file.alpha:
        valid &= np.real(dataset.read(layer.file.alpha, window=window)) > 0
    return valid


def _differs(band: NDArray[np.generic], nodata: float | None) -> NDArray[np.bool_]:
    """Where a band differs from its nodata value: everywhere if its type cannot hold that value. NaN: see the
    caller."""
    if nodata is None or not holds(band.dtype, nodata):
        return np.ones(band.shape, np.bool_)
    return np.asarray(band != np.array(nodata).astype(band.dtype))


def holds(dtype: np.dtype[Any], value: float) -> bool:
    """Whether a band of a type can have a value."""
    if dtype.kind not in "ui":
        return True
    limits = np.iinfo(dtype)
    return float(value).is_integer() and limits.min <= value <= limits.max
