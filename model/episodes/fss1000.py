"""Episodes as in FSS-1000 (Li et al., CVPR 2020): whole images, not augmented."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fewscope.model.conventions import PATCH_SIZE
from fewscope.model.episodes.category import Category
from fewscope.model.episodes.sampler import Episode, synthetic_pictures
from fewscope.model.episodes.synthetic import integer


class PaperEpisodes:
    """K support images and Q queries of one class, all distinct, whole and unchanged but for their size.

    Episode i depends on (seed, i) alone. All classes are equally likely, unless domains are balanced. A class of fewer
    than K + Q images has fewer queries, or, if need be, fewer supports.

    Parameters
    ----------
    classes : list[Category]
        To draw from; empty for synthetic images.
    size : int
        Side in px to which images are resized.
    shots, queries : int
        K and Q; both 5 in the published code.
    seed : int
        Seed of all episodes.
    balance_domains : bool
        All domains are equally likely, and all classes of a domain.
    """

    def __init__(
        self,
        classes: list[Category],
        *,
        size: int = PATCH_SIZE,
        shots: int = 5,
        queries: int = 5,
        seed: int = 0,
        balance_domains: bool = False,
    ) -> None:
        self.pools = pools_of(classes) if balance_domains else [classes]
        self.size = size
        self.shots, self.queries = shots, queries
        self.seed = seed

    def __getitem__(self, index: int) -> Episode:
        g = torch.Generator().manual_seed((self.seed * 1_000_003 + index) % 2**63)
        wanted = self.shots + self.queries
        known = None
        pool = self.pools[integer(g, 0, len(self.pools) - 1)] if len(self.pools) > 1 else self.pools[0]
        if not pool:
            images, masks, _, name = synthetic_pictures(wanted, self.size, g)
        else:
            category = pool[integer(g, 0, len(pool) - 1)]
            drawn = torch.randperm(len(category.images), generator=g)[:wanted]
            images, masks = resized(category.images[drawn], category.masks[drawn], self.size)
            known = known_of(category, drawn, self.size)
            name = category.name
        return whole(images, masks, min(self.shots, len(images) - 1), name, known)


def pools_of(classes: list[Category]) -> list[list[Category]]:
    """The classes of each domain, in the order in which domains appear; one empty list without classes."""
    pools: dict[str, list[Category]] = {}
    for category in classes:
        pools.setdefault(category.domain, []).append(category)
    return list(pools.values()) or [[]]


def whole(images: Tensor, masks: Tensor, shots: int, name: str, known: Tensor | None) -> Episode:
    """An episode of images (K + Q, 3, S, S) whose first K are supports, labelled where `known` (K + Q, 1, S, S)."""
    labelled = torch.ones_like(masks[:shots])
    if known is None:
        return Episode(images, masks, labelled, None, name)
    return Episode(images, masks, labelled * known[:shots], None, name, known[shots:])


def known_of(category: Category, drawn: Tensor | list[int], size: int) -> Tensor | None:
    """Where images of a class are not void, (N, 1, size, size) float; None if the class has no void."""
    if category.void is None:
        return None
    void = category.void[drawn][:, None].float()
    return (F.adaptive_max_pool2d(void, size) == 0).float()


def resized(images: Tensor, masks: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Resize images (N, 3, H, W) uint8 and masks (N, H, W) bool to (N, 3, size, size) and (N, 1, size, size) float."""
    pictures, objects = images.float() / 255, masks[:, None].float()
    if images.shape[-1] != size:
        pictures = F.interpolate(pictures, size=(size, size), mode="bilinear", antialias=True)
        objects = (F.interpolate(objects, size=(size, size), mode="area") > 0.5).float()
    return pictures, objects
