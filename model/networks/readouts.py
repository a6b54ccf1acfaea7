"""Read-outs of a support set: predictions for the pixels of a query from a few labelled patches.

Three of them, from the most linear to the most local. All are *compiled*: the part of the support set is computed once
and is a handful of small tensors, so that a query costs a few matrix products for any number of shots.

- ridge regression, solved in closed form (as in R2-D2 [1]_): a linear classifier on pixel features;
- softmax attention over support pixels, whose values are embeddings of the local mask (as in DCAMA [2]_);
- cosine similarity to the mean foreground and mean background feature (PANet [3]_).

References
----------
.. [1] Bertinetto et al., Meta-learning with differentiable closed-form solvers, ICLR 2019.
.. [2] Shi et al., Dense cross-query-and-support attention weighted mask aggregation, ECCV 2022.
.. [3] Wang et al., PANet: few-shot image semantic segmentation with prototype alignment, ICCV 2019.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def class_balanced_weights(foreground: Tensor, background: Tensor) -> Tensor:
    """Pixel weights that give foreground and background the same total, whatever their areas.

    Parameters
    ----------
    foreground, background : (..., N) float
        Fraction of each pixel (cell) labelled as object, and as background. Both are 0 where nothing is labelled.

    Returns
    -------
    (..., N) float that sums to 1, or to 0 where nothing is labelled.
    """
    fg_share = foreground / foreground.sum(-1, keepdim=True).clamp_min(1e-6)
    bg_share = background / background.sum(-1, keepdim=True).clamp_min(1e-6)
    return 0.5 * (fg_share + bg_share)


def solve_ridge(features: Tensor, target: Tensor, weights: Tensor, regularisation: Tensor) -> Tensor:
    """Weighted ridge regression in closed form, in float32.

    Solves ``(X^T W X + r I) b = X^T W y`` with a column of ones appended to X (whose coefficient is
    regularised like the others: the target is balanced around 0).

    Parameters
    ----------
    features : Tensor
        (..., N, D)
    target : Tensor
        (..., N) in [-1, 1].
    weights : Tensor
        (..., N) summing to about 1.
    regularisation : Tensor
        Scalar tensor > 0.

    Returns
    -------
    (..., D + 1) coefficients, the intercept last.
    """
    x = F.pad(features.float(), (0, 1), value=1.0)
    xw = x * weights.float()[..., None]
    gram = xw.mT @ x
    gram = gram + regularisation.float() * torch.eye(gram.shape[-1], device=gram.device)
    return torch.linalg.solve(gram, (xw.mT @ target.float()[..., None])[..., 0])


def class_ridge(features: Tensor, foreground: Tensor, background: Tensor, regularisation: Tensor) -> Tensor:
    """`solve_ridge` with targets from -1 (all of a pixel is background) to 1 (all of it is object), class-balanced.

    Parameters
    ----------
    features : Tensor
        (..., N, D)
    foreground, background : Tensor
        (..., N)
    regularisation : Tensor
        Scalar tensor > 0.

    Returns
    -------
    (..., D + 1) coefficients, the intercept last.
    """
    target = (foreground - background) / (foreground + background).clamp_min(1e-6)
    with torch.autocast(features.device.type, enabled=False):
        weights = class_balanced_weights(foreground, background)
        return solve_ridge(features, target, weights, regularisation)


def apply_ridge(features: Tensor, coefficients: Tensor) -> Tensor:
    """Scores (N, 1, H, W) of feature maps (N, D, H, W) under coefficients (D + 1,)."""
    weight = coefficients[:-1].to(features.dtype)[None, :, None, None]
    return F.conv2d(features, weight, coefficients[-1:].to(features.dtype))


def select_keys(foreground: Tensor, background: Tensor, n_max: int) -> Tensor:
    """Indices of at most `n_max` labelled pixels, evenly spread: half foreground, half background if possible.

    Deterministic: pixels are taken at even steps through the list of each side. A side with fewer than `n_max / 2`
    pixels leaves its places to the other.

    Parameters
    ----------
    foreground, background : (N,) float
        As in `class_balanced_weights`. A pixel that is less than half labelled is not taken.

    Returns
    -------
    (M,) int64, foreground first.
    """
    labelled = (foreground + background) >= 0.5
    fg = torch.nonzero(labelled & (foreground >= background)).flatten()
    bg = torch.nonzero(labelled & (foreground < background)).flatten()
    n_fg = min(len(fg), max(n_max // 2, n_max - len(bg)))
    n_bg = min(len(bg), n_max - n_fg)
    return torch.cat([_evenly(fg, n_fg), _evenly(bg, n_bg)])


def _evenly(indices: Tensor, n: int) -> Tensor:
    if n == len(indices):
        return indices
    return indices[torch.arange(n, device=indices.device) * len(indices) // n]


def attend(queries: Tensor, keys: Tensor, values: Tensor, scale: Tensor) -> Tensor:
    """Softmax attention of every query pixel over the support pixels.

    Parameters
    ----------
    queries : Tensor
        (N, D, H, W), L2-normalised over D.
    keys : Tensor
        (M, D), L2-normalised.
    values : Tensor
        (M, V)
    scale : Tensor
        Scalar, the inverse temperature.

    Returns
    -------
    (N, V, H, W), V at most D, or zeros when M is 0.
    """
    n, d, h, w = queries.shape
    n_values = values.shape[1]
    if keys.shape[0] == 0:
        return queries.new_zeros(n, n_values, h, w)
    flat = queries.permute(0, 2, 3, 1).reshape(n, 1, h * w, d)
    # the fused kernels, which never write the similarities to memory, need values as wide as keys
    keys, values = (
        pixels.to(flat.dtype).expand(n, 1, -1, -1) for pixels in (keys, F.pad(values, (0, d - n_values)))
    )
    # the scale is learned, and the kernel takes a constant: it goes into the queries
    read = F.scaled_dot_product_attention(flat * scale.to(flat.dtype), keys, values, scale=1.0)
    return read[..., :n_values].reshape(n, h, w, n_values).permute(0, 3, 1, 2)


def prototypes(features: Tensor, foreground: Tensor, background: Tensor) -> Tensor:
    """L2-normalised mean features of foreground and background: (..., 2, D) from (..., N, D) and (..., N) fractions."""
    sides = []
    for share in (foreground, background):
        mean = (features.float() * share[..., None]).sum(-2) / share.sum(-1, keepdim=True).clamp_min(1e-6)
        sides.append(F.normalize(mean, dim=-1, eps=1e-4))
    return torch.stack(sides, dim=-2)


def cosine_to(features: Tensor, prototypes: Tensor) -> Tensor:
    """Cosine similarity (N, P, H, W) of feature maps (N, D, H, W) to prototypes (P, D)."""
    unit = F.normalize(features, dim=1, eps=1e-4)
    return F.conv2d(unit, prototypes.to(unit.dtype)[:, :, None, None])
