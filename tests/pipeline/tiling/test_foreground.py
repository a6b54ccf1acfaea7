"""Tissue is never lost, glass is mostly skipped, and when in doubt everything is computed."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.windows import Window

from fewscope.pipeline.tiling.foreground import find_foreground, foreground_mask, touches_mask

SIDE = 200


def slide(
    ground: tuple[int, int, int], tissue: tuple[int, int, int], noise: float = 1.5
) -> tuple[np.ndarray, np.ndarray]:
    """A noisy overview with a round piece of tissue and a lone speck, and where they are."""
    rng = np.random.default_rng(0)
    rows, cols = np.indices((SIDE, SIDE))
    where = (rows - 90) ** 2 + (cols - 80) ** 2 < 45**2
    where[170:172, 170:172] = True
    picture = np.where(where[..., None], tissue, ground) + rng.normal(0, noise, (SIDE, SIDE, 3))
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), where


def everywhere() -> np.ndarray:
    return np.ones((SIDE, SIDE), bool)


@pytest.mark.parametrize(
    ("ground", "tissue"),
    [
        ((243, 243, 243), (195, 130, 167)),  # H&E
        ((243, 243, 243), (240, 225, 235)),  # the palest eosin
        ((220, 212, 205), (190, 160, 120)),  # yellow light, DAB
        ((255, 255, 255), (235, 235, 235)),  # unstained
        ((243, 243, 243), (10, 10, 10)),  # ink on glass
        ((5, 5, 8), (5, 5, 60)),  # DAPI
        ((0, 0, 0), (14, 14, 14)),  # dim fluorescence
    ],
)
def test_tissue_is_kept_and_ground_is_skipped(
    ground: tuple[int, int, int], tissue: tuple[int, int, int]
) -> None:
    image, where = slide(ground, tissue)
    found = foreground_mask(image, everywhere())
    assert found[where].all(), f"{(~found[where]).sum()} px of tissue were lost"
    assert found[~where].mean() < 0.15
    assert not found[:20, 150:].any()


def test_glass_that_was_not_scanned_does_not_hide_what_glass_is() -> None:
    image, where = slide((238, 236, 237), (225, 205, 215))
    image[:, 150:165] = 255
    found = foreground_mask(image, everywhere())
    assert found[where].all()
    assert not found[:20].any()


@pytest.mark.parametrize("colour", [(190, 100, 150), (120, 80, 60)])
def test_a_picture_full_of_tissue_is_kept_whole(colour: tuple[int, int, int]) -> None:
    image = np.full((SIDE, SIDE, 3), colour, np.uint8)
    image[:60, :80] = (20, 15, 15)  # pigment is not the dark of a fluorescence slide
    assert foreground_mask(image, everywhere()).all()


@pytest.mark.parametrize("level", [0, 30, 240, 255])
def test_nothing_but_ground_is_computed_rather_than_guessed(level: int) -> None:
    assert foreground_mask(np.full((SIDE, SIDE, 3), level, np.uint8), everywhere()).all()


def test_what_is_not_valid_is_neither_foreground_nor_ground() -> None:
    image, where = slide((243, 243, 243), (195, 130, 167))
    valid = everywhere()
    valid[:, 100:] = False
    image[:, 100:] = 0
    found = foreground_mask(image, valid)
    assert not found[~valid].any()
    assert found[where & valid].all()
    assert found.mean() < 0.3
    assert not foreground_mask(image, np.zeros_like(valid)).any()


def test_a_raster_is_computed_where_it_is_valid() -> None:
    image, _ = slide((243, 243, 243), (195, 130, 167))
    valid = everywhere()
    valid[:10] = False
    np.testing.assert_array_equal(foreground_mask(image, valid, "raster"), valid)


@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(0, 2**32 - 1),
    st.data(),
)
def test_a_window_touches_what_lies_in_it(
    height: int, width: int, n_rows: int, n_cols: int, seed: int, data: st.DataObject
) -> None:
    n_rows, n_cols = min(n_rows, height), min(n_cols, width)
    mask = np.random.default_rng(seed).random((n_rows, n_cols)) < 0.2
    row, col = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    tall, wide = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    bottom, right = min(row + tall, height), min(col + wide, width)
    expected = any(
        Fraction(i * height, n_rows) < bottom
        and Fraction((i + 1) * height, n_rows) > row
        and Fraction(j * width, n_cols) < right
        and Fraction((j + 1) * width, n_cols) > col
        for i, j in zip(*np.nonzero(mask), strict=True)
    )
    assert touches_mask(mask, Window(col, row, wide, tall), (height, width)) == expected


def test_a_window_beyond_the_source_touches_nothing() -> None:
    assert not touches_mask(np.ones((4, 4), bool), Window(50, 0, 8, 8), (40, 40))


def test_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"valid \(3, 3\) do not fit"):
        foreground_mask(np.zeros((4, 4, 3), np.uint8), np.ones((3, 3), bool))
    with pytest.raises(ValueError, match='kind "scan"'):
        foreground_mask(np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), bool), "scan")


def test_a_white_vacuole_in_tissue_is_not_left_out_and_glass_is() -> None:
    """2000 x 2000 px shrunk tenfold: a hole of one tile is filled, one of twenty tiles and the glass around are not."""
    overview = np.full((200, 200, 3), 245, np.uint8)
    overview[20:180, 20:180] = (170, 90, 150)
    overview[40:62, 40:62] = 245  # 220 px
    overview[80:180, 80:170] = 245  # 1000 px, open to nothing
    overview[178:180] = (170, 90, 150)
    valid = np.ones((200, 200), bool)
    found = find_foreground(overview, valid, [], (2000, 2000), "auto").mask
    assert found[40:62, 40:62].all()
    assert not found[120:140, 115:135].any()
    assert not found[:5].any()
