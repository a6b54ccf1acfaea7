"""Metrics of few-shot segmentation. Masks are bool (N, ...), one image each."""

from __future__ import annotations

import torch
from torch import Tensor


def image_iou(prediction: Tensor, target: Tensor) -> Tensor:
    """Intersection over union of the object per image: (N,) float; 1 where both masks are empty."""
    p, t = prediction.flatten(1), target.flatten(1)
    union = (p | t).sum(1)
    iou = (p & t).sum(1) / union.clamp_min(1)
    return torch.where(union == 0, torch.ones_like(iou), iou)


def mean_image_iou(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean of `image_iou`: metric (a) of FSS-1000 (Li et al., CVPR 2020, section 5)."""
    return image_iou(prediction, target).mean()
