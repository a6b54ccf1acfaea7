"""The separation rule and the count's interval, from held-out patches."""

from __future__ import annotations

import numpy as np
import pytest

from fewscope.connectors.support.support_set import SupportSet
from fewscope.pipeline.calibration.object_counts import choose_rule, countable


def test_slivers_at_the_edge_of_the_labelled_area_are_left_out_by_hand():
    objects = np.zeros((8, 12), np.int32)
    objects[0, 0:3] = 1  # a sliver at the edge of the picture
    objects[2:6, 2:5] = 2  # whole
    objects[4, 6] = 3  # as small as a sliver, but whole: the slide has it, too
    objects[2:6, 7:12] = 4  # large, although cut
    objects[7, 5:12] = 5  # outside the labelled area but for two pixels
    known = np.ones(objects.shape, bool)
    known[:, 9:] = False
    known[7, 7:] = False
    kept = countable(objects, known, min_area=4)
    assert np.unique(kept).tolist() == [0, 2, 3, 4]
    assert not kept[~known].any()
    assert (kept[2:6, 2:5] == 2).all()
    assert np.unique(countable(objects, known, min_area=0)).tolist() == [0, 1, 2, 3, 4, 5]


def test_the_count_of_a_perfect_prediction_is_not_corrected_for_slivers():
    """Disks on a lattice that the patches' edges cut anywhere, found exactly: a slide has as many as are counted."""
    row, col = np.indices((260, 260))
    inside = (row % 20 - 10) ** 2 + (col % 20 - 10) ** 2 < 49
    slide = np.where(inside, 1 + (row // 20) * 20 + col // 20, 0).astype(np.int32)
    corners = [(3 * i, 5 * i) for i in range(5)]
    instances = np.stack([slide[r : r + 224, c : c + 224] for r, c in corners])
    masks = (instances > 0).astype(np.uint8)
    images = np.zeros((*masks.shape, 3), np.uint8)
    support = SupportSet(images, masks, instances, tuple("abcde"), None, ("disk",))
    min_area = 40
    cut_off = [len(np.unique(i)) - len(np.unique(countable(i, i >= 0, min_area))) for i in instances]
    assert sum(cut_off) > 5
    _, ratio = choose_rule(support, masks.astype(np.float32), 0.5, (None,), connectivity=2, min_area=min_area)
    assert ratio is not None
    assert ratio.median == pytest.approx(1, abs=1e-3)
