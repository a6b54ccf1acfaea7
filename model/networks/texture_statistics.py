"""Statistics of a pixel's surroundings, as pixel classifiers see it; and where by them an image is flat."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

STRIDE = 2
"""Of the statistics, px: a quarter of the pixels suffices, as outlines come from the network."""

SIGMAS = (1, 2, 4, 8, 16)
"""Scales in pixels of that stride."""

N_STATISTICS = 4 + 12 * len(SIGMAS)

CHANNEL_SIGMAS = (1, 3)
"""Scales at which each further channel is seen, in pixels of that stride: its intensity alone. Edges and textures are
seen in the projections."""

FLAT = 0.01
"""Scale-normalised slope (of intensities in [0, 1]) up to which a place is flat; from twice that on it is not. This
makes no difference on ten unseen classes, and prevents false positives on empty glass."""

REACH = 16
"""Distance at which the largest scale of `flatness` still responds to a steep edge, in pixels of the statistics: twice
its sigma."""


def texture_statistics(images: Tensor) -> Tensor:
    """Colour, local contrast, and at each scale smoothed colour, gradient magnitude and Hessian eigenvalues.

    Parameters
    ----------
    images : Tensor
        (N, 3, H, W) float in [0, 1], H and W multiples of 32; or (N, 3 + C, H, W), as `model.projection` returns them:
        the three that the network sees, then the channels.

    Returns
    -------
    (N, N_STATISTICS, H / 2, W / 2) float32, scale-normalised (Lindeberg, IJCV 1998), so that all have one magnitude;
    with further channels, their intensities at `CHANNEL_SIGMAS` follow: `n_statistics` in all.
    """
    images, channels = images[:, :3], images[:, 3:]
    images = images.float().contiguous()  # planar memory is faster here, unlike in convolutions
    grey = images.mean(1, keepdim=True)
    x = _halved(images)
    contrast = (_halved(grey * grey) - _halved(grey).square()).clamp_min(1e-6).sqrt()
    size = x.shape[-2:]
    parts = [x, contrast]
    smooth, before, stride = x, 0.0, 1
    for sigma in SIGMAS:
        smooth = gaussian(smooth, math.sqrt(sigma**2 - before**2) / stride)
        before, unit = sigma, sigma / stride
        dx, dy = slope(smooth, 3) * unit, slope(smooth, 2) * unit
        magnitude = (dx * dx + dy * dy + 1e-10).sqrt()
        found = [smooth, magnitude, *hessian_eigenvalues(dx, dy, unit)]
        if stride > 1:
            enlarge = (enlarging(m, n, x.device) for m, n in zip(size, smooth.shape[-2:], strict=True))
            found = [_separable(torch.cat(found, dim=1), *enlarge)]
        parts += found
        if sigma > 1 and sigma < SIGMAS[-1]:  # smooth enough for half the pixels
            smooth, stride = _halved(smooth), 2 * stride
    if channels.shape[1]:
        parts += _intensities(channels.float().contiguous())
    return torch.cat(parts, dim=1)


def _intensities(channels: Tensor) -> list[Tensor]:
    """Channels (N, C, H, W) at `STRIDE`, as they are and smoothed at each of `CHANNEL_SIGMAS`."""
    parts, before = [_halved(channels)], 0.0
    for sigma in CHANNEL_SIGMAS:
        parts.append(gaussian(parts[-1], math.sqrt(sigma**2 - before**2)))
        before = sigma
    return parts


def n_statistics(n_channels: int) -> int:
    """Number of statistics of images of so many channels, as `texture_statistics` takes them.

    >>> n_statistics(3), n_statistics(3 + 5)
    (64, 79)
    """
    return N_STATISTICS + (n_channels - 3) * (1 + len(CHANNEL_SIGMAS))


def flatness(statistics: Tensor) -> Tensor:
    """Where an image is flat, like empty glass, a black rim or still water.

    Judged by the slopes at scales of 4 to 16 px; smaller scales respond to noise. The largest scale responds to tissue
    from a distance, so that the glass beside it would not be flat: a place gets 1/2 if it is flat at 4 px and something
    within `REACH` is flat at all scales.

    Parameters
    ----------
    statistics : Tensor
        (N, N_STATISTICS or more, H / 2, W / 2), as `texture_statistics` returns them.

    Returns
    -------
    (N, 1, H / 2, W / 2), from 1 (flat) to 0 (not flat)
    """
    # (N, scale, colour, H / 2, W / 2)
    slopes = statistics[:, 4:N_STATISTICS].unflatten(1, (len(SIGMAS), 4, 3))[:, 1:4, 1]
    steepest = functools.reduce(torch.maximum, slopes.unbind(2))
    near, middle, far = (2 - steepest / FLAT).clamp(0, 1).split(1, 1)
    flat = torch.minimum(torch.minimum(near, middle), far)
    around = F.max_pool2d(F.max_pool2d(flat, 4), 2 * REACH // 4 + 1, stride=1, padding=REACH // 4)
    beside = torch.minimum(near, F.interpolate(around, scale_factor=4, mode="nearest"))
    return torch.maximum(flat, beside / 2)


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """Maps (N, C, H, W) float32, smoothed; sigma in px, the outermost pixels repeated beyond the border."""
    return _separable(x, *(smoothing(n, sigma, x.device) for n in x.shape[-2:]))


def _separable(x: Tensor, of_columns: Tensor, of_rows: Tensor) -> Tensor:
    """Maps (N, C, H, W) -> (N, C, H', W'): products of every column with a matrix (H', H), of every row with (W', W).

    For the few channels of an image that is faster than to convolve, where each channel is filled up to a vector of 16,
    or to interpolate.
    """
    with torch.autocast(x.device.type, enabled=False):
        rows = x.reshape(-1, x.shape[3]) @ of_rows.T
        return of_columns @ rows.view(*x.shape[:3], len(of_rows))


@functools.lru_cache(maxsize=64)
@torch.inference_mode(mode=False)
@torch.autocast("cpu", enabled=False)  # kept for all callers, in float32 whoever comes first
def smoothing(n: int, sigma: float, device: torch.device) -> Tensor:
    """Matrix (n, n) that smooths a column of n px; the outermost are repeated beyond its ends."""
    reach = max(1, round(3 * sigma))
    at = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-at.square() / (2 * sigma**2))
    columns = F.pad(torch.eye(n)[:, None], (reach, reach), mode="replicate")
    return F.conv1d(columns, (kernel / kernel.sum())[None, None])[:, 0].T.to(device)


@functools.lru_cache(maxsize=64)
@torch.inference_mode(mode=False)
@torch.autocast("cpu", enabled=False)
def enlarging(n_out: int, n: int, device: torch.device) -> Tensor:
    """Matrix (n_out, n) that interpolates a column of n px to n_out, linearly, as `torch.nn.functional` does."""
    return F.interpolate(torch.eye(n)[None], size=n_out, mode="linear")[0].T.to(device)


def _halved(x: Tensor) -> Tensor:
    """Means of 2x2 px of maps (N, C, H, W): `F.avg_pool2d` takes five times as long in planar memory."""
    rows = x[..., 0::2, :] + x[..., 1::2, :]
    return (rows[..., 0::2] + rows[..., 1::2]) / 4


def hessian_eigenvalues(dx: Tensor, dy: Tensor, unit: float) -> tuple[Tensor, Tensor]:
    """The larger and the smaller eigenvalue of the Hessian, from derivatives normalised by a scale `unit`, px."""
    dxx, dyy, dxy = slope(dx, 3) * unit, slope(dy, 2) * unit, slope(dx, 2) * unit
    middle, spread = (dxx + dyy) / 2, (((dxx - dyy) / 2).square() + dxy.square() + 1e-10).sqrt()
    return middle + spread, middle - spread


def slope(x: Tensor, dim: int) -> Tensor:
    """Central differences along rows (2) or columns (3)."""
    n = x.shape[dim]
    padded = F.pad(x, (1, 1, 0, 0) if dim == 3 else (0, 0, 1, 1), mode="replicate")
    return (padded.narrow(dim, 2, n) - padded.narrow(dim, 0, n)) / 2
