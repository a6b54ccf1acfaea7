"""Every pixel belongs to a tile and to exactly one unit; looking tiles up equals looking at all of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.windows import Window

from fewscope.pipeline.tiling.grid import TileGrid, Unit, default_shard, grid_shape, plan_units, read_window

SIDES = st.integers(1, 70)


@st.composite
def grids(draw: st.DrawFn) -> TileGrid:
    tile = draw(st.integers(1, 20))
    return TileGrid(draw(SIDES), draw(SIDES), tile, draw(st.integers(0, tile - 1)))


@st.composite
def grids_with_window(draw: st.DrawFn) -> tuple[TileGrid, Window]:
    grid = draw(grids())
    row, col = draw(st.integers(0, grid.height - 1)), draw(st.integers(0, grid.width - 1))
    height, width = draw(st.integers(1, grid.height - row)), draw(st.integers(1, grid.width - col))
    return grid, Window(col, row, width, height)


def test_a_line_of_tiles_by_hand() -> None:
    grid = TileGrid(height=10, width=23, tile=8, overlap=2)
    assert grid.rows.tolist() == [0, 2]  # 10 = one tile and 2 rows: the second is shifted inward from 6 to 2
    assert grid.cols.tolist() == [0, 6, 12, 15]
    assert grid.n_tiles == 8
    assert TileGrid(3, 8, tile=8, overlap=2).rows.tolist() == [0]  # smaller than a tile: one, reaching beyond


@pytest.mark.parametrize("overlap", range(8))
@pytest.mark.parametrize("length", [1, 7, 8, 9, 15, 16, 17, 40])
def test_every_pixel_is_covered_at_every_overlap(length: int, overlap: int) -> None:
    grid = TileGrid(length, 5, tile=8, overlap=overlap)
    covered = np.zeros(max(length, 8), int)
    for row in grid.rows:
        covered[row : row + 8] += 1
    assert (covered[:length] >= 1).all()
    assert grid.rows[-1] + 8 == max(length, 8)  # the last ends at the edge and never beyond it
    assert (np.diff(grid.rows) > 0).all()
    assert (np.diff(grid.rows) <= grid.stride).all()


@given(grids_with_window())
def test_tiles_touching_equals_looking_at_every_tile(case: tuple[TileGrid, Window]) -> None:
    grid, window = case
    expected = [
        (row, col)
        for row in grid.rows.tolist()
        for col in grid.cols.tolist()
        if row < window.row_off + window.height
        and row + grid.tile > window.row_off
        and col < window.col_off + window.width
        and col + grid.tile > window.col_off
    ]
    found = grid.tiles_touching(window)
    assert [(tile.row_off, tile.col_off) for tile in found] == expected
    assert all(type(tile.row_off) is int and type(tile.col_off) is int for tile in found)


@given(grids_with_window(), st.integers(0, 30))
def test_read_window_holds_every_tile_that_the_halo_needs(case: tuple[TileGrid, Window], halo: int) -> None:
    grid, core = case
    read = read_window(core, grid, halo)
    rows = [
        r for r in grid.rows if r < core.row_off + core.height + halo and r + grid.tile > core.row_off - halo
    ]
    cols = [
        c for c in grid.cols if c < core.col_off + core.width + halo and c + grid.tile > core.col_off - halo
    ]
    assert (read.row_off, read.col_off) == (rows[0], cols[0])
    assert (read.row_off + read.height, read.col_off + read.width) == (
        rows[-1] + grid.tile,
        cols[-1] + grid.tile,
    )


@given(SIDES, SIDES, st.integers(1, 30))
def test_units_are_a_partition_in_raster_order(height: int, width: int, side: int) -> None:
    units = plan_units(height, width, side)
    times = np.zeros((height, width), int)
    for unit in units:
        core = unit.core
        times[core.row_off : core.row_off + core.height, core.col_off : core.col_off + core.width] += 1
        assert (core.row_off, core.col_off) == (unit.grid_row * side, unit.grid_col * side)
    assert (times == 1).all()
    assert [unit.index for unit in units] == list(range(len(units)))
    assert [(u.grid_row, u.grid_col) for u in units] == sorted((u.grid_row, u.grid_col) for u in units)
    assert len({unit.name for unit in units}) == len(units)
    assert grid_shape(units) == (-(-height // side), -(-width // side))


def test_the_name_of_a_unit_is_its_place_and_size() -> None:
    assert Unit(3, 1, 0, Window(0, 4096, 1200, 4096)).name == "r004096_c000000_h4096_w1200"


def test_shards_grow_with_the_source() -> None:
    assert [default_shard(n, 5) for n in (2048, 2049, 16384, 16385)] == [1024, 2048, 2048, 4096]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((10, 10, 8, 8), "overlap 8 is not in 0..7"), ((0, 10, 8, 2), "0x10 px"), ((10, 10, 0, 0), "tile 0")],
)
def test_a_grid_without_stride_or_pixels_is_refused(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TileGrid(*arguments)


def test_a_window_beyond_the_source_is_refused() -> None:
    with pytest.raises(ValueError, match="not inside the source of 20x20 px; clip"):
        TileGrid(20, 20, 8, 2).tiles_touching(Window(15, 0, 8, 8))
