"""Labels of the image in units are the labels of the whole image, numbered in raster order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fewscope.pipeline.instances.labelling import Borders, Merge, label_core, merge_labels, seam_pairs
from fewscope.pipeline.tiling.grid import plan_units


def in_raster_order(mask: np.ndarray, connectivity: int, min_area: int = 0) -> np.ndarray:
    """The truth: scipy on the whole image, small objects dropped, the rest numbered by first pixel."""
    labels, _ = ndimage.label(mask, ndimage.generate_binary_structure(2, connectivity))
    labels[np.bincount(labels.ravel())[labels] < min_area] = 0
    values, first = np.unique(labels, return_index=True)
    values, first = values[values > 0], first[values > 0]
    number = np.zeros(labels.max() + 1, np.int64)
    number[values[np.argsort(first)]] = np.arange(1, len(values) + 1)
    return number[labels]


def in_units(mask: np.ndarray, unit: int, connectivity: int, min_area: int = 0) -> tuple[np.ndarray, Merge]:
    """The program's way: label cores, read the seams, merge, relabel."""
    units = plan_units(*mask.shape, unit)
    labels, borders, n_labels, first, area = [], [], [], [], []
    index = np.arange(mask.size).reshape(mask.shape)
    for piece in units:
        here = piece.core.toslices()
        of_unit, n = label_core(mask[here], connectivity)
        labels.append(of_unit)
        n_labels.append(n)
        borders.append(Borders.of(of_unit) if n else None)
        numbers = np.arange(1, n + 1)
        first.append(np.asarray(ndimage.minimum(index[here], of_unit, numbers), np.int64).reshape(n))
        area.append(np.bincount(of_unit.ravel(), minlength=n + 1)[1:])
    pairs = seam_pairs(units, borders, n_labels, connectivity)
    merge = merge_labels(n_labels, pairs, first, area, min_area)
    result = np.zeros(mask.shape, np.int64)
    for piece in units:
        result[piece.core.toslices()] = merge.lookup(piece.index)[labels[piece.index]]
    return result, merge


def spiral(side: int) -> np.ndarray:
    """A line one pixel wide that winds inward; it and its background both cross every unit."""
    mask = np.zeros((side, side), bool)
    row, col, step = 0, 0, (0, 1)
    mask[0, 0] = True
    for length in [side - 1] + [n for n in range(side - 1, 1, -2) for _ in range(2)]:
        for _ in range(length):
            row, col = row + step[0], col + step[1]
            mask[row, col] = True
        step = (step[1], -step[0])
    return mask


def snake(height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[::2] = True
    mask[1::4, -1] = True
    mask[3::4, 0] = True
    return mask


def diagonals(height: int, width: int) -> np.ndarray:
    rows, cols = np.mgrid[:height, :width]
    return ((rows + cols) % 4 == 0) | ((rows - cols) % 12 == 0)


MASKS = {
    "empty": np.zeros((50, 70), bool),
    "full": np.ones((50, 70), bool),
    "spiral": spiral(50),
    "not spiral": ~spiral(50),
    "snake": snake(50, 70),
    "diagonals": diagonals(50, 70),
    "one pixel": np.ones((1, 1), bool),
    "one row": snake(1, 70),
    "checkers": np.indices((50, 70)).sum(0) % 2 == 0,
}


@pytest.mark.parametrize("connectivity", [1, 2])
@pytest.mark.parametrize("unit", [8, 16, 24, 80])
@pytest.mark.parametrize("name", MASKS)
def test_shapes_over_many_units(name: str, unit: int, connectivity: int) -> None:
    result, _ = in_units(MASKS[name], unit, connectivity)
    np.testing.assert_array_equal(result, in_raster_order(MASKS[name], connectivity))


@pytest.mark.slow
@given(
    height=st.integers(1, 50),
    width=st.integers(1, 70),
    density=st.sampled_from([0.02, 0.1, 0.3, 0.41, 0.5, 0.59, 0.7, 0.95]),  # 0.59, 0.41: where clusters span
    unit=st.sampled_from([1, 3, 8, 16, 24]),
    connectivity=st.sampled_from([1, 2]),
    min_area=st.sampled_from([0, 2, 9]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_units_equal_the_whole_image(
    height: int, width: int, density: float, unit: int, connectivity: int, min_area: int, seed: int
) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < density
    result, merge = in_units(mask, unit, connectivity, min_area)
    np.testing.assert_array_equal(result, in_raster_order(mask, connectivity, min_area))
    assert merge.n_instances == result.max(initial=0)
    assert len(merge.shared) == merge.n_instances + 1
    all_objects = in_raster_order(mask, connectivity)
    assert merge.n_dropped == all_objects.max(initial=0) - merge.n_instances
    assert merge.dropped_px == np.count_nonzero(all_objects) - np.count_nonzero(result)


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([0.1, 0.3, 0.6]),
    st.sampled_from([1, 2]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=200)
def test_a_core_of_any_size_is_labelled_in_raster_order(
    height: int, width: int, density: float, connectivity: int, seed: int
) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < density
    labels, n = label_core(mask, connectivity)
    assert labels.dtype == np.uint32
    assert n == labels.max()
    np.testing.assert_array_equal(labels, in_raster_order(mask, connectivity))


@pytest.mark.parametrize("connectivity", [1, 2])
def test_the_corner_where_four_units_meet(connectivity: int) -> None:
    for falling in (True, False):
        mask = np.zeros((4, 4), bool)
        mask[1, 1 if falling else 2] = mask[2, 2 if falling else 1] = True
        result, merge = in_units(mask, 2, connectivity)
        assert result.max() == (1 if connectivity == 2 else 2)
        assert merge.shared.any() == (connectivity == 2)


def test_shared_says_which_objects_lie_in_several_units() -> None:
    mask = np.zeros((4, 8), bool)
    mask[0, 0] = mask[1, 3:5] = mask[3, 7] = True
    _, merge = in_units(mask, 4, 2)
    assert merge.shared.tolist() == [False, False, True, False]


def test_links_say_which_contacts_join() -> None:
    units = plan_units(2, 2, 1)
    labels = [np.ones((1, 1), np.uint32)] * 4
    nothing, straight = np.zeros((3, 1), bool), np.array([[False], [True], [False]])
    borders = [Borders.of(of_unit, down=nothing, across=straight) for of_unit in labels]
    assert seam_pairs(units, borders, [1] * 4).tolist() == [[0, 1], [2, 3]]


def test_borders_survive_a_file() -> None:
    labels = np.arange(12, dtype=np.uint32).reshape(3, 4)
    again = Borders(**Borders.of(labels).arrays())
    assert again.top.tolist() == [0, 1, 2, 3]
    assert again.bottom.tolist() == [8, 9, 10, 11]
    assert again.left.tolist() == [0, 4, 8]
    assert again.right.tolist() == [3, 7, 11]
    assert again.down is None


def test_numbers_do_not_follow_the_order_of_units() -> None:
    mask = np.zeros((8, 16), bool)
    mask[5, 2] = mask[1, 12] = True  # the left unit's object comes later in raster order
    result, _ = in_units(mask, 8, 2)
    assert (result[1, 12], result[5, 2]) == (1, 2)


def test_nothing_at_all() -> None:
    merge = merge_labels([0, 0], np.zeros((0, 2), np.int64), [], [])
    assert merge.n_instances == 0
    assert merge.lookup(1).tolist() == [0]


def test_a_unit_that_lost_its_borders_is_named() -> None:
    with pytest.raises(ValueError, match="r000000_c000001_h1_w1 has 3 labels and no borders"):
        seam_pairs(plan_units(1, 2, 1), [None, None], [0, 3])


def test_a_missing_area_is_noticed() -> None:
    with pytest.raises(ValueError, match="1 values of area for 2 labels"):
        merge_labels([2], np.zeros((0, 2), np.int64), [np.array([0, 5])], [np.array([1])])


def test_connectivity_as_cc3d_counts_it_is_refused() -> None:
    with pytest.raises(ValueError, match="connectivity 8"):
        label_core(np.ones((2, 2), bool), 8)
