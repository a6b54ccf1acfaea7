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
    p = (p if known is None else p * known).flatten(1)
    t = target.flatten(1)
    overlap = 2 * (p * t).sum(1) + smooth
    return (1 - overlap / (p.sum(1) + t.sum(1) + smooth)).mean()


def cross_entropy(logits: Tensor, target: Tensor, known: Tensor | None = None) -> Tensor:
    """Binary cross-entropy, the mean over known pixels."""
    if known is None:
        return F.binary_cross_entropy_with_logits(logits.float(), target)
    each = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    return (each * known).sum() / known.sum().clamp_min(1)


def squared_error(logits: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the probabilities: the loss of FSS-1000's published code."""
    return F.mse_loss(torch.sigmoid(logits.float()), target)


def segmentation_loss(logits: Tensor, target: Tensor, known: Tensor | None = None) -> Tensor:
    """Binary cross-entropy plus half of soft Dice; `target` is 0 where it is not known."""
    return cross_entropy(logits, target, known) + 0.5 * soft_dice(logits, target, known)


def readout_loss(scores: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of a ridge read-out's scores (N, 1, H / stride, W / stride), about -1..1, and the target averaged
    to its stride."""
    stride = target.shape[-1] // scores.shape[-1]
    return F.binary_cross_entropy_with_logits(4.0 * scores.float(), F.avg_pool2d(target, stride))


def depth_loss(logits: Tensor, target: Tensor, known: Tensor | None = None) -> Tensor:
    """Cross-entropy of depth logits (N, 1, H, W) and the true depth in [0, 1]."""
    return cross_entropy(logits, target, known)
