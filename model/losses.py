"""Losses for binary segmentation, of logits (N, 1, H, W) and targets in {0, 1} of the same shape. Scalars.

`known`, of the same shape, is 1 where the target is known and 0 elsewhere; None stands for all known.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_dice(logits: Tensor, target: Tensor, known: Tensor | None = None, smooth: float = 20.0) -> Tensor:
    """1 - soft Dice coefficient (Milletari et al., 3DV 2016) per image, then the mean.

    `smooth` pixels are added to numerator and denominator, so that an (almost) empty prediction of an empty target
    costs little.
    """
    p = torch.sigmoid(logits.float())
    p, t = (side if known is None else side * known for side in (p, target))
    p, t = p.flatten(1), t.flatten(1)
    overlap = 2 * (p * t).sum(1) + smooth
    return (1 - overlap / (p.sum(1) + t.sum(1) + smooth)).mean()


def cross_entropy(logits: Tensor, target: Tensor, known: Tensor | None = None) -> Tensor:
    """Binary cross-entropy, the mean over known pixels."""
    if known is None:
        return F.binary_cross_entropy_with_logits(logits.float(), target)
    each = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    return _mean_of_known(each, known)


def squared_error(logits: Tensor, target: Tensor, known: Tensor | None = None) -> Tensor:
    """Squared error of the probabilities, the mean over known pixels: the loss of FSS-1000's published code."""
    p = torch.sigmoid(logits.float())
    return F.mse_loss(p, target) if known is None else _mean_of_known((p - target).square(), known)


def _mean_of_known(each: Tensor, known: Tensor) -> Tensor:
    return (each * known).sum() / known.sum().clamp_min(1)


def segmentation_loss(logits: Tensor, target: Tensor, known: Tensor | None = None) -> Tensor:
    """Binary cross-entropy plus half of soft Dice."""
    return cross_entropy(logits, target, known) + 0.5 * soft_dice(logits, target, known)


def readout_loss(scores: Tensor, target: Tensor, known: Tensor | None = None) -> Tensor:
    """Cross-entropy of a ridge read-out's scores (N, 1, H / stride, W / stride), about -1..1, and the target averaged
    to its stride, over the known pixels."""
    stride = target.shape[-1] // scores.shape[-1]
    if known is None:
        return cross_entropy(4.0 * scores.float(), F.avg_pool2d(target, stride))
    share = F.avg_pool2d(known, stride)
    return cross_entropy(
        4.0 * scores.float(), F.avg_pool2d(target * known, stride) / share.clamp_min(1e-6), share
    )


def depth_loss(logits: Tensor, target: Tensor, known: Tensor | None = None) -> Tensor:
    """Cross-entropy of depth logits (N, 1, H, W) and the true depth in [0, 1]."""
    return cross_entropy(logits, target, known)
