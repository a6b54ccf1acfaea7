"""Parts of a raster source: scenes on their grid, values for the stretch, the resolution, notes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray

from fewscope.connectors.pixels.levels import SAME_RESOLUTION, whole_blocks
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.rasters.alignment import Grid, common_grid
from fewscope.connectors.rasters.gdal_file import RasterFile, inspect
from fewscope.connectors.rasters.inputs import list_scenes
from fewscope.connectors.rasters.nodata import implicit_nodata
from fewscope.connectors.rasters.stack import Layer, Scene, SceneStack, holds, measure_depth, numpy_type
from fewscope.connectors.rasters.stretch import Bands, choose_bands, stacked_bands
from fewscope.connectors.storage.gdal import gdal
from fewscope.errors import SourceError

CHUNK = 1024  # px; side of what is read at once, in whole blocks of the file
WARP_BLOCK = 128  # px; side of what is lost around an unreadable place if GDAL warps
LARGEST_BLOCK = 2048  # px; larger ones are read in parts
SAMPLE_LEVEL = (
    1024  # px; least longer side of the level that is sampled for the stretch, if the source is as long
)
SAMPLE_CHUNKS = 64  # most chunks of that level that are read, evenly spaced
SAMPLE_VALUES = 2**20  # most values of each band
MAX_PIXELS = (
    2**42
)  # two million px a side, more than the land of the Earth at 10 m; a few bytes of a VRT state any size
MAX_BLOCK_BYTES = 2**29  # of a decoded block, all bands: beyond GDAL's cache, decoded again for each piece
MAX_SIDE = 2**24  # px, four times around the Earth at 10 m
FINEST_ENLARGEMENT = 8.0  # finer working grids would be interpolation alone


def lay_out(uri: str, options: RasterOptions) -> tuple[SceneStack, Bands, list[RasterFile]]:
    """Place all scenes on their common grid.

    Returns
    -------
    The scenes, the bands that are read, and all files in order.

    Raises
    ------
    SourceError
        A file cannot be opened, or the scenes do not fit together.
    """
    scenes = [
        [inspect(part) for part in scene] for scene in list_scenes((uri, *options.scenes), options.assets)
    ]
    files = [file for scene in scenes for file in scene]
    first = scenes[0][0]
    named = "--green, --nir and --swir" if options.keep_ratios else "--bands"
    shown = choose_bands(first, options.bands, named) if len(scenes[0]) == 1 else stacked_bands(scenes[0])
    for scene in scenes[1:]:
        own = scene[0]
        if len(scene) != len(scenes[0]) or own.dtypes != first.dtypes:
            raise SourceError(
                f"{own.uri}: has bands {', '.join(own.dtypes)}, {first.uri} has {', '.join(first.dtypes)}; scenes that "
                "become one source need the same bands"
            )
    per_scene = len(scenes[0])
    bands = shown.indexes if per_scene == 1 else (1,)
    for file in files:
        _check_block(file)
    files = [_with_nodata(file, bands, options.nodata) for file in files]
    grid, places = common_grid(files, options.crs)
    if grid.height < 1 or grid.width < 1:  # numbers too small or too large for GDAL's suggestion of a grid
        raise SourceError(
            f"{uri}: has no pixels in {grid.crs or 'the CRS of the grid'}; check where it says that it is"
        )
    if grid.height * grid.width > MAX_PIXELS or max(grid.height, grid.width) > MAX_SIDE:
        raise SourceError(
            f"{uri}: is {grid.height} x {grid.width} px, more than a raster can be here; check what it states, or give "
            "fewer scenes"
        )
    layers = [Layer(file, bands, place) for file, place in zip(files, places, strict=True)]
    made = [Scene(tuple(layers[i : i + per_scene])) for i in range(0, len(layers), per_scene)]
    stack = SceneStack(grid, tuple(made), options.pick)
    if options.pick == "best" and len(made) > 1:
        deep = [replace(scene, depth=measure_depth(stack, scene)) for scene in made]
        stack = SceneStack(grid, tuple(deep), options.pick)
    return stack, shown, files


def _check_block(file: RasterFile) -> None:
    """Refuse a file of which GDAL must decode more at once than machines have: a small one may state any tile."""
    rows, cols = file.block
    size = (
        rows * cols * numpy_type(file.dtypes[0]).itemsize * len(file.dtypes)
    )  # all bands, where they interleave
    if size > MAX_BLOCK_BYTES:
        raise SourceError(
            f"{file.uri}: is stored in blocks of {rows} x {cols} px, {size / 2**30:.1f} GiB each; convert it with "
            "gdal_translate -of COG"
        )


def _with_nodata(
    file: RasterFile, bands: tuple[int, ...], asked: float | Literal["auto", "file"]
) -> RasterFile:
    """The file with its nodata value: the user's, else the file's, else implicit nodata."""
    if asked == "file":
        return file
    if asked != "auto":
        for dtype in {file.dtypes[band - 1] for band in bands}:
            if not holds(numpy_type(dtype), asked):
                raise SourceError(
                    f"{file.uri}: --nodata {asked:g} is no value of {dtype}, the type of its bands; give one that "
                    "is, or leave it out"
                )
        return file.with_nodata(asked, "user")
    value = implicit_nodata(file, bands)
    return file if value is None else file.with_nodata(value, "implicit")


def palette_of(file: RasterFile) -> NDArray[np.uint8]:
    """The file's palette, uint8 (n, 3)."""
    with gdal(), rasterio.open(file.path) as dataset:
        colours = dataset.colormap(1)
    return np.array([colours.get(value, (0, 0, 0, 0))[:3] for value in range(max(colours) + 1)], np.uint8)


def sample_values(stack: SceneStack) -> NDArray[np.generic]:
    """Valid values from all over the source, (n_bands, n): of an overview, or of evenly spaced chunks."""
    long_enough = [level for level in stack.levels if max(level.height, level.width) >= SAMPLE_LEVEL]
    level = long_enough[-1] if long_enough else stack.levels[0]
    chunks = list(whole_blocks(0, level.height, 0, level.width, level, *block_grid(stack)))
    chosen = chunks[:: -(-len(chunks) // SAMPLE_CHUNKS)]
    share = max(1, math.ceil(sum((b - a) * (d - c) for a, b, c, d in chosen) / SAMPLE_VALUES))
    parts = []
    for chunk in chosen:
        for _, (bands, valid), _ in stack.read_pieces(level, chunk, block_grid(stack)[0]):
            parts.append(bands[:, valid][:, ::share])
    return np.concatenate(parts, axis=1)


def block_grid(stack: SceneStack) -> tuple[tuple[int, int], tuple[int, int]]:
    """(rows, cols) of the blocks that are read one by one after a failure, and of the chunks of them read at once."""
    layer = stack.scenes[0].layers[0]
    if layer.place.offset == (0, 0):
        rows, cols = (side if side <= LARGEST_BLOCK else CHUNK for side in layer.file.block)
    else:
        rows = cols = WARP_BLOCK
    return (rows, cols), (rows * max(1, CHUNK // rows), cols * max(1, CHUNK // cols))


def resampled(uri: str, grid: Grid, res: float | None) -> tuple[tuple[int, int], Affine]:
    """Size and transform of the working grid.

    Parameters
    ----------
    uri
        For errors.
    grid
        The scenes' grid.
    res
        Side of its square pixels in units of the CRS; None for those of the scenes' grid.

    Returns
    -------
    (height, width) and the transform.

    Raises
    ------
    SourceError
        ``res`` is much finer than the raster, or more than the whole of it, or the file's pixels have no area.
    """
    transform = grid.transform
    down, right = math.hypot(transform.b, transform.e), math.hypot(transform.a, transform.d)
    if not (0 < down < math.inf and 0 < right < math.inf and abs(transform.determinant) > 0):
        raise SourceError(
            f"{uri}: its pixels have no area (transform {', '.join(f'{v:g}' for v in transform[:6])}); give the file "
            "its place again, for example with gdal_edit -a_ullr"
        )
    if res is None or max(abs(res / down - 1), abs(res / right - 1)) < SAME_RESOLUTION:
        return (grid.height, grid.width), transform
    if res * FINEST_ENLARGEMENT < min(down, right):
        raise SourceError(
            f"{uri}: --res {res:g} is {min(down, right) / res:.0f} times finer than the raster's {min(down, right):g}; "
            f"give {min(down, right):g} or more, in units of {grid.crs or 'the file'}"
        )
    if res > max(grid.height * down, grid.width * right):
        raise SourceError(
            f"{uri}: --res {res:g} is more than the whole raster, {grid.width * right:g} x {grid.height * down:g} in "
            f"units of {grid.crs or 'the file'}; give the side of a pixel"
        )
    height, width = max(1, int(grid.height * down / res + 0.5)), max(1, int(grid.width * right / res + 0.5))
    return (height, width), transform @ Affine.scale(res / right, res / down)


def notes_on(files: list[RasterFile], grid: Grid) -> list[str]:
    """Notes for the report about georeference and nodata."""
    first, said = files[0], []
    if first.georeference == "gcps":
        said.append(
            f"The file has {first.n_points} control points and no transform: resampled by a polynomial through them."
        )
    elif first.georeference == "rpcs":
        said.append("The file is located by RPCs: resampled as if all ground were at height 0.")
    elif first.georeference == "none":
        said.append("The file does not say where it is: coordinates are pixels, and areas are in pixels.")
    elif grid.crs is None:
        said.append("The file states no CRS: its coordinates are kept, their unit is not known.")
    if grid.transform.b or grid.transform.d:
        said.append("The raster is rotated against its CRS; results keep its grid.")
    implicit = [file for file in files if file.nodata_origin == "implicit"]
    if implicit:
        values = " or ".join(sorted({f"{file.nodata_override:g}" for file in implicit}))
        said.append(
            f"Pixels of {values} in all bands, which fill the corners, were taken for no data, though the file does "
            "not declare it; --nodata file keeps them."
        )
    others = sorted({str(file.crs) for file in files} - {str(grid.crs)})
    if others and grid.crs:
        said.append(f"Resampled to {grid.crs} from {', '.join(others)}.")
    return said
