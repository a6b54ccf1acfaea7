"""What the statistics are made of: smoothing, enlarging and halving as matrix products and sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from fewscope.model.networks.texture_statistics import enlarging, gaussian, smoothing, texture_statistics

CPU = torch.device("cpu")


@pytest.mark.parametrize("sigma", [1.0, 3.0**0.5, 4.0])
def test_smoothing_is_that_of_scipy(sigma: float) -> None:
    picture = torch.rand(2, 3, 10, 24, generator=torch.Generator().manual_seed(0))
    reach = round(3 * sigma)  # beyond the picture's height for the largest
    true = ndimage.gaussian_filter(
        picture.numpy(), (0, 0, sigma, sigma), mode="nearest", radius=(0, 0, reach, reach)
    )
    np.testing.assert_allclose(gaussian(picture, sigma).numpy(), true, atol=1e-6)


def test_enlarging_is_bilinear_interpolation() -> None:
    picture = torch.rand(1, 2, 6, 9, generator=torch.Generator().manual_seed(0))
    rows = picture @ enlarging(18, 9, CPU).T
    true = F.interpolate(picture, size=(24, 18), mode="bilinear")
    assert torch.allclose(enlarging(24, 6, CPU) @ rows, true, atol=1e-6)


def test_colour_and_contrast_are_those_of_the_four_pixels_under_each_place() -> None:
    picture = torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    found = texture_statistics(picture)[0]
    places = picture[0].unflatten(1, (16, 2)).unflatten(3, (32, 2)).permute(0, 1, 3, 2, 4).flatten(3)
    assert torch.allclose(found[:3], places.mean(3), atol=1e-6)
    assert torch.allclose(found[3], places.mean(0).std(2, correction=0), atol=1e-3)


def test_what_is_remembered_of_a_size_serves_inference_and_training_alike() -> None:
    """A matrix that was made in inference mode could not be used where gradients are computed."""
    with torch.inference_mode():
        gaussian(torch.zeros(1, 1, 17, 17), 1.25)
    picture = torch.rand(1, 1, 17, 17, requires_grad=True)
    gaussian(picture, 1.25).sum().backward()
    assert picture.grad is not None
    assert torch.isfinite(picture.grad).all()


def test_statistics_in_bfloat16_training_are_those_of_prediction() -> None:
    """The matrices are kept: whoever asks first, training in mixed precision or a tile, they have full precision."""
    picture = torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    plain = texture_statistics(picture)
    for kept in (smoothing, enlarging):
        kept.cache_clear()
    with torch.autocast("cpu", torch.bfloat16):
        found = texture_statistics(picture)
    assert torch.equal(found, plain)
    assert torch.equal(texture_statistics(picture), plain)
