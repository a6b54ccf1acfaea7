"""Boosted trees that correct a network's mask along its outline, at the full resolution of the picture.

The network sees a tile resized to 128 and 192 px, and where objects are a few pixels wide, or a pixel's own colour
decides, as on the bank of a river in a satellite image, a pixel classifier draws the better outline. These trees see a
pixel's colour, edges and ridges at scales of 0.7 to 6 px, and the network's logits around it: stacked generalisation
(Wolpert, Neural Networks 1992), whose use on an earlier probability map is known as auto-context (Tu and Bai, TPAMI
2010). They learn from held-out predictions, so that they know how the network errs, and decide only where the
network's own mask has an outline or is unsure: what is object, and where, remains the network's decision.

Whether a job uses them is decided on held-out patches and the source (`pipeline.calibration.boundary_correction`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fewscope.model.conventions import IGNORE_LABEL
from fewscope.model.networks.pixel_classifier import LIMIT
from fewscope.model.networks.texture_statistics import gaussian, hessian_eigenvalues, slope

COLOUR_SIGMAS = (1.0, 2.0, 4.0)
"""Scales, px, at which each channel is smoothed, besides the channel as it is."""

EDGE_SIGMAS = (0.7, 1.4, 2.8, 5.6)
"""Scales, px, of gradient magnitude and Hessian eigenvalues of the mean of the channels."""

LOGIT_SIGMAS = (1.5, 4.0)
"""Scales, px, at which the network's logits are smoothed, besides the logits as they are."""

UNSURE = 0.1, 0.9
"""Between these probabilities the network is unsure."""

REACH = 4
"""Distance, px, up to which a pixel belongs to an outline."""

N_TREES, DEPTH, LEARNING_RATE, FEWEST_IN_LEAF = 60, 3, 0.15, 50
MOST_PIXELS, MOST_OF_PATCH = 60_000, 6_000
AT_ONCE = 8_192  # pixels whose way through all trees is in memory


@dataclass(frozen=True, slots=True, eq=False)
class BoundaryTrees:
    """Fitted trees, all of the same depth: node n has the children 2 n + 1 and 2 n + 2.

    Attributes
    ----------
    feature : Tensor
        (T, 2^DEPTH - 1) int64, the statistic that a node asks for.
    threshold : Tensor
        (T, 2^DEPTH - 1) float32; a pixel goes right if its statistic is above.
    value : Tensor
        (T, 2^DEPTH) float32, what a leaf adds to the logit.
    prior : Tensor
        (1,) float32, the logit before the first tree.
    """

    feature: Tensor
    threshold: Tensor
    value: Tensor
    prior: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def to(self, device: torch.device | str) -> BoundaryTrees:
        """The same on another device."""
        return BoundaryTrees(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[np.generic]]) -> BoundaryTrees:
        """The inverse of `tensors`, from arrays."""
        return cls(**{name: torch.from_numpy(array) for name, array in arrays.items()})

    def logits(self, statistics: Tensor) -> Tensor:
        """Logits (P,) float32 of pixels (S, P), clipped to +-`LIMIT`."""
        return torch.cat([self._logits(part) for part in statistics.split(AT_ONCE, dim=1)])

    def _logits(self, statistics: Tensor) -> Tensor:
        right = statistics[self.feature] > self.threshold[..., None]  # (T, nodes, P)
        node = right.new_zeros(right[:, :1].shape, dtype=torch.int64)
        for _ in range(DEPTH):
            node = 2 * node + 1 + right.gather(1, node)
        leaves = self.value.gather(1, node[:, 0] - self.feature.shape[1])
        return (self.prior + leaves.sum(0)).clamp(-LIMIT, LIMIT)


def boundary_statistics(images: Tensor, logits: Tensor) -> Tensor:
    """What the trees know of each pixel.

    Parameters
    ----------
    images : Tensor
        (N, C, H, W) float in [0, 1], all channels.
    logits : Tensor
        (N, 1, H, W) float, the network's.

    Returns
    -------
    (N, S, H, W) float32: channels, smoothed channels, gradient magnitude and Hessian eigenvalues of their mean, logits.
    """
    images, logits = images.float().contiguous(), logits.float().contiguous().clamp(-LIMIT, LIMIT)
    grey = images.mean(1, keepdim=True)
    parts = [images, *(gaussian(images, sigma) for sigma in COLOUR_SIGMAS)]
    for sigma in EDGE_SIGMAS:
        smooth = gaussian(grey, sigma)
        dx, dy = slope(smooth, 3) * sigma, slope(smooth, 2) * sigma
        parts += [(dx * dx + dy * dy).sqrt(), *hessian_eigenvalues(dx, dy, sigma)]
    parts += [logits, *(gaussian(logits, sigma) for sigma in LOGIT_SIGMAS)]
    return torch.cat(parts, dim=1)


def boundary(logits: Tensor) -> Tensor:
    """Where the trees decide: within `REACH` px of an outline of the mask, or where the network is unsure.

    Parameters
    ----------
    logits : Tensor
        (N, 1, H, W) float.

    Returns
    -------
    (N, 1, H, W) bool
    """
    low, high = (math.log(p / (1 - p)) for p in UNSURE)
    mask = (logits >= 0).float()
    near_object, near_ground = (
        F.max_pool2d(side, 2 * REACH + 1, stride=1, padding=REACH) > 0 for side in (mask, 1 - mask)
    )
    return (near_object & near_ground) | ((logits > low) & (logits < high))


def refine(images: Tensor, logits: Tensor, trees: BoundaryTrees) -> Tensor:
    """Logits (N, 1, H, W) of a mask, replaced along its outline by those of the trees.

    Parameters
    ----------
    images : Tensor
        (N, C, H, W) float in [0, 1].
    logits : Tensor
        (N, 1, H, W) float32, the network's.
    """
    refined = logits.clone()
    for image, before, after in zip(images.split(1), logits.split(1), refined.split(1), strict=True):
        place = boundary(before)[0, 0]
        if place.any():
            after[0, 0, place] = trees.logits(boundary_statistics(image, before)[0][:, place])
    return refined


def fit_boundary(images: Tensor, logits: Tensor, labels: Tensor) -> BoundaryTrees | None:
    """Fit trees to labelled patches and what the network says of them, held out.

    Parameters
    ----------
    images : Tensor
        (K, C, H, W) float in [0, 1].
    logits : Tensor
        (K, 1, H, W) float32, each patch predicted without itself.
    labels : Tensor
        (K, H, W) uint8: 0 background, 1 object, 255 not labelled.

    Returns
    -------
    The trees; None where no outline is labelled on both sides.
    """
    generator = torch.Generator().manual_seed(0)
    most = min(MOST_OF_PATCH, MOST_PIXELS // len(images))
    pixels, targets = [], []
    for image, of_patch, label in zip(images.split(1), logits.split(1), labels, strict=True):
        known = torch.nonzero((boundary(of_patch)[0, 0] & (label != IGNORE_LABEL)).flatten()).flatten()
        known = known[torch.randperm(len(known), generator=generator)[:most].to(known.device)]
        pixels.append(boundary_statistics(image, of_patch)[0].flatten(1)[:, known].T)
        targets.append(label.flatten()[known] == 1)
    x, y = torch.cat(pixels).cpu().numpy(), torch.cat(targets).cpu().numpy()
    if y.all() or not y.any():
        return None
    return _boosted(x, y)


def _boosted(x: NDArray[np.float32], y: NDArray[np.bool_]) -> BoundaryTrees:
    """Histogram gradient boosting (Ke et al., LightGBM, NeurIPS 2017) of pixels (P, S), on one thread."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    model = HistGradientBoostingClassifier(
        max_iter=N_TREES,
        max_depth=DEPTH,
        learning_rate=LEARNING_RATE,
        min_samples_leaf=min(FEWEST_IN_LEAF, max(1, len(y) // 20)),
        early_stopping=False,
        random_state=0,
    )
    with threadpool_limits(1):
        model.fit(x, y)
    return as_tensors(model)


def as_tensors(model: Any) -> BoundaryTrees:
    """A fitted `HistGradientBoostingClassifier` of two classes, no deeper than `DEPTH`.

    Scikit-learn has no public way to read its trees; a test holds these equal to what it predicts.
    """
    trees = [_complete(of_step[0].nodes) for of_step in model._predictors]
    feature, threshold, value = (torch.from_numpy(np.stack(parts)) for parts in zip(*trees, strict=True))
    prior = torch.from_numpy(np.asarray(model._baseline_prediction, np.float32).reshape(1))
    return BoundaryTrees(feature, threshold, value, prior)


def _complete(
    nodes: NDArray[np.void],
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """A tree as scikit-learn keeps it, grown to its full depth: a leaf above it is repeated in all leaves below."""
    n_inner = 2**DEPTH - 1
    feature, threshold = np.zeros(n_inner, np.int64), np.zeros(n_inner, np.float32)
    value = np.zeros(n_inner + 1, np.float32)
    below = [(0, 0)]  # place in the complete tree, place in `nodes`
    while below:
        place, at = below.pop()
        node = nodes[at]
        if place >= n_inner:
            value[place - n_inner] = node["value"]
        elif node["is_leaf"]:
            below += [(2 * place + 1, at), (2 * place + 2, at)]
        else:
            feature[place], threshold[place] = node["feature_idx"], node["num_threshold"]
            below += [(2 * place + 1, node["left"]), (2 * place + 2, node["right"])]
    return feature, threshold, value
