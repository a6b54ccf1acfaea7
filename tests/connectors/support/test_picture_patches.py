"""Pictures larger than a patch: all that is labelled is used, each pixel once, and never more than a few patches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.connectors.photographs import load_photograph_support
from fewscope.connectors.support.load import load_support
from fewscope.connectors.support.picture_patches import SPARE, cut_patches, starts_of
from fewscope.connectors.support.pictures import Labelled, Picture, PictureFolder
from fewscope.connectors.support.support_set import MAX_PATCHES
from fewscope.errors import SupportError
from tests.helpers.support_folders import disc, photo, save_pair


def place(name: str) -> tuple[int, int]:
    """Row and column of a patch that is called "a.png at (144, 288)"."""
    row, col = name[name.index("(") + 1 : -1].split(", ")
    return int(row), int(col)


@given(st.integers(1, 4096))
def test_patches_lie_within_the_side_and_leave_out_hardly_anything(side):
    starts = starts_of(side)
    if side >= 224:
        assert starts[0] >= 0
        assert starts[-1] + 224 <= side
        covered = np.zeros(side, bool)
        for start in starts:
            covered[start : start + 224] = True
        left_out = np.flatnonzero(~covered)
        assert len(left_out) <= SPARE
        assert not ((left_out > SPARE // 2) & (left_out < side - SPARE // 2 - 1)).any()
        gaps = np.diff(starts)
        assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
    else:
        assert starts == [-((224 - side) // 2)]


def numbers_of(height: int, width: int) -> np.ndarray:
    """(H, W) int32: squares of 20 px in a grid of 32, numbered."""
    row, col = np.mgrid[:height, :width]
    inside = (row % 32 < 20) & (col % 32 < 20)
    return np.where(inside, 1 + row // 32 * (width // 32 + 1) + col // 32, 0).astype(np.int32)


@pytest.mark.parametrize("size", [(512, 512), (300, 700), (224, 449), (1000, 257), (470, 300)])
def test_every_pixel_is_labelled_in_one_patch(tmp_path, size):
    numbers = numbers_of(*size)
    save_pair(tmp_path, "a", photo(*size), (numbers > 0).astype(np.uint8))
    Image.fromarray(numbers.astype(np.uint16)).save(tmp_path / "label" / "a.inst.png")
    support = load_support(str(tmp_path))
    times = np.zeros(size, int)
    for image, labels, objects, name in zip(
        support.images, support.labels, support.instances, support.names, strict=True
    ):
        row, col = place(name)
        window = np.s_[row : row + 224, col : col + 224]
        known = labels != IGNORE_LABEL
        assert np.array_equal(image, photo(*size)[window])
        assert np.array_equal(labels[known], (numbers > 0)[window][known])
        assert np.array_equal(objects, np.where(known, numbers[window], 0))
        times[window] += known
    assert times.max() == 1
    assert times.sum() >= (min(size[0], size[0] - SPARE + 31) - SPARE) * (size[1] - SPARE)
    if all(side % 224 > SPARE or side % 224 == 0 for side in size):
        assert (times == 1).all()
    assert support.notes == ()


def test_neighbours_share_what_overlaps_evenly(tmp_path):
    save_pair(tmp_path, "a", photo(224, 400), disc(224, 400))
    support = load_support(str(tmp_path))
    assert support.names == ("a.png at (0, 0)", "a.png at (0, 176)")
    assert ((support.labels != IGNORE_LABEL).sum(axis=(1, 2)) == 200 * 224).all()


def folder_of(sizes: list[tuple[int, int]], n_objects: list[int]) -> PictureFolder:
    """Pictures whose first objects are in their first patches."""

    def read(size: tuple[int, int], n: int):
        labels = np.zeros(size, np.uint8)
        corners = [(row, col) for row in starts_of(size[0]) for col in starts_of(size[1])]
        for row, col in corners[:n]:
            labels[row + 100 : row + 120, col + 100 : col + 120] = 1
        return lambda: Labelled(np.zeros((*size, 3), np.uint8), labels, None)

    pictures = [
        Picture(f"{k}.png", f"{k}", read(size, n))
        for k, (size, n) in enumerate(zip(sizes, n_objects, strict=True))
    ]
    return PictureFolder("five", pictures, ("cell",), 0.5)


def test_of_many_patches_those_with_objects_are_kept_evenly():
    support = cut_patches(folder_of([(1120, 1120)] * 4, [25, 25, 2, 0]))
    assert len(support.names) == MAX_PATCHES
    holds = (support.labels == 1).any(axis=(1, 2))
    of_picture = np.array([int(name[0]) for name in support.names])
    assert np.bincount(of_picture, minlength=4).tolist() == [15, 14, 2, 1]
    assert holds.sum() == 31
    assert support.notes == (
        "five: its 4 pictures are split into 100 patches of 224 px; 32 of them are learned from, those with "
        "objects first.",
    )


def test_patches_that_are_kept_of_a_picture_lie_apart():
    support = cut_patches(folder_of([(4032, 4032)], [324]))
    places = np.array([place(name) for name in support.names], float)
    apart = np.sqrt(((places[:, None] - places) ** 2).sum(-1)) + 1e9 * np.eye(len(places))
    assert apart.min() >= 2 * 224


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 700), st.integers(1, 700), st.integers(0, 9)), min_size=1, max_size=45)
)
def test_each_picture_gives_a_patch_and_all_together_at_most_a_few(pictures):
    with_one = [(224, 224, 1), *pictures]  # at least one object and background
    support = cut_patches(folder_of([p[:2] for p in with_one], [p[2] for p in with_one]))
    assert len(support.names) <= max(MAX_PATCHES, len(with_one))
    assert {int(name.partition(".")[0]) for name in support.names} == set(range(len(with_one)))


def test_patches_of_a_picture_are_held_out_together():
    support = cut_patches(folder_of([(300, 300), (224, 224)], [4, 1]))
    assert support.pictures == support.of_class(1).pictures == (0, 0, 0, 0, 1)
    assert support.digest() != replace(support, pictures=()).digest()
    assert cut_patches(folder_of([(224, 224)] * 2, [1, 1])).pictures == ()
    with pytest.raises(SupportError, match="expected 5"):
        replace(support, pictures=(0, 1))


def test_pictures_of_a_patch_are_all_kept():
    assert len(cut_patches(folder_of([(224, 224)] * 50, [1] * 50)).names) == 50


def test_photographs_are_resized_and_not_split(tmp_path):
    save_pair(tmp_path, "a", photo(1024, 768), disc(1024, 768))
    assert load_photograph_support(tmp_path).names == ("a.png",)
