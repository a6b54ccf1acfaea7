"""Labels of a finished run as a pyramidal OME-TIFF, which Fiji, QuPath, CellProfiler, napari and ilastik open."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from fewscope._version import __version__
from fewscope.connectors.results.store import ResultStore
from fewscope.connectors.storage.atomic import atomic_file
from fewscope.connectors.storage.digests import digest_of
from fewscope.connectors.storage.filesystem import output_errors
from fewscope.errors import ConfigError

TILE = 512
BLOCK_TILES = 16  # tiles of a row that are read at once: 16 MiB of labels
MAX_TOP_SIDE = 512
N_THREADS = 4  # that compress
BUFFER_BYTES = 64 * 2**20  # of tiles that wait for them
BIG_BYTES = 2**32 - 2**26
"""Size above which the 32-bit offsets of a classic TIFF may not do; what compression saves is not counted on."""

UNITS = {"micrometer": "µm", "metre": "m", "meter": "m"}
"""UDUNITS-2 name -> as OME-XML writes it."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The part of the working grid that is written, and its pyramid: each level half the one before, rounded up.

    Attributes
    ----------
    row, col, height, width
        In working pixels; ``row`` and ``col`` are whole pixels of the coarsest level.
    n_levels
        With the full resolution.
    """

    row: int
    col: int
    height: int
    width: int
    n_levels: int

    @classmethod
    def of(cls, shape: tuple[int, int], rows: tuple[int, int], cols: tuple[int, int]) -> Cut:
        """The part of a grid of ``shape`` that holds rows and columns (start, stop), at most a little larger.

        >>> Cut.of((3000, 5001), (1001, 2500), (0, 9000))
        Cut(row=992, col=0, height=1508, width=5001, n_levels=5)

        Raises
        ------
        ConfigError
            They lie outside.
        """
        (top, bottom), (left, right) = (
            (max(0, start), min(size, stop)) for (start, stop), size in zip((rows, cols), shape, strict=True)
        )
        if top >= bottom or left >= right:
            raise ConfigError("--box lies outside the result; give one that meets it")
        n_levels, side = 1, max(bottom - top, right - left)
        while side > MAX_TOP_SIDE:
            n_levels, side = n_levels + 1, -(-side // 2)
        step = 2 ** (n_levels - 1)
        top, left = top // step * step, left // step * step
        return cls(top, left, bottom - top, right - left, n_levels)

    def level(self, level: int) -> tuple[int, int, int, int]:
        """row, col, height, width in pixels of a level."""
        step = 2**level
        return self.row // step, self.col // step, -(-self.height // step), -(-self.width // step)


def write_label_tiff(
    uri: str,
    store: ResultStore,
    name: str,
    cut: Cut,
    wanted: NDArray[np.bool_] | None,
    max_value: int,
    advance: Callable[[int], object] = lambda n_tiles: None,
) -> None:
    """Write instance ids or the class map as an OME-TIFF, tile by tile; the same content gives the same bytes.

    Parameters
    ----------
    name
        "instances" or "semantic".
    wanted
        For each id 0..N whether its pixels are written, else 0; None: all.
    max_value
        Largest value there is, which decides about 8, 16 or 32 bits.
    advance
        Called with the number of tiles written.
    """
    dtype = np.min_scalar_type(max_value)
    n_bytes = sum(height * width for _, _, height, width in map(cut.level, range(cut.n_levels)))
    big = n_bytes * dtype.itemsize * 5 // 4 > BIG_BYTES
    options: dict[str, Any] = {
        "dtype": dtype,
        "tile": (TILE, TILE),
        "compression": "zlib",
        "photometric": "minisblack",
        "maxworkers": N_THREADS,
        "buffersize": BUFFER_BYTES,
    }
    with (
        output_errors(uri),
        atomic_file(uri) as path,
        tifffile.TiffWriter(path, bigtiff=big, ome=True) as tiff,
    ):
        for level in range(cut.n_levels):
            row, col, height, width = cut.level(level)
            blocks = _blocks(store, name, level, (row, col, height, width), wanted)
            tiff.write(
                _tiles(blocks, dtype, advance),
                shape=(height, width),
                subifds=0 if level else cut.n_levels - 1,
                subfiletype=1 if level else 0,
                metadata=None if level else _ome(store, name, cut, wanted),
                **options,
            )


def n_tiles(cut: Cut) -> int:
    """Tiles of all levels."""
    sizes = [cut.level(level)[2:] for level in range(cut.n_levels)]
    return sum(-(-height // TILE) * -(-width // TILE) for height, width in sizes)


def _ome(store: ResultStore, name: str, cut: Cut, wanted: NDArray[np.bool_] | None) -> dict[str, Any]:
    """The size of a pixel, where the part lies, and a UUID that only the same content has."""
    spec = store.spec
    chosen = "all" if wanted is None else digest_of(np.packbits(wanted).data)
    content = f"fewscope/{store.attributes.get('run')}/{name}/{cut}/{chosen}"
    values = ", ".join(f"{value} {text}" for value, text in enumerate(("background", *spec.class_names)))
    metadata: dict[str, Any] = {
        "axes": "YX",
        "Name": name,
        "Description": values if name == "semantic" else "ids of instances.parquet",
        "Creator": f"Fewscope {__version__}",
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_URL, content)),
    }
    unit = UNITS.get(spec.scale_unit or "")
    if unit:
        y, x = spec.scale
        metadata |= {
            "PhysicalSizeX": x,
            "PhysicalSizeXUnit": unit,
            "PhysicalSizeY": y,
            "PhysicalSizeYUnit": unit,
            "Plane": {
                "PositionX": cut.col * x,
                "PositionXUnit": unit,
                "PositionY": cut.row * y,
                "PositionYUnit": unit,
            },
        }
    return metadata


def _blocks(
    store: ResultStore,
    name: str,
    level: int,
    part: tuple[int, int, int, int],
    wanted: NDArray[np.bool_] | None,
) -> Iterator[NDArray[Any]]:
    """Parts of a level, one tile high and some tiles wide, row by row."""
    row, col, height, width = part
    ids = store.array("instances", level)
    values = store.array(name, level)
    for top in range(row, row + height, TILE):
        rows = slice(top, min(top + TILE, row + height))
        for left in range(col, col + width, BLOCK_TILES * TILE):
            cols = slice(left, min(left + BLOCK_TILES * TILE, col + width))
            block = _read(values, rows, cols)
            if wanted is not None:
                known = block if name == "instances" else _read(ids, rows, cols)
                block = np.where(wanted[known], block, 0)
            yield block


def _read(array: zarr.Array[Any], rows: slice, cols: slice) -> NDArray[Any]:
    return np.asarray(array[rows, cols])


def _tiles(
    blocks: Iterator[NDArray[Any]], dtype: np.dtype[Any], advance: Callable[[int], object]
) -> Iterator[NDArray[Any]]:
    """Whole tiles of blocks, zeros where they reach beyond."""
    for block in blocks:
        for left in range(0, block.shape[1], TILE):
            tile = np.zeros((TILE, TILE), dtype)
            piece = block[:, left : left + TILE]
            tile[: piece.shape[0], : piece.shape[1]] = piece
            yield tile
            advance(1)
