"""A support set is checked when it is made, and known by what determines a result."""

from __future__ import annotations

import numpy as np
import pytest

from fewscope.connectors.support.support_set import SupportSet
from fewscope.errors import SupportError
from tests.helpers.support_folders import disc, photo


def support_set(**changes) -> SupportSet:
    arrays = {
        "images": photo()[None], "labels": disc()[None], "instances": disc()[None].astype(np.int32),
        "names": ("a",), "mpp": 0.5, "class_names": ("disc",),
    }  # fmt: skip
    return SupportSet(**{**arrays, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"images": photo()},
        {"images": photo()[None].astype(np.float32)},
        {"labels": disc()[None] * 7},
        {"labels": disc()[None].astype(np.int64)},
        {"names": ()},
        {"names": ("a", "b")},
        {"instances": np.zeros((1, 224, 224), np.int32)},
        {"labels": np.zeros((1, 224, 224), np.uint8), "instances": None},
        {"mpp": -1.0},
    ],
)
def test_a_support_set_is_checked_when_made(changes):
    support_set()
    with pytest.raises(SupportError):
        support_set(**changes)


def test_digest_is_of_what_determines_a_result():
    first = support_set().digest()
    assert support_set(names=("b",)).digest() == first
    for changes in (
        {"mpp": 0.25},
        {"class_names": ("x",)},
        {"instances": None},
        {"images": photo(seed=1)[None]},
    ):
        assert support_set(**changes).digest() != first
