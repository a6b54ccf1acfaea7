"""Validation during training: episodes fixed for the whole run, a score, and an image of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torchvision.utils import draw_segmentation_masks, make_grid

from fewscope.model.episodes.category import Category
from fewscope.model.episodes.fss1000 import known_of, resized, whole
from fewscope.model.episodes.protocol import EpisodeDraw, sampled_episodes
from fewscope.model.episodes.sampler import Episode, EpisodeSource
from fewscope.model.metrics import mean_image_iou
from fewscope.model.networks.compact import CompactNet

if TYPE_CHECKING:
    from fewscope.model.networks.registry import Network

SHOTS, QUERIES = 5, 5

N_SHOWN = 6
"""Rows of the image of predictions."""

N_SUPPORTS_SHOWN = 3

COLOUR = (255, 0, 200)


class Validation(Protocol):
    """Episodes to preview predictions on and, if they are of validation classes, to score them."""

    def preview(self) -> list[Episode]:
        """The episodes of the image of predictions."""
        ...

    def score(self, net: Network, device: torch.device, *, bf16: bool) -> float | None:
        """Mean image IoU, or None without validation classes."""
        ...


@dataclass(frozen=True, slots=True)
class ValidationClasses:
    """One episode of each class of a split, as `jobs/evaluate.py --episodes 1` draws them.

    A class with too few images for 5 shots and a query has fewer shots.

    Attributes
    ----------
    categories : Sequence[Category]
        The validation classes.
    size : int
        Side of the images, px.
    """

    categories: Sequence[Category]
    size: int

    def _episode(self, category: Category) -> Episode:
        n = len(category.images)
        (draw,) = sampled_episodes(category.name, n, min(SHOTS, n - 1), 1, QUERIES)
        return episode_of(category, draw, self.size)

    def preview(self) -> list[Episode]:
        """Episodes of classes evenly spread over the list."""
        step = max(1, len(self.categories) // N_SHOWN)
        return [self._episode(category) for category in self.categories[::step][:N_SHOWN]]

    def score(self, net: Network, device: torch.device, *, bf16: bool) -> float:
        """Mean image IoU at a threshold of 0.5, averaged over classes."""
        ious = []
        for category in self.categories:
            episode = self._episode(category)
            found = predict_episode(net, episode, device, bf16=bf16)
            true = episode.masks[episode.shots :] > 0.5
            known = torch.ones_like(true) if episode.known is None else episode.known > 0.5
            ious.append(float(mean_image_iou((found >= 0.5) & known, true & known)))
        return sum(ious) / len(ious)


@dataclass(frozen=True, slots=True)
class NoValidation:
    """The first episodes of a source, for the preview alone."""

    source: EpisodeSource

    def preview(self) -> list[Episode]:
        """The first episodes of the source."""
        return [self.source[i] for i in range(N_SHOWN)]

    def score(self, net: Network, device: torch.device, *, bf16: bool) -> None:
        """No score."""


def episode_of(category: Category, draw: EpisodeDraw, size: int) -> Episode:
    """The images of a draw as an episode, resized to `size` px."""
    drawn = [*draw.support, *draw.query]
    images, masks = resized(category.images[drawn], category.masks[drawn], size)
    return whole(images, masks, len(draw.support), category.name, known_of(category, drawn, size))


@torch.no_grad()
def predict_episode(net: Network, episode: Episode, device: torch.device, *, bf16: bool) -> Tensor:
    """Probabilities (Q, 1, S, S) of an episode's queries, float32 on the CPU. `net` is in eval mode."""
    e = episode.to(device)
    images = e.images.to(memory_format=torch.channels_last)
    truth = e.masks[: e.shots]
    if isinstance(net, CompactNet):
        net = net.adapt_statistics(images[: e.shots])
    pack = net.compile_support(images[: e.shots], truth * e.labelled, (1 - truth) * e.labelled)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        logits = net(images[e.shots :], pack)
    return torch.sigmoid(logits[:, :1].float()).cpu()


def picture_of(net: Network, episodes: Sequence[Episode], device: torch.device, *, bf16: bool) -> Tensor:
    """A row for each episode: three supports with masks, the query, the query with its mask, and with the prediction.

    Returns
    -------
    (3, H, W) uint8
    """
    cells = []
    for e in episodes:
        found = predict_episode(net, e, device, bf16=bf16)
        pictures = (e.images * 255).round().to(torch.uint8)
        supports = [i % e.shots for i in range(N_SUPPORTS_SHOWN)]
        cells += [_tinted(pictures[i], e.masks[i, 0] > 0.5) for i in supports]
        query = e.shots
        cells += [
            pictures[query],
            _tinted(pictures[query], e.masks[query, 0] > 0.5),
            _tinted(pictures[query], found[0, 0] >= 0.5),
        ]
    return make_grid(cells, nrow=N_SUPPORTS_SHOWN + 3, padding=3, pad_value=255)


def _tinted(image: Tensor, mask: Tensor) -> Tensor:
    return draw_segmentation_masks(image, mask, alpha=0.55, colors=[COLOUR])
