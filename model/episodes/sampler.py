"""Training episodes: a few labelled patches and queries to segment with them, from a data set or synthetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from skimage.segmentation import felzenszwalb
from torch import Generator, Tensor

from fewscope.model.depth import instance_depth
from fewscope.model.episodes.category import Category
from fewscope.model.episodes.synthetic import integer, noise, uniform
from fewscope.model.episodes.tessellations import random_task

PSEUDO_CLASSES = ("appearance", "superpixel")
"""Pseudo-labels in one real image: a cluster of similar pixels, or a superpixel."""

SHOTS = (1, 2, 3, 3, 4, 4, 5, 5, 5)
"""K is drawn from these with equal probability."""


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """K support pairs and Q queries of one task.

    Attributes
    ----------
    images : Tensor
        (K + Q, 3, S, S) float in [0, 1], support first.
    masks : Tensor
        (K + Q, 1, S, S) float, 1 = object.
    labelled : Tensor
        (K, 1, S, S) float, 0 where the annotator left the support patch unlabelled, and where it is void.
    depths : Tensor | None
        (K + Q, 1, S, S) float in [0, 1], depth of a pixel inside its object (`model.depth`); None if objects
        are not separated.
    name : str
        Name of the class or generator.
    known : Tensor | None
        (Q, 1, S, S) float, 0 where a query is void, which no loss and no score counts; None without void.
    """

    images: Tensor
    masks: Tensor
    labelled: Tensor
    depths: Tensor | None
    name: str
    known: Tensor | None = None

    @property
    def shots(self) -> int:
        """K, the number of support pairs."""
        return len(self.labelled)

    def to(self, device: torch.device) -> Episode:
        """The same on another device."""
        if device.type == "cpu":
            return self
        depths, known = (
            None if t is None else t.to(device, non_blocking=True) for t in (self.depths, self.known)
        )
        images, masks, labelled = (
            t.to(device, non_blocking=True) for t in (self.images, self.masks, self.labelled)
        )
        return Episode(images, masks, labelled, depths, self.name, known)


class EpisodeSource(Protocol):
    """An endless sequence of episodes."""

    def __getitem__(self, index: int) -> Episode:
        """Episode `index`; the same in every call."""
        ...


class EpisodeSampler:
    """An endless source of augmented training episodes, reproducible by its seed.

    Episode i depends on (seed, i) alone, so training can be resumed anywhere.

    Parameters
    ----------
    classes : list[Category]
        To draw from; empty for synthetic episodes only.
    size : int
        Side of the training crops in pixels, a multiple of 16.
    images_per_episode : int
        K + Q; K is drawn from `SHOTS`.
    seed : int
        Seed of all episodes.
    mix : dict[str, float] | None
        Probability of an episode of each domain ("micro", "sat", "natural"), of a synthetic one ("synthetic")
        and of each of `PSEUDO_CLASSES`; None for `MIX`.
    alike : int
        Consecutive episodes with the same K, so that they can be computed as one batch.
    shots : int | None
        K of every episode; None to draw it.
    """

    MIX: ClassVar[dict[str, float]] = {
        "micro": 0.26,
        "sat": 0.17,
        "natural": 0.09,
        "synthetic": 0.34,
        "appearance": 0.10,
        "superpixel": 0.04,
    }

    def __init__(
        self,
        classes: list[Category],
        *,
        size: int = 112,
        images_per_episode: int = 8,
        seed: int = 0,
        mix: dict[str, float] | None = None,
        alike: int = 1,
        shots: int | None = None,
    ) -> None:
        wanted = mix or self.MIX
        self.by_domain: dict[str, list[Category]] = {}
        for category in classes:  # all super-categories of FSS-1000 are natural
            self.by_domain.setdefault(category.domain if category.domain in wanted else "natural", []).append(
                category
            )
        self.depths = {
            c.name: torch.from_numpy(np.stack([instance_depth(i) for i in c.instances.numpy()]))
            for c in classes
            if c.instances is not None
        }
        self.kinds = [
            k for k in wanted if k == "synthetic" or k in self.by_domain or (k in PSEUDO_CLASSES and classes)
        ]
        generated = {"synthetic", *PSEUDO_CLASSES}
        # the share of missing domains goes to the other domains, not to generated episodes
        real = sum(share for k, share in wanted.items() if k not in generated)
        there = sum(wanted[k] for k in self.kinds if k not in generated)
        self.weights = torch.tensor(
            [wanted[k] if k in generated else wanted[k] * (real / there) for k in self.kinds]
        )
        self.size = size
        self.images_per_episode = images_per_episode
        self.seed = seed
        self.alike = alike
        self.shots = shots

    def _shots(self, index: int) -> int:
        if self.shots is not None:
            return self.shots
        g = torch.Generator().manual_seed((self.seed * 1_000_003 + index // self.alike + 2**40) % 2**63)
        return SHOTS[integer(g, 0, len(SHOTS) - 1)]

    def __getitem__(self, index: int) -> Episode:
        g = torch.Generator().manual_seed((self.seed * 1_000_003 + index) % 2**63)
        kind = self.kinds[int(torch.multinomial(self.weights, 1, generator=g))]
        shots, known = self._shots(index), None
        if kind == "synthetic":
            images, masks, depths, name = synthetic_pictures(self.images_per_episode, self.size, g)
        elif kind in PSEUDO_CLASSES:
            (images, masks), depths, name = self._pseudo(kind, g), None, kind
        else:
            images, masks, depths, known, name = self._real(kind, g)
        before = masks
        images, masks = vary_task(images, masks, g)
        if not torch.equal(before, masks):  # the depth is that of the original object
            depths = None
        labelled = torch.ones_like(masks[:shots])
        if uniform(g, 0, 1) < 0.15:  # the annotator labelled only a part of each patch
            side = self.size // 2
            for i in range(shots):
                r, c = integer(g, 0, self.size - side), integer(g, 0, self.size - side)
                if 0 < masks[i, 0, r : r + side, c : c + side].mean() < 1:
                    labelled[i] = 0
                    labelled[i, 0, r : r + side, c : c + side] = 1
        if known is None:
            return Episode(images, masks, labelled, depths, name)
        return Episode(images, masks, labelled * known[:shots], depths, name, known[shots:])

    def _real(self, domain: str, g: Generator) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, str]:
        """Images, masks, depths, what is not void, and the name of the class."""
        categories = self.by_domain[domain]
        category = categories[integer(g, 0, len(categories) - 1)]
        n = len(category.images)
        pool = torch.randperm(n, generator=g)
        if uniform(g, 0, 1) < 0.2:  # as in practice: all patches come from one or two places of a slide
            pool = pool[:2]
        zoom = 2.0 ** uniform(g, -1.0, 0.9)
        views = []
        depths_of = self.depths.get(category.name)
        for i in range(self.images_per_episode):
            k = int(pool[i % len(pool)])
            depth = depths_of[k].float() / 255 if depths_of is not None else None
            void = category.void[k].float() if category.void is not None else None
            image, mask = category.images[k].float() / 255, category.masks[k].float()
            nearer = zoom * 2.0 ** uniform(g, -0.2, 0.2)
            views.append(random_view(image, mask, depth, self.size, nearer, g, void))
        images, masks, depths, known = _stack(views)
        return images, masks, depths, known, category.name

    def _pseudo(self, kind: str, g: Generator) -> tuple[Tensor, Tensor]:
        """Views of one real image with a pseudo-label."""
        categories = self.by_domain[list(self.by_domain)[integer(g, 0, len(self.by_domain) - 1)]]
        category = categories[integer(g, 0, len(categories) - 1)]
        image = category.images[integer(g, 0, len(category.images) - 1)].float() / 255
        if kind == "appearance":
            smooth = 2 * integer(g, 1, 3) + 1
            mask = similar_pixels(image, n_clusters=integer(g, 2, 6), smooth=smooth, generator=g)
        else:
            mask = one_superpixel(image, g)
        zoom = 2.0 ** uniform(g, -0.3, 1.0)
        images, masks, _, _ = _stack(
            [random_view(image, mask, None, self.size, zoom, g) for _ in range(self.images_per_episode)]
        )
        return images, masks


def synthetic_pictures(n: int, size: int, g: Generator) -> tuple[Tensor, Tensor, Tensor | None, str]:
    """Images (n, 3, size, size), masks and depths (n, 1, size, size) of one synthetic task, and the name of its
    generator."""
    task = random_task(g)
    drawings = []
    for _ in range(n):
        drawing = task.draw(size, g)
        for _ in range(3):
            if 0.01 < drawing.mask.float().mean() < 0.95:
                break
            drawing = task.draw(size, g)
        drawings.append(drawing)
    images = torch.stack([d.image for d in drawings]).clamp(0, 1)
    if uniform(g, 0, 1) < 0.7:  # optics blur
        width = 3 if uniform(g, 0, 1) < 0.7 else 5
        blurred = F.avg_pool2d(images, width, stride=1, padding=width // 2, count_include_pad=False)
        images = torch.lerp(images, blurred, uniform(g, 0.3, 1.0))
    masks = torch.stack([d.mask for d in drawings])[:, None].float()
    known = [d.depth for d in drawings if d.depth is not None]
    depths = torch.stack(known)[:, None] if len(known) == len(drawings) else None
    return images, masks, depths, type(task).__name__


_View = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
"""Image, mask, depth, and what is not void."""


def _stack(views: list[_View]) -> _View:
    images, masks, depths, known = zip(*views, strict=True)
    return torch.stack(images), torch.stack(masks)[:, None], _all_of(depths), _all_of(known)


def _all_of(maps: Sequence[Tensor | None]) -> Tensor | None:
    """Maps (H, W) as (N, 1, H, W); None unless there is one of every view."""
    there = [one for one in maps if one is not None]
    return torch.stack(there)[:, None] if len(there) == len(maps) else None


def one_superpixel(image: Tensor, generator: Generator) -> Tensor:
    """A random superpixel of an image (3, H, W), at least 2 % of its area, as a float mask (H, W): ALPNet's
    pseudo-label [1]_.

    References
    ----------
    .. [1] Ouyang et al., Self-supervision with superpixels, ECCV 2020.
    """
    scale = 2.0 ** uniform(generator, 5.5, 8.5)
    labels = torch.from_numpy(
        felzenszwalb(image.permute(1, 2, 0).numpy(), scale=scale, sigma=0.8, min_size=image[0].numel() // 50)
    )
    return (labels == integer(generator, 0, int(labels.max()))).float()


def similar_pixels(image: Tensor, n_clusters: int, smooth: int, generator: Generator) -> Tensor:
    """A random k-means cluster of the pixels of an image (3, H, W), by colour and roughness, as a float mask (H, W)."""
    grey = image.mean(0, keepdim=True)
    stack = torch.cat([image, grey * grey, grey])[None]
    mean = F.avg_pool2d(stack, smooth, stride=1, padding=smooth // 2, count_include_pad=False)[0]
    rough = (mean[3] - mean[4].square()).clamp_min(0).sqrt()
    features = torch.cat([mean[:3], 1.5 * rough[None]]).flatten(1).T
    sample = features[torch.randperm(len(features), generator=generator)[:1500]]
    centres = sample[:n_clusters]
    for _ in range(6):
        nearest = torch.cdist(sample, centres).argmin(1)
        centres = torch.stack(
            [
                sample[nearest == i].mean(0) if (nearest == i).any() else centres[i]
                for i in range(len(centres))
            ]
        )
    labels = torch.cdist(features, centres).argmin(1).reshape(image.shape[1:])
    return (labels == integer(generator, 0, n_clusters - 1)).float()


def random_view(
    image: Tensor,
    mask: Tensor,
    depth: Tensor | None,
    size: int,
    zoom: float,
    g: Generator,
    void: Tensor | None = None,
) -> _View:
    """A random view of a pair: rotated, shifted, mirrored.

    Tries up to five times for a view that shows some object and some background.

    Parameters
    ----------
    image, mask, depth : Tensor, Tensor, Tensor | None
        (3, H, W), (H, W), and (H, W) or None.
    size : int
        Side of the view, px.
    zoom : float
        Magnification; at 2, objects are twice as large.
    g : Generator
        Random generator.
    void : Tensor | None
        (H, W) float, 1 where the pair is neither object nor background.

    Returns
    -------
    Image, mask, depth of the view, and where it is not void: (3, size, size), (size, size), and twice (size, size) or
    None
    """
    grid = random_grid(mask, size, zoom, g)
    if max(zoom, size / image.shape[1]) < 0.75:  # bilinear sampling below this would alias
        image = F.avg_pool2d(image[None], 2)[0]
    view = sample_grid(image[None], grid)[0]
    cut = (sample_grid(mask[None, None], grid)[0, 0] > 0.5).float()
    deep = None if depth is None else sample_grid(depth[None, None], grid)[0, 0]
    return view, cut, deep, None if void is None else (sample_grid(void[None, None], grid)[0, 0] == 0).float()


def random_grid(mask: Tensor, size: int, zoom: float, g: Generator) -> Tensor:
    """Sampling grid (1, size, size, 2) of a random view, for `sample_grid` of maps of the shape of `mask` (H, W)."""
    side = mask.shape[0]
    angle = uniform(g, -0.3, 0.3) if uniform(g, 0, 1) < 0.3 else 0.0
    half = min(1.0, size / side / zoom)
    room = 1 - half
    flip = -1.0 if uniform(g, 0, 1) < 0.5 else 1.0
    turn = torch.tensor(angle + integer(g, 0, 3) * torch.pi / 2)
    cos, sin = half * torch.cos(turn), half * torch.sin(turn)
    for _ in range(5):
        centre = torch.tensor([uniform(g, -room, room), uniform(g, -room, room)])
        theta = torch.stack(
            [torch.stack([cos * flip, -sin, centre[0]]), torch.stack([sin * flip, cos, centre[1]])]
        )
        grid = F.affine_grid(theta[None], [1, 1, size, size], align_corners=False).to(mask.device)
        if 0.015 < (sample_grid(mask[None, None], grid) > 0.5).float().mean() < 0.95:
            break
    return grid


def sample_grid(maps: Tensor, grid: Tensor) -> Tensor:
    """Sample maps (1, C, H, W) at a grid (1, size, size, 2): bilinear, reflected at the edges; (1, C, size, size)."""
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def vary_task(images: Tensor, masks: Tensor, g: Generator) -> tuple[Tensor, Tensor]:
    """Augment the task (the same for all images), then each image.

    Task: colours mixed, permuted, inverted or removed; gamma; the object inverted or dilated. Image: brightness,
    contrast, white balance, an illumination gradient, blur, noise.

    Parameters
    ----------
    images, masks : (N, 3, H, W) float in [0, 1], (N, 1, H, W) float

    Returns
    -------
    The same of both
    """
    n, _, h, _ = images.shape
    p = uniform(g, 0, 1)
    if p < 0.25:  # another stain: mix the channels around the mean colour
        mix = torch.eye(3) + 0.35 * torch.randn(3, 3, generator=g)
        mean = images.mean((0, 2, 3))[None, :, None, None]
        images = torch.einsum("ij,njhw->nihw", mix, images - mean) + mean
    elif p < 0.35:
        images = images[:, torch.randperm(3, generator=g)]
    elif p < 0.42:
        images = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    elif p < 0.50:
        images = 1 - images
    if uniform(g, 0, 1) < 0.3:
        images = images.clamp_min(1e-3) ** (2.0 ** uniform(g, -0.8, 0.8))
    if uniform(g, 0, 1) < 0.10:
        masks = 1 - masks
    elif uniform(g, 0, 1) < 0.05:
        masks = F.max_pool2d(masks, 3, stride=1, padding=1)
    strength = uniform(g, 0.0, 0.12)
    gain = (
        1
        + strength * torch.randn(n, 1, 1, 1, generator=g)
        + 0.4 * strength * torch.randn(n, 3, 1, 1, generator=g)
    )
    shift = 0.5 * strength * torch.randn(n, 1, 1, 1, generator=g)
    images = (images - 0.5) * gain + 0.5 + shift
    if uniform(g, 0, 1) < 0.2:
        images = images + 0.06 * noise(n, h, h / 1.5, g)[:, None]
    if uniform(g, 0, 1) < 0.25:
        k = 3
        blurred = F.avg_pool2d(images, k, stride=1, padding=k // 2, count_include_pad=False)
        images = torch.lerp(images, blurred, uniform(g, 0.3, 1.0))
    if uniform(g, 0, 1) < 0.3:
        images = images + uniform(g, 0.0, 0.05) * torch.randn(images.shape, generator=g)
    return images.clamp(0, 1), masks
