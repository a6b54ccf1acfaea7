"""Episodes as the paper of FSS-1000 draws them: the pictures of a class as they are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fewscope.model.conventions import PATCH_SIZE
from fewscope.model.episodes.category import Category
from fewscope.model.episodes.sampler import Episode, synthetic_pictures
from fewscope.model.episodes.synthetic import integer


class PaperEpisodes:
    """K support pictures and Q queries of one class, all different, whole, and not changed in any way.

    Episode i depends on (seed, i) alone. All classes are drawn equally often. A class of fewer than K + Q pictures has
    fewer queries, or if need be fewer supports.

    Parameters
    ----------
    corpus : classes to draw from; empty for synthetic pictures
    size : side of the pictures in px; they are resized to it
    shots, queries : K and Q; both 5 in the published code
    """

    def __init__(
        self,
        corpus: list[Category],
        *,
        size: int = PATCH_SIZE,
        shots: int = 5,
        queries: int = 5,
        seed: int = 0,
    ) -> None:
        self.corpus = corpus
        self.size = size
        self.shots, self.queries = shots, queries
        self.seed = seed

    def __getitem__(self, index: int) -> Episode:
        g = torch.Generator().manual_seed((self.seed * 1_000_003 + index) % 2**63)
        wanted = self.shots + self.queries
        if not self.corpus:
            images, masks, _, name = synthetic_pictures(wanted, self.size, g)
        else:
            category = self.corpus[integer(g, 0, len(self.corpus) - 1)]
            drawn = torch.randperm(len(category.images), generator=g)[:wanted]
            images, masks = resized(category.images[drawn], category.masks[drawn], self.size)
            name = category.name
        shots = min(self.shots, len(images) - 1)
        return Episode(images, masks, torch.ones_like(masks[:shots]), None, name)


def resized(images: Tensor, masks: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Pictures (N, 3, H, W) uint8 and masks (N, H, W) bool as `Episode` has them: (N, 3 or 1, size, size) float."""
    pictures, objects = images.float() / 255, masks[:, None].float()
    if images.shape[-1] != size:
        pictures = F.interpolate(pictures, size=(size, size), mode="bilinear", antialias=True)
        objects = (F.interpolate(objects, size=(size, size), mode="area") > 0.5).float()
    return pictures, objects
