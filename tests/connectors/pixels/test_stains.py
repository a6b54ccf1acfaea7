"""Stains are told apart in a pixel as colour deconvolution does it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import separate_stains

from fewscope.connectors.pixels.stains import STEP, VECTORS, Stains, looks_like_dab
from fewscope.connectors.stain_options import DAB_GRADES, Positive, StainOptions
from fewscope.errors import ConfigError

H_DAB = Stains("h-dab")


def pixels_of(densities: dict[str, float], n: int = 1) -> np.ndarray:
    """RGB of stains of given densities, (n, 3) uint8."""
    vectors = {name: np.array(v) / np.linalg.norm(v) for name, v in VECTORS.items()}
    total = sum((density * vectors[name] for name, density in densities.items()), np.zeros(3))
    return np.tile(np.rint(255 * 10**-total), (n, 1)).astype(np.uint8)


@pytest.mark.parametrize("kind", ["h-dab", "h-e"])
def test_the_densities_of_two_stains_are_found(kind):
    first, second = Stains(kind).names
    for densities in ({first: 0.5}, {second: 0.4}, {first: 0.3, second: 0.6}, {}):
        found = Stains(kind).codes(pixels_of(densities))[0] * STEP
        # a grey level is up to 0.01 of optical density
        np.testing.assert_allclose(found, [densities.get(first, 0), densities.get(second, 0)], atol=0.02)


def test_they_are_those_of_scikit_image():
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 256, (500, 3), np.uint8)
    first, second = (np.array(VECTORS[name]) / np.linalg.norm(VECTORS[name]) for name in H_DAB.names)
    rest = np.cross(first, second)
    inverse = np.linalg.inv(np.stack([first, second, rest / np.linalg.norm(rest)]))
    theirs = separate_stains(pixels[None] / 255, inverse)[0, :, :2]
    theirs *= -np.log(1e-6) / np.log(10)  # they divide densities by that of 1e-6
    np.testing.assert_allclose(H_DAB.codes(pixels) * STEP, theirs.clip(0), atol=STEP)


@settings(max_examples=20)
@given(st.integers(1, 400), st.integers(0, 5))
def test_a_pixel_does_not_depend_on_its_neighbours(cut, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (400, 3), np.uint8)
    parts = [H_DAB.codes(part) for part in (pixels[:cut], pixels[cut:])]
    np.testing.assert_array_equal(np.concatenate(parts), H_DAB.codes(pixels))


def test_an_overview_with_brown_looks_like_dab():
    white, blue = pixels_of({}, 600), pixels_of({"hematoxylin": 0.4}, 300)
    brown, pink = pixels_of({"DAB": 0.5}, 60), pixels_of({"eosin": 0.4}, 300)
    valid = np.ones((1, 960), bool)
    assert looks_like_dab(np.concatenate([white, blue, brown])[None], valid)
    assert not looks_like_dab(np.concatenate([white, blue, blue[:60]])[None], valid)
    h_e = np.concatenate([white, blue[:60], pink])[None]
    assert not looks_like_dab(h_e, valid)
    assert not looks_like_dab(h_e // 8, valid)  # dark, as fluorescence
    assert not looks_like_dab(h_e, np.zeros_like(valid))


def test_thresholds_are_read_and_checked():
    assert Positive.parse("CD3=1200") == Positive("CD3", (1200.0,))
    assert str(Positive.parse(" DAB = 0.2, 0.4,0.6")) == "DAB=0.2,0.4,0.6"
    assert StainOptions("h-dab").grades == (DAB_GRADES,)
    assert StainOptions("h-dab", (Positive("DAB", (0.3,)),)).grades == (Positive("DAB", (0.3,)),)
    assert StainOptions("h-e").grades == ()
    for wrong in ("DAB", "DAB=", "DAB=x", "=0.2", "DAB=0.4,0.2", "DAB=1,2,3,4", "DAB=nan"):
        with pytest.raises(ConfigError, match="ascending numbers"):
            Positive.parse(wrong)
    with pytest.raises(ConfigError, match="none of h-dab, h-e"):
        StainOptions("giemsa")
    with pytest.raises(ConfigError, match="DAB twice"):
        StainOptions("h-dab", (Positive("DAB", (0.3,)), Positive("DAB", (0.4,))))
