"""Cache of predicted tiles on the borders of units, in the working folder.

With 32 px of overlap and the halo for separating objects, a unit of 2048 px shares a quarter of its tiles with its
neighbours. Units do not wait for each other: two that run at once may both predict a tile, with the same result. A
cached tile changes the time, never the output.
"""

from __future__ import annotations

import numpy as np
from rasterio.windows import Window

from fewscope.connectors.results.run_folder import WorkDir
from fewscope.pipeline.tiling.grid import TileGrid, Unit, grow


class TileCache:
    """The tiles that one unit shares with others.

    Parameters
    ----------
    work : WorkDir
        Working folder; on other than a local disk nothing is cached, as reading a file takes longer than a
        tile.
    unit, units : Unit, tuple[Unit, ...]
        The unit, and all units of the source.
    grid : TileGrid
        Tile grid of the source.
    halo : int
        Width of the border around a unit that it predicts too, px.
    """

    def __init__(self, work: WorkDir, unit: Unit, units: tuple[Unit, ...], grid: TileGrid, halo: int) -> None:
        self._work = work
        self._needed_by: dict[str, list[str]] = {}  # name of a tile -> names of the other units
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
        """Maps of a tile, float32 of the given shape; None if no other unit has stored them."""
        if _name(tile) not in self._needed_by:
            return None
        maps = self._work.find_kept(_name(tile))
        return maps if maps is not None and maps.shape == shape and maps.dtype == np.float32 else None

    def put(self, tile: Window, maps: np.ndarray) -> None:
        """Store the maps of a tile if another unit still needs them."""
        if not self._done.issuperset(self._needed_by.get(_name(tile), ())):
            self._work.keep_array(_name(tile), maps)

    def evict(self) -> None:
        """Remove tiles that no unit needs any more. Call it after the done-marker of the unit was written."""
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
