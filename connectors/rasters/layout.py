"""Parts of a raster source: scenes on their grid, values for the stretch, the resolution, notes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray

from fewscope.connectors.pixels.levels import SAME_RESOLUTION, sampled_blocks
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.rasters.alignment import Grid, common_grid
from fewscope.connectors.rasters.bands import Bands, bands_like, choose_bands, stacked_bands
from fewscope.connectors.rasters.gdal_file import RasterFile, inspect
from fewscope.connectors.rasters.inputs import list_scenes
from fewscope.connectors.rasters.nodata import find_nodata, shared_nodata
from fewscope.connectors.rasters.stack import Layer, Scene, SceneStack, holds, measure_depth
from fewscope.connectors.rasters.stored_values import numpy_type
from fewscope.connectors.storage.gdal import gdal
from fewscope.errors import SourceError

CHUNK = 1024  # px; side of what is read at once, in whole blocks of the file
WARP_BLOCK = 128  # px; side of what is lost around an unreadable place if GDAL warps
LARGEST_BLOCK = 2048  # px; larger ones are read in parts
MAX_PIXELS = (
    2**42
)  # two million px a side, more than the land of the Earth at 10 m; a few bytes of a VRT state any size
MAX_SIDE = 2**24  # px, four times around the Earth at 10 m
LONGEST_PIXEL = 1e6
"""Times that one side of a pixel may be the other: more is damage."""

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
        [
            inspect(
                part,
                options.alpha,
                (*options.bands, *options.data_bands),
                allow_remote_references=options.allow_remote_references,
            )
            for part in scene
        ]
        for scene in list_scenes((uri, *options.scenes), options.assets)
    ]
    files = [file for scene in scenes for file in scene]
    first = scenes[0][0]
    named = "--green, --nir and --swir" if options.keep_ratios else "--bands"
    shown = (
        choose_bands(first, options.bands, named, every=options.all_bands)
        if len(scenes[0]) == 1
        else stacked_bands(scenes[0])
    )
    per_scene = len(scenes[0])
    bands_of = [shown.indexes if per_scene == 1 else (1,)] * per_scene
    for scene in scenes[1:]:
        own = scene[0]
        if len(scene) != per_scene or len(own.dtypes) < len(set(bands_of[0])):
            raise _differ(own, first)
        bands = bands_like(own, first, shown, options.bands) if per_scene == 1 else (1,)
        bands_of += [bands] * per_scene
        pairs = zip(scene, scenes[0], bands_of[-per_scene:], bands_of[:per_scene], strict=True)
        if any(_types(a, mine) != _types(b, theirs) for a, b, mine, theirs in pairs):
            raise _differ(own, first)
    if shown.is_palette:
        _check_palettes(files)
    files = with_nodata(files, bands_of, options.nodata)
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
    layers = [
        Layer(file, bands, place, _rescale(file, bands, files[i % per_scene], bands_of[i % per_scene]))
        for i, (file, bands, place) in enumerate(zip(files, bands_of, places, strict=True))
    ]
    made = [Scene(tuple(layers[i : i + per_scene])) for i in range(0, len(layers), per_scene)]
    stack = SceneStack(grid, tuple(made), options.pick)
    if options.pick == "best" and len(made) > 1:
        deep = [replace(scene, depth=measure_depth(stack, scene)) for scene in made]
        stack = SceneStack(grid, tuple(deep), options.pick)
    return stack, shown, files


def _differ(own: RasterFile, first: RasterFile) -> SourceError:
    return SourceError(
        f"{own.uri}: has bands {', '.join(own.dtypes)}, {first.uri} has {', '.join(first.dtypes)}; scenes that "
        "become one source need the same bands"
    )


def _types(file: RasterFile, bands: tuple[int, ...]) -> list[str]:
    return [file.dtypes[band - 1] for band in bands]


def _check_palettes(files: list[RasterFile]) -> None:
    """Raise SourceError if a file has another palette than the first."""
    first, *others = files
    for file in others:
        if file.colours[0] != first.colours[0] or not np.array_equal(palette_of(file), palette_of(first)):
            raise SourceError(
                f"{file.uri}: has another palette than {first.uri}; make both RGB first, with "
                "`gdal_translate -expand rgb`"
            )


def _rescale(
    file: RasterFile, bands: tuple[int, ...], first: RasterFile, first_bands: tuple[int, ...]
) -> tuple[tuple[float, float], ...]:
    """`Layer.rescale` for a file of a mosaic, of which ``first`` is the first scene's."""
    pairs = [
        (file.calibration[own - 1], first.calibration[other - 1])
        for own, other in zip(bands, first_bands, strict=True)
    ]
    if all(own == other for own, other in pairs):
        return ()
    return tuple((a / base, (b - shift) / base) for (a, b), (base, shift) in pairs)


def with_nodata(
    files: list[RasterFile], bands_of: list[tuple[int, ...]], asked: float | Literal["auto", "file"]
) -> list[RasterFile]:
    """Files with their nodata values: the user's, else the file's, else implicit nodata.

    What is nodata in one file of a mosaic is also nodata in the files that declare none, if it covers solid areas.
    """
    found = [_with_nodata(file, bands, asked) for file, bands in zip(files, bands_of, strict=True)]
    values = sorted({v for file in found for v in file.nodata if v is not None and not np.isnan(v)})
    if asked != "auto" or not values:
        return found
    return [
        file if (value := shared_nodata(file, bands, values)) is None else file.with_nodata(value, "implicit")
        for file, bands in zip(found, bands_of, strict=True)
    ]


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
    value, doubtful = find_nodata(file, bands)
    if doubtful is not None:
        return replace(file, doubtful_nodata=doubtful)
    return file if value is None else file.with_nodata(value, "implicit")


def palette_of(file: RasterFile) -> NDArray[np.uint8]:
    """The file's palette, uint8 (n, 3)."""
    with gdal(), rasterio.open(file.path) as dataset:
        colours = dataset.colormap(1)
    return np.array([colours.get(value, (0, 0, 0, 0))[:3] for value in range(max(colours) + 1)], np.uint8)


def sample_values(stack: SceneStack) -> NDArray[np.generic]:
    """Valid values from all over the source, (n_bands, n): of an overview, or of evenly spaced chunks."""
    level, chosen, share = sampled_blocks(stack.levels, *block_grid(stack))
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
    has_area = 0 < down < math.inf and 0 < right < math.inf and abs(transform.determinant) > 0
    if not has_area or max(down / right, right / down) > LONGEST_PIXEL:
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
    """Notes for the report about georeference and resampling."""
    first, notes = files[0], []
    if first.georeference == "gcps":
        notes.append(
            f"The file has {first.n_points} control points and no transform: resampled by a polynomial through them."
        )
    elif first.georeference == "rpcs":
        notes.append("The file is located by RPCs: resampled as if all ground were at height 0.")
    elif first.georeference == "none":
        notes.append("The file does not say where it is: coordinates are pixels, and areas are in pixels.")
    elif grid.crs is None:
        notes.append("The file states no CRS: its coordinates are kept, their unit is not known.")
    if grid.transform.b or grid.transform.d:
        axes = "its CRS" if grid.crs else "the axes of its coordinates"
        notes.append(f"The raster is rotated against {axes}; results keep its grid.")
    others = sorted({str(file.crs) for file in files} - {str(grid.crs)})
    if others and grid.crs:
        notes.append(f"Resampled to {grid.crs} from {', '.join(others)}.")
    return notes


def assumptions_on(files: list[RasterFile], options: RasterOptions) -> list[str]:
    """What was assumed where the files do not say, and the option that overrides it."""
    notes = []
    implicit = [file for file in files if file.nodata_origin == "implicit"]
    if implicit:
        values = " or ".join(sorted({f"{file.nodata_override:g}" for file in implicit}))
        notes.append(
            f"Pixels of {values} in all bands, which fill the corners or whole areas, were taken for no data, though "
            "the file does not declare it; --nodata file keeps them."
        )
    doubtful = {file.doubtful_nodata for file in files if file.doubtful_nodata is not None}
    for value in sorted(doubtful):
        notes.append(
            f"Pixels of {value:g} in all bands fill whole areas, and the file does not declare them as no data: they "
            f"were taken for data; --nodata {value:g} leaves them out."
        )
    as_data = next((file.opacity_as_data for file in files if file.opacity_as_data), None)
    if as_data and options.alpha == "auto":
        named = as_data in (*options.bands, *options.data_bands)
        why = "as it is named as one" if named else "as its values are not those of a mask"
        notes.append(
            f"Band {as_data} is marked as alpha but was taken for data, {why}; --alpha mask takes it for a mask."
        )
    alpha = next((file.alpha for file in files if file.alpha and file.georeference != "gcps"), None)
    if alpha and options.alpha == "auto":
        notes.append(f"Band {alpha} was taken for a mask (alpha); --alpha band takes it for data.")
    return notes
