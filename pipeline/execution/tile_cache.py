"""Tiles on the border of units: whoever comes first predicts them, and the others find them in the working folder.

With 32 px of overlap, and the halo that touching objects need, a unit of 2048 px has a quarter of its tiles in common
with its neighbours. Nobody waits for anybody: two units at work at once may both predict a tile, and get the same
numbers. So whether a tile was found or predicted shows in the time, and nowhere else.
"""

from __future__ import annotations

import numpy as np
from rasterio.windows import Window

from fewscope.connectors.results.run_folder import WorkDir
from fewscope.pipeline.tiling.grid import TileGrid, Unit, grow


class TileCache:
    """The tiles that a unit has in common with others.

    Parameters
    ----------
    work : of the run; where it is not a local disk, nothing is shared: a file there takes longer than a tile
    unit, units : the unit, and all of the source
    grid : of the source
    halo : pixels around a unit that it predicts too
    """

    def __init__(self, work: WorkDir, unit: Unit, units: tuple[Unit, ...], grid: TileGrid, halo: int) -> None:
        self._work = work
        self._needed_by: dict[str, list[str]] = {}  # a tile -> the other units
        self._done: set[str] = set()
        if len(units) < 2 or not work.is_local:
            return

        def reach(of: Unit) -> Window:
            return grow(of.core, halo, grid.height, grid.width)

        around = grow(unit.core, halo + grid.tile, grid.height, grid.width)
        others = [(other.name, reach(other)) for other in units if other != unit]
        others = [(name, window) for name, window in others if _intersect(window, around)]
        for tile in grid.tiles_touching(reach(unit)):
            if names := [name for name, window in others if _intersect(window, tile)]:
                self._needed_by[_name(tile)] = names
        self._done = {name for name, _ in others if work.is_done(name)}

    def get(self, tile: Window, shape: tuple[int, ...]) -> np.ndarray | None:
        """The maps of a tile, float32 of a shape, if another unit has left them."""
        if _name(tile) not in self._needed_by:
            return None
        maps = self._work.find_kept(_name(tile))
        return maps if maps is not None and maps.shape == shape and maps.dtype == np.float32 else None

    def put(self, tile: Window, maps: np.ndarray) -> None:
        """Leave what was predicted for the units that have yet to come by."""
        if not self._done.issuperset(self._needed_by.get(_name(tile), ())):
            self._work.keep_array(_name(tile), maps)

    def evict(self) -> None:
        """Remove what no unit needs any more; to be called when this unit is marked as done."""
        others = {name for names in self._needed_by.values() for name in names}
        done = {name for name in others if self._work.is_done(name)}
        for tile, names in self._needed_by.items():
            if done.issuperset(names):
                self._work.drop_kept(tile)


def _intersect(one: Window, other: Window) -> bool:
    return bool(
        one.row_off < other.row_off + other.height
        and other.row_off < one.row_off + one.height
        and one.col_off < other.col_off + other.width
        and other.col_off < one.col_off + one.width
    )


def _name(tile: Window) -> str:
    return f"r{tile.row_off:06d}_c{tile.col_off:06d}"
