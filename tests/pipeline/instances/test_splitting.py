"""Touching objects come apart, the same for every cut into units; single convex ones stay whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window
from scipy import ndimage

from fewscope.pipeline.instances import splitting
from fewscope.pipeline.instances.labelling import label_core
from fewscope.pipeline.instances.split_rules import SplitRule
from fewscope.pipeline.instances.splitting import split_core
from fewscope.pipeline.tiling.grid import plan_units
from tests.helpers.splitting import in_units, whole

RULE = SplitRule(radius=3)


def ellipse(
    shape: tuple[int, int], centre: tuple[float, float], axes: tuple[float, float], angle: float
) -> np.ndarray:
    rows, cols = np.indices(shape)
    down, right = rows - centre[0], cols - centre[1]
    along = np.cos(angle) * right + np.sin(angle) * down
    aside = np.cos(angle) * down - np.sin(angle) * right
    return (along / axes[0]) ** 2 + (aside / axes[1]) ** 2 <= 1


def touching_discs(seed: int, n: int, radius: float, shape: tuple[int, int]) -> tuple[np.ndarray, int]:
    """Crowded discs of about one radius that overlap by up to a quarter of a diameter; and how many."""
    rng = np.random.default_rng(seed)
    centres: list[np.ndarray] = []
    while len(centres) < n:
        centre = rng.uniform(radius, np.array(shape) - radius)
        if all(np.hypot(*(centre - other)) > 1.5 * radius for other in centres):
            centres.append(centre)
    mask = np.zeros(shape, bool)
    for row, col in centres:
        size = radius * rng.uniform(0.9, 1.1)
        mask |= ellipse(shape, (row, col), (size, size), 0)
    return mask, n


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 50),
    smooth=st.sampled_from([0, 1, 2, 4]),
    density=st.sampled_from([0.2, 0.5, 0.6, 0.9, 1.0]),
    side=st.sampled_from([8, 16, 24]),
    rule=st.sampled_from([RULE, SplitRule(2, connectivity=1), SplitRule(1), SplitRule(6)]),
    block=st.sampled_from([5, 512]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=15)
def test_units_equal_the_whole_image(
    height: int, width: int, smooth: int, density: float, side: int, rule: SplitRule, block: int, seed: int
) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random((height, width)), smooth)
    mask = noise <= np.quantile(noise, density)
    expected = whole(mask, rule)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitting, "plan_units", lambda height, width, _: plan_units(height, width, block))
        np.testing.assert_array_equal(in_units(mask, side, rule), expected)

    # And the objects are a partition of the mask, within its components, numbered in raster order.
    np.testing.assert_array_equal(expected > 0, mask)
    components, n_components = label_core(mask, rule.connectivity)
    pairs = np.unique(np.stack([components[mask], expected[mask]]), axis=1)
    assert len(np.unique(pairs[1])) == pairs.shape[1], "an object lies in two components"
    assert len(np.unique(pairs[0])) == n_components, "a component was lost"
    values, first = np.unique(expected[mask], return_index=True)
    assert values.tolist() == list(range(1, len(values) + 1))
    assert (np.diff(first) > 0).all()


def test_a_field_of_touching_discs_is_counted() -> None:
    mask, n = touching_discs(1, 100, 6, (140, 150))
    components = label_core(mask)[1]
    counted = int(in_units(mask, 64, SplitRule(6)).max())
    assert components < 0.5 * n  # a hard field for components
    assert abs(counted - n) <= 0.05 * n


@pytest.mark.parametrize("radius", [4, 8, 16])
def test_two_discs_come_apart_in_the_middle(radius: int) -> None:
    shape = (3 * radius, 6 * radius)
    left = ellipse(shape, (1.5 * radius, 2 * radius), (radius, radius), 0)
    right = ellipse(shape, (1.5 * radius, 3.7 * radius), (radius, radius), 0)
    labels = whole(left | right, SplitRule(radius))
    assert labels.max() == 2
    for disc in (left, right):
        area = np.bincount(labels[disc], minlength=3)[1:]
        assert area.max() >= 0.9 * disc.sum()


@pytest.mark.parametrize("radius", [2, 5, 9])
def test_single_convex_objects_stay_whole(radius: int) -> None:
    rng = np.random.default_rng(radius)
    pitch = 7 * radius
    mask = np.zeros((3 * pitch, 4 * pitch), bool)
    for number in range(12):
        row, col = (number // 4 + 0.5) * pitch, (number % 4 + 0.5) * pitch
        short = radius * rng.uniform(0.6, 1.4)
        mask |= ellipse(mask.shape, (row, col), (short * rng.uniform(1, 2.2), short), rng.uniform(0, np.pi))
    components, n = label_core(mask)
    assert n == 12
    np.testing.assert_array_equal(whole(mask, SplitRule(radius)), components)


def test_an_object_much_larger_than_the_rule_stays_whole() -> None:
    """Its height is flat in the middle: no summit is in sight of most of its pixels."""
    mask = ellipse((130, 130), (65, 65), (60, 60), 0)
    assert in_units(mask, 48, RULE).max() == 1


def test_an_object_cut_by_the_edge_of_the_source_is_one() -> None:
    for centre in ((0, 20), (20, 39), (2, 2)):
        mask = ellipse((40, 40), centre, (8, 8), 0)
        assert whole(mask, SplitRule(8)).max() == 1


def test_heights_are_the_euclidean_distance() -> None:
    mask = np.random.default_rng(0).random((40, 50)) < 0.97
    rule = SplitRule(4)
    around = rule.reach + rule.n_smoothings
    distance = np.minimum(ndimage.distance_transform_edt(mask), rule.reach)
    kernel = np.array([1, 2, 1]) / 4
    for _ in range(rule.n_smoothings):
        distance = ndimage.correlate1d(ndimage.correlate1d(distance, kernel, 0), kernel, 1)
    inner = np.s_[around:-around, around:-around]
    np.testing.assert_allclose(rule.heights(mask) / 64, distance[inner], atol=2 / 64)


def test_a_mask_without_its_halo_is_refused() -> None:
    core = Window(20, 20, 10, 10)
    with pytest.raises(ValueError, match=f"does not reach {RULE.halo} px beyond"):
        split_core(np.zeros((10, 10), bool), core, core, (100, 100), RULE)


@pytest.mark.parametrize("radius", [0.5, 81, float("nan")])
def test_a_radius_out_of_range_is_refused(radius: float) -> None:
    with pytest.raises(ValueError, match=r"not in 1\.\.80"):
        SplitRule(radius)
