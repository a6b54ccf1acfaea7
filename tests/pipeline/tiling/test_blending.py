"""Blending neither adds nor loses probability, and does not know about units."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window

from fewscope.pipeline.tiling.blending import Blender, tile_weights, to_uint8
from fewscope.pipeline.tiling.grid import TileGrid, plan_units


def blend(
    grid: TileGrid, window: Window, tiles: dict[tuple[int, int], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    blender = Blender(window, tile_weights(grid.tile, grid.overlap))
    for tile in grid.tiles_touching(window):
        if (tile.row_off, tile.col_off) in tiles:
            blender.add(tile, tiles[tile.row_off, tile.col_off])
    return blender.result()


def whole(grid: TileGrid) -> Window:
    return Window(0, 0, grid.width, grid.height)


@pytest.mark.parametrize("overlap", [0, 1, 31, 32, 111, 112, 113, 223])
def test_weights_are_smooth_positive_and_separable(overlap: int) -> None:
    weight = tile_weights(224, overlap)
    assert weight.dtype == np.float32
    assert weight.shape == (224, 224)
    assert (weight > 0).all()
    assert weight.max() <= 1
    np.testing.assert_array_equal(weight, weight.T)
    np.testing.assert_array_equal(weight, weight[::-1])
    np.testing.assert_allclose(weight * weight[112, 112], np.outer(weight[:, 112], weight[112]), rtol=1e-6)
    if overlap:
        assert np.abs(np.diff(weight[112])).max() <= 0.5 * np.pi / min(overlap, 112) + 1e-6  # no cliff


@pytest.mark.parametrize("overlap", range(16))
def test_a_model_that_says_1_gives_exactly_1_at_every_overlap(overlap: int) -> None:
    grid = TileGrid(53, 41, tile=16, overlap=overlap)
    one = np.ones((16, 16), np.float32)
    tiles = {(tile.row_off, tile.col_off): one for tile in grid.tiles_touching(whole(grid))}
    probability, covered = blend(grid, whole(grid), tiles)
    assert covered.all()
    assert (probability == 1).all()
    assert (to_uint8(probability) == 255).all()


@given(st.integers(0, 15), st.sampled_from([8, 16, 24]), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_the_bytes_do_not_depend_on_the_units(overlap: int, unit: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = TileGrid(50, 70, tile=16, overlap=overlap)
    tiles = {  # a third of the tiles is left out, as background is
        (tile.row_off, tile.col_off): rng.random((16, 16), np.float32)
        for tile in grid.tiles_touching(whole(grid))
        if rng.random() > 0.3
    }
    probability, covered = blend(grid, whole(grid), tiles)
    assert probability.min() >= 0
    assert probability.max() <= 1
    for piece in plan_units(50, 70, unit):
        core = piece.core
        here = np.s_[core.row_off : core.row_off + core.height, core.col_off : core.col_off + core.width]
        of_unit, covered_by_unit = blend(grid, core, tiles)
        np.testing.assert_array_equal(of_unit, probability[here])
        np.testing.assert_array_equal(covered_by_unit, covered[here])


def test_blend_is_the_weighted_mean() -> None:
    grid = TileGrid(8, 12, tile=8, overlap=4)
    left, right = np.full((8, 8), 0.25, np.float32), np.full((8, 8), 0.75, np.float32)
    probability, _ = blend(grid, whole(grid), {(0, 0): left, (0, 4): right})
    weight = tile_weights(8, 4)[4].astype(float)
    expected = np.full(12, 0.25)
    expected[4:8] = (0.25 * weight[4:] + 0.75 * weight[:4]) / (weight[4:] + weight[:4])
    expected[8:] = 0.75
    np.testing.assert_allclose(probability, np.tile(expected, (8, 1)), rtol=1e-6)


def test_where_no_tile_was_laid_there_is_0_and_it_is_said() -> None:
    grid = TileGrid(8, 12, tile=8, overlap=4)
    probability, covered = blend(grid, whole(grid), {(0, 4): np.ones((8, 8), np.float32)})
    assert not covered[:, :4].any()
    assert covered[:, 4:].all()
    np.testing.assert_array_equal(probability, covered)


@pytest.mark.parametrize("maps", [(), (2,)])
def test_what_is_stored_is_the_blend_in_255ths(maps: tuple[int, ...]) -> None:
    grid = TileGrid(70, 50, tile=16, overlap=4)  # more rows than are made at once, and not a multiple of them
    blender = Blender(whole(grid), tile_weights(16, 4), *maps)
    rng = np.random.default_rng(0)
    for tile in list(grid.tiles_touching(whole(grid)))[::2]:
        blender.add(tile, rng.random((*maps, 16, 16), np.float32))
    probability, covered = blender.result()
    assert not covered.all()
    np.testing.assert_array_equal(blender.result_uint8(), to_uint8(probability))


def test_tiles_out_of_order_are_refused() -> None:
    blender = Blender(Window(0, 0, 12, 8), tile_weights(8, 4))
    blender.add(Window(4, 0, 8, 8), np.ones((8, 8), np.float32))
    with pytest.raises(ValueError, match="raster order"):
        blender.add(Window(0, 0, 8, 8), np.ones((8, 8), np.float32))


def test_a_tile_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(8, 7\)"):
        Blender(Window(0, 0, 12, 8), tile_weights(8, 4)).add(Window(0, 0, 8, 8), np.ones((8, 7), np.float32))


def test_to_uint8_keeps_the_ends_and_the_order() -> None:
    steps = np.linspace(0, 1, 511, dtype=np.float32)
    stored = to_uint8(steps)
    assert (stored[0], stored[-1]) == (0, 255)
    assert (np.diff(stored.astype(int)) >= 0).all()
    np.testing.assert_allclose(stored / 255, steps, atol=0.5 / 255 + 1e-6)
