"""Touching objects separated by learned depth: where shape fails, and the same for every cut into units."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window
from scipy import ndimage

from fewscope.pipeline.instances import splitting
from fewscope.pipeline.instances.labelling import label_core
from fewscope.pipeline.instances.split_rules import DepthRule, SplitRule
from fewscope.pipeline.instances.splitting import split_core
from fewscope.pipeline.tiling.grid import plan_units
from tests.helpers.crowds import crowd
from tests.helpers.splitting import in_units, whole


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 50),
    smooth=st.sampled_from([0, 1, 2]),
    density=st.sampled_from([0.3, 0.6, 0.9, 1.0]),
    side=st.sampled_from([8, 16, 24]),
    rule=st.sampled_from(
        [DepthRule(3, 0.1), DepthRule(2, 0.02, connectivity=1), DepthRule(1, 0.3), DepthRule(7, 0.05)]
    ),
    block=st.sampled_from([5, 512]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=20)
def test_units_equal_the_whole_image(height, width, smooth, density, side, rule, block, seed):
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.random((height, width)), smooth)
    mask = noise <= np.quantile(noise, density)
    relief = ndimage.gaussian_filter(rng.random((height, width)), smooth)
    depth = np.rint(255 * (relief - relief.min()) / max(np.ptp(relief), 1e-9)).astype(np.uint8)
    expected = whole(mask, rule, depth)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitting, "plan_units", lambda height, width, _: plan_units(height, width, block))
        np.testing.assert_array_equal(in_units(mask, side, rule, depth), expected)
    # the objects are a partition of the mask, within its components
    np.testing.assert_array_equal(expected > 0, mask)
    components, n_components = label_core(mask, rule.connectivity)
    pairs = np.unique(np.stack([components[mask], expected[mask]]), axis=1)
    assert len(np.unique(pairs[1])) == pairs.shape[1], "an object lies in two components"
    assert len(np.unique(pairs[0])) == n_components, "a component was lost"


@pytest.mark.parametrize("seed", range(3))
def test_depth_counts_a_crowd_that_shape_does_not(seed):
    n, radius = 60, 8.0
    labels, depth = crowd(seed, n, radius, (130, 140))
    true = len(np.unique(labels)) - 1
    by_shape = whole(labels > 0, SplitRule(radius)).max()
    by_depth = whole(labels > 0, DepthRule(radius, 0.1), depth)
    assert abs(by_shape - true) > 0.1 * true  # a hard field for shape
    assert abs(int(by_depth.max()) - true) <= 0.03 * true
    overlap = np.array([np.bincount(by_depth[labels == i]).max() for i in np.unique(labels)[1:]])
    sizes = np.bincount(labels.ravel())[np.unique(labels)[1:]]
    assert np.median(overlap / sizes) > 0.9


def test_a_shallow_dip_within_an_object_does_not_split_it():
    """Two summits of depth 1 with a pass of 0.85 between: one object at a tolerance of 0.2, two at 0.1."""
    mask = np.ones((21, 60), bool)
    across = np.interp(np.arange(60), [0, 15, 30, 45, 59], [0, 1, 0.85, 1, 0])
    depth = np.rint(255 * np.minimum(across, 1 - np.abs(np.arange(21) - 10)[:, None] / 40)).astype(np.uint8)
    assert whole(mask, DepthRule(10, 0.2), depth).max() == 1
    assert whole(mask, DepthRule(10, 0.1), depth).max() == 2


def test_depth_that_is_missing_is_asked_for():
    core = Window(0, 0, 10, 10)
    with pytest.raises(ValueError, match="needs the depth"):
        split_core(np.ones((10, 10), bool), core, core, (10, 10), DepthRule(3, 0.1))


@pytest.mark.parametrize(("radius", "tolerance"), [(0.5, 0.1), (3, 0.0), (3, 1.0), (float("nan"), 0.1)])
def test_numbers_out_of_range_are_refused(radius, tolerance):
    with pytest.raises(ValueError, match=r"not in 1\.\.80|not between 0 and 1"):
        DepthRule(radius, tolerance)
