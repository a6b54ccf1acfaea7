"""Losses for binary segmentation, on logits (N, 1, H, W) and targets in {0, 1} of the same shape."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_dice(logits: Tensor, target: Tensor, known: Tensor | None = None, smooth: float = 20.0) -> Tensor:
    """1 - Dice coefficient of the probabilities, per image, then the mean (scalar).

    `smooth` pixels are added to both sides, so that an empty target with an (almost) empty prediction costs little.
    """
    p = torch.sigmoid(logits.float())
    p = (p if known is None else p * known).flatten(1)
    t = target.flatten(1)
    overlap = 2 * (p * t).sum(1) + smooth
    return (1 - overlap / (p.sum(1) + t.sum(1) + smooth)).mean()


def cross_entropy(logits: Tensor, target: Tensor, known: Tensor | None = None) -> Tensor:
    """Binary cross-entropy (scalar), of the pixels that are known where `known` (0 or 1) says which."""
    if known is None:
        return F.binary_cross_entropy_with_logits(logits.float(), target)
    each = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    return (each * known).sum() / known.sum().clamp_min(1)


def squared_error(logits: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the probabilities (scalar): the loss of FSS-1000's published code."""
    return F.mse_loss(torch.sigmoid(logits.float()), target)


def segmentation_loss(logits: Tensor, target: Tensor, known: Tensor | None = None) -> Tensor:
    """Binary cross-entropy plus soft Dice (scalar); `target` is 0 where nothing is known."""
    return cross_entropy(logits, target, known) + 0.5 * soft_dice(logits, target, known)


def readout_loss(scores: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of a ridge read-out's score (about -1..1) against the target averaged to its stride (scalar)."""
    stride = target.shape[-1] // scores.shape[-1]
    return F.binary_cross_entropy_with_logits(4.0 * scores.float(), F.avg_pool2d(target, stride))


def depth_loss(logits: Tensor, target: Tensor, known: Tensor | None = None) -> Tensor:
    """Cross-entropy of the depth (N, 1, H, W) against the true one in [0, 1] (scalar)."""
    return cross_entropy(logits, target, known)
