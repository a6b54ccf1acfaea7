"""Synthetic tasks on a plane cut into cells: tissue and micrographs with membranes, and land cut into parcels.

These add to the generators of `model.episodes.synthetic` what makes real images hard: organelles as dark as the
membrane, houses as bright as the road, and parcels of one class that differ in brightness.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from fewscope.model.episodes.synthetic import (
    Blobs,
    Drawing,
    LabelField,
    Material,
    Rivers,
    Task,
    integer,
    noise,
    uniform,
)


@dataclass(frozen=True, slots=True, eq=False)
class Tessellation:
    """A plane cut into cells.

    Attributes
    ----------
    cell : Tensor
        (size, size) int64, index of the cell of each pixel.
    inside : Tensor
        (size, size) float, approximate distance to the border of the cell, px.
    middle : Tensor
        (size, size) float, distance to the centre of the cell, px.
    n_cells : int
        Number of cells.
    """

    cell: Tensor
    inside: Tensor
    middle: Tensor
    n_cells: int

    @staticmethod
    def random(size: int, step: float, warp: float, straight: bool, generator: Generator) -> Tessellation:
        """Voronoi cells around jittered points.

        Parameters
        ----------
        size : int
            Side of the plane, px.
        step : float
            Approximate side of a cell, px.
        warp : float
            How far borders are bent, px.
        straight : bool
            Use the city-block metric, which gives right angles.
        """
        at = torch.arange(-step / 2, size + step, step)
        rows, cols = torch.meshgrid(at, at, indexing="ij")
        points = torch.stack([rows.flatten(), cols.flatten()], 1)
        points = points + (torch.rand(points.shape, generator=generator) - 0.5) * step * 0.9
        y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        pixels = torch.stack([y, x]).float()
        if warp:
            pixels = pixels + warp * noise(2, size, max(4.0, step / 2), generator)
        pixels = pixels.flatten(1).T
        if straight:
            turn = torch.tensor(uniform(generator, 0, torch.pi / 2))
            cos, sin = turn.cos(), turn.sin()
            rotation = torch.stack([torch.stack([cos, -sin]), torch.stack([sin, cos])])
            stretch = torch.tensor([uniform(generator, 0.6, 1.6), 1.0])
            points, pixels = (p @ rotation.T * stretch for p in (points, pixels))
        distance = torch.cdist(pixels, points, p=1.0 if straight else 2.0)
        nearest, cells = distance.topk(2, dim=1, largest=False)
        shape = (size, size)
        border = (nearest[:, 1] - nearest[:, 0]) / 2
        return Tessellation(
            cells[:, 0].reshape(shape), border.reshape(shape), nearest[:, 0].reshape(shape), len(points)
        )


class Cells:
    """Cells side by side, with membranes, nuclei and organelles; any of them may be the object."""

    def __init__(self, generator: Generator) -> None:
        base = torch.rand(3, generator=generator)
        if uniform(generator, 0, 1) < 0.5:  # a grey micrograph
            base = base[:1].expand(3).clone()
        near = 0.3 if uniform(generator, 0, 1) < 0.5 else 0.18
        self.plasma = [Material.random(generator, base, near) for _ in range(integer(generator, 1, 2))]
        self.membrane = Material.random(generator, base, near)
        self.nucleus = Material.random(generator, base, near)
        self.outside = Material.random(generator, base, near)
        self.organelle = self.membrane if uniform(generator, 0, 1) < 0.6 else self.nucleus
        self.step = 2.0 ** uniform(generator, 3.2, 5.6)
        self.warp = uniform(generator, 0.0, 0.25) * self.step
        self.width = uniform(generator, 0.6, 3.0)
        self.empty = uniform(generator, 0.0, 0.5) if uniform(generator, 0, 1) < 0.4 else 0.0
        self.nuclei = uniform(generator, 0.2, 0.45) if uniform(generator, 0, 1) < 0.5 else 0.0
        self.organelles = uniform(generator, 1.2, 2.4) if uniform(generator, 0, 1) < 0.6 else 9.0
        self.shade = uniform(generator, 0.0, 0.12)
        kinds = ["membrane", "membrane", "cell", "cell"] + ["nucleus"] * 2 * (self.nuclei > 0)
        kinds += ["kind"] * (len(self.plasma) > 1)
        self.object = kinds[integer(generator, 0, len(kinds) - 1)]

    def draw(self, size: int, generator: Generator) -> Drawing:
        """Draw an image of size x size px."""
        t = Tessellation.random(size, self.step, self.warp, False, generator)
        there = (torch.rand(t.n_cells, generator=generator) >= self.empty)[t.cell]
        kind = torch.randint(len(self.plasma), (t.n_cells,), generator=generator)[t.cell]
        wall = there & (t.inside < self.width)
        within = there & ~wall
        image = self.outside.paint(size, generator)
        for i, material in enumerate(self.plasma):
            image = torch.where(within & (kind == i), material.paint(size, generator), image)
        shades = self.shade * torch.randn(t.n_cells, generator=generator)
        image = image + torch.where(within, shades[t.cell], 0.0)
        wobble = noise(1, size, max(3.0, self.step / 4), generator)[0]
        nucleus = (
            within & (t.middle < self.nuclei * self.step * (1 + 0.25 * wobble)) & (t.inside > self.width + 1)
        )
        spots = noise(1, size, max(2.0, self.step / 7), generator)[0]
        organelle = within & ~nucleus & (spots > self.organelles)
        image = torch.where(organelle, self.organelle.paint(size, generator), image)
        image = torch.where(nucleus, self.nucleus.paint(size, generator), image)
        image = torch.where(wall, self.membrane.paint(size, generator), image)
        if self.object == "membrane":
            return Drawing(image, wall)
        if self.object == "kind":
            return Drawing(image, within & (kind == 0))
        if self.object == "nucleus":
            return Drawing(image, nucleus, (1 - t.middle / (self.nuclei * self.step)).clamp(0, 1) * nucleus)
        return Drawing(image, within, ((t.inside - self.width) / (0.4 * self.step)).clamp(0, 1) * within)


class Parcels:
    """Land from above: fields of several land covers, roads between them, houses and trees on them."""

    def __init__(self, generator: Generator) -> None:
        base = torch.rand(3, generator=generator)
        self.covers = [Material.random(generator, base, 0.25) for _ in range(integer(generator, 2, 5))]
        self.road, self.house, self.tree = (Material.random(generator, base, 0.25) for _ in range(3))
        self.straight = uniform(generator, 0, 1) < 0.6
        self.step = 2.0 ** uniform(generator, 4.0, 6.0)
        self.warp = 0.0 if self.straight else uniform(generator, 0.0, 0.3) * self.step
        self.width = uniform(generator, 0.8, 4.0)
        self.shade = uniform(generator, 0.0, 0.1)
        self.lots = 2.0 ** uniform(generator, 2.6, 4.2)
        self.houses = uniform(generator, 0.3, 0.9)
        self.trees = uniform(generator, 0.5, 1.8)
        self.object = ("cover", "cover", "road", "house", "tree")[integer(generator, 0, 4)]

    def draw(self, size: int, generator: Generator) -> Drawing:
        """Draw an image of size x size px."""
        t = Tessellation.random(size, self.step, self.warp, self.straight, generator)
        cover = torch.randint(len(self.covers), (t.n_cells,), generator=generator)[t.cell]
        built = (torch.rand(t.n_cells, generator=generator) < 0.4)[t.cell]
        image = torch.zeros(3, size, size)
        for i, material in enumerate(self.covers):
            image = torch.where(cover == i, material.paint(size, generator), image)
        image = image + (self.shade * torch.randn(t.n_cells, generator=generator))[t.cell]
        road = t.inside < self.width
        house = built & ~road & self._houses(size, generator)
        tree = (noise(1, size, max(3.0, self.lots / 2), generator)[0] > self.trees) & ~house & ~road
        shadow = torch.roll(house, (1, 2), (0, 1)) & ~house
        image = torch.where(tree, self.tree.paint(size, generator), image)
        image = torch.where(shadow, image * 0.6, image)
        image = torch.where(house, self.house.paint(size, generator), image)
        image = torch.where(road, self.road.paint(size, generator), image)
        ground = (cover == 0) & ~road & ~house & ~tree
        return Drawing(image, {"cover": ground, "road": road, "house": house, "tree": tree}[self.object])

    def _houses(self, size: int, generator: Generator) -> Tensor:
        """Rectangles on some lots of a rotated grid: (size, size) bool."""
        turn = torch.tensor(uniform(generator, 0, torch.pi / 2))
        y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        down = (y * turn.cos() + x * turn.sin() + size) / self.lots
        along = (x * turn.cos() - y * turn.sin() + size) / (self.lots * uniform(generator, 0.7, 1.5))
        lot = down.long() * 997 + along.long()
        stands = torch.rand(4096, generator=generator)[lot % 4096] < self.houses
        edges = [uniform(generator, 0.08, 0.3) for _ in range(2)]
        for place, edge in zip((down, along), edges, strict=True):
            stands &= (place % 1 > edge) & (place % 1 < 1 - edge)
        return stands


TASKS: dict[Callable[[Generator], Task], float] = {
    Blobs: 0.3,
    LabelField: 0.2,
    Rivers: 0.15,
    Cells: 0.2,
    Parcels: 0.15,
}
"""Generators and their probabilities."""


def random_task(generator: Generator) -> Task:
    """A random task of a generator of `TASKS`."""
    kinds = list(TASKS)
    weights = torch.tensor([TASKS[kind] for kind in kinds])
    kind = kinds[int(torch.multinomial(weights, 1, generator=generator))]
    return kind(generator)
