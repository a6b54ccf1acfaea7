"""Synthetic episodes, generated on the fly: tasks that no data set has, so that a network learns to use the support
set.

A generator draws images with their masks. What an episode shares (colours, textures, which label is the object) is
drawn once; what differs between its images (shapes, positions, jitter, noise) is drawn for each.

- `LabelField`: smooth noise fields compete for every pixel; one label is the object (after UniverSeg [1]_).
- `Blobs`: touching round objects on a jittered grid, among objects that look different, each separated (after AnyStar
  [2]_).
- `Rivers`: winding bands of varying width, with islands and side channels (after VessShape [3]_).

References
----------
.. [1] Butoi et al., UniverSeg: universal medical image segmentation, ICCV 2023.
.. [2] Dey et al., AnyStar: domain randomized universal star-convex 3D instance segmentation, WACV 2024.
.. [3] Galvao et al., VessShape: few-shot 2D blood vessel segmentation by leveraging shape priors, 2025.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """A synthetic image with its mask.

    Attributes
    ----------
    image : Tensor
        (3, size, size) float, about 0..1.
    mask : Tensor
        (size, size) bool, the object.
    depth : Tensor | None
        (size, size) float, 0 at the rim of each object and outside, 1 in its middle; None if objects are not
        separated.
    """

    image: Tensor
    mask: Tensor
    depth: Tensor | None = None


class Task(Protocol):
    """One synthetic task: every call draws another image of it."""

    def draw(self, size: int, generator: Generator) -> Drawing:
        """Draw an image of size x size px."""
        ...


def uniform(generator: Generator, low: float, high: float) -> float:
    """One number from U(low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def integer(generator: Generator, low: int, high: int) -> int:
    """One integer from low..high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def noise(n: int, size: int, scale: float, generator: Generator) -> Tensor:
    """Smooth noise fields (n, size, size), mean 0, standard deviation about 1, with features of about `scale` px."""
    cells = max(2, round(size / max(scale, 1.0)) + 1)
    if cells >= size:
        return torch.randn(n, size, size, generator=generator)
    coarse = torch.randn(n, 1, cells, cells, generator=generator)
    fine = F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)[:, 0]
    return fine / fine.std(dim=(1, 2), keepdim=True).clamp_min(1e-3)


@dataclass(frozen=True, slots=True)
class Material:
    """Appearance of one label: a colour, and one or two textures."""

    colour: Tensor  # (3,)
    tint: Tensor  # (3,) direction in which the texture changes the colour
    scale: float
    amplitude: float
    grain: float

    @staticmethod
    def random(generator: Generator, near: Tensor | None = None, distance: float = 0.18) -> Material:
        """A random material; with `near` (3,), its colour has about `distance` from that one."""
        colour = torch.rand(3, generator=generator)
        if near is not None:  # a look-alike: differs by a little colour, or by texture
            colour = (near + distance * torch.randn(3, generator=generator)).clamp(0, 1)
        grey = torch.ones(3)
        tint = torch.lerp(grey, torch.randn(3, generator=generator), 0.4)
        return Material(
            colour,
            tint,
            scale=2.0 ** uniform(generator, 0.5, 5.0),
            amplitude=uniform(generator, 0.0, 0.16),
            grain=uniform(generator, 0.0, 0.07),
        )

    def paint(self, size: int, generator: Generator) -> Tensor:
        """An image (3, size, size) of this material."""
        texture = self.amplitude * noise(1, size, self.scale, generator)[0]
        texture = texture + self.grain * torch.randn(size, size, generator=generator)
        shift = 0.025 * torch.randn(3, generator=generator)
        return (self.colour + shift)[:, None, None] + self.tint[:, None, None] * texture


STAINS = {"haematoxylin": (0.65, 0.70, 0.29), "eosin": (0.07, 0.99, 0.11), "dab": (0.27, 0.57, 0.78)}
"""Optical density in red, green and blue (Ruifrok and Johnston, Anal. Quant. Cytol. Histol. 2001)."""


def stained(
    generator: Generator, blue: tuple[float, float], other: str, amount: tuple[float, float]
) -> Tensor:
    """Colour (3,) of tissue with amounts of haematoxylin and of another stain drawn from ranges."""
    density = torch.zeros(3)
    for stain, (low, high) in (("haematoxylin", blue), (other, amount)):
        vector = torch.tensor(STAINS[stain]) * (1 + 0.15 * torch.randn(3, generator=generator))
        density = density + uniform(generator, low, high) * vector.clamp_min(0)
    return torch.exp(-density).clamp(0, 1)


class LabelField:
    """Label maps from competing noise fields."""

    def __init__(self, generator: Generator) -> None:
        n = integer(generator, 2, 8)
        base = torch.rand(3, generator=generator)
        self.materials = [
            Material.random(generator, base if uniform(generator, 0, 1) < 0.75 else None) for _ in range(n)
        ]
        self.scale = 2.0 ** uniform(generator, 2.8, 5.5)
        self.roughness = uniform(generator, 0.0, 0.5)
        self.objects = {0} if n < 5 or uniform(generator, 0, 1) < 0.7 else {0, 1}

    def draw(self, size: int, generator: Generator) -> Drawing:
        """Draw an image of size x size px."""
        n = len(self.materials)
        fields = noise(n, size, self.scale, generator)
        fields = fields + self.roughness * noise(n, size, self.scale / 4, generator)
        labels = fields.argmax(0)
        image = torch.zeros(3, size, size)
        for i, material in enumerate(self.materials):
            image = torch.where(labels == i, material.paint(size, generator), image)
        mask = torch.zeros(size, size, dtype=torch.bool)
        for i in self.objects:
            mask |= labels == i
        return Drawing(image, mask)


class Blobs:
    """Round objects on a jittered grid, some of them touching; the object of the task is one of up to three kinds."""

    def __init__(self, generator: Generator) -> None:
        background = torch.rand(3, generator=generator)
        if uniform(generator, 0, 1) < 0.25:
            background = background * 0.15  # fluorescence: nearly black
        n_kinds = integer(generator, 1, 3)
        n_grounds = integer(generator, 1, 3)
        self.background = [Material.random(generator, background) for _ in range(n_grounds)]
        self.kinds = [
            Material.random(generator, background if uniform(generator, 0, 1) < 0.75 else None)
            for _ in range(n_kinds)
        ]
        if uniform(generator, 0, 1) < 0.35:  # a section, its nuclei blue or, some of them, brown
            other = "eosin" if uniform(generator, 0, 1) < 0.7 else "dab"
            amount = (0.1, 0.9) if other == "eosin" else (0.0, 0.3)
            grounds = [stained(generator, (0.0, 0.35), other, amount) for _ in range(n_grounds)]
            nuclei = [stained(generator, (0.4, 1.5), other, (0.0, 0.9)) for _ in range(n_kinds)]
            self.background = [Material.random(generator, colour, 0.02) for colour in grounds]
            self.kinds = [Material.random(generator, colour, 0.02) for colour in nuclei]
        self.radii = [2.0 ** uniform(generator, 1.6, 4.3) for _ in range(n_kinds)]
        self.elongation = [uniform(generator, 1.0, 2.6) for _ in range(n_kinds)]
        self.density = [uniform(generator, 0.25, 0.95) for _ in range(n_kinds)]
        self.spacing = [uniform(generator, 1.6, 3.2) for _ in range(n_kinds)]
        self.rim = uniform(generator, -0.12, 0.12) if uniform(generator, 0, 1) < 0.4 else 0.0
        self.crease = (
            uniform(generator, -0.1, 0.1) if uniform(generator, 0, 1) < 0.5 else 0.0
        )  # where objects touch
        self.wobble = uniform(generator, 0.0, 0.35)

    def draw(self, size: int, generator: Generator) -> Drawing:
        """Draw an image of size x size px."""
        image = self.background[0].paint(size, generator)
        if len(self.background) > 1:
            fields = noise(len(self.background), size, size / 4, generator)
            labels = fields.argmax(0)
            for i, material in enumerate(self.background[1:], start=1):
                image = torch.where(labels == i, material.paint(size, generator), image)
        for kind in reversed(range(len(self.kinds))):  # kind 0, the object, is painted last
            distance, depth = self._distance(kind, size, generator)
            inside = distance < 1
            sheet = self.kinds[kind].paint(size, generator)
            sheet = (
                sheet + self.rim * (distance > 0.7).float() + self.crease * ((depth < 0.12) & inside).float()
            )
            image = torch.where(inside, sheet, image)
        return Drawing(image, inside, depth)

    def _distance(self, kind: int, size: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Distance to the nearest object's centre in units of its radius, and depth in that object, (size, size) each.

        Depth is 0 at the rim, and where another object is equally near.
        """
        radius = self.radii[kind]
        step = max(3.0, radius * self.spacing[kind])
        at = torch.arange(-step, size + step, step)
        rows, cols = torch.meshgrid(at, at, indexing="ij")
        centres = torch.stack([rows.flatten(), cols.flatten()], 1)
        centres = centres + (torch.rand(len(centres), 2, generator=generator) - 0.5) * step * 0.9
        kept = torch.rand(len(centres), generator=generator) < self.density[kind]
        centres = centres[kept][:900]
        best = torch.full((size, size), 9.0)
        if len(centres) == 0:
            return best, torch.zeros(size, size)
        angle = torch.rand(len(centres), generator=generator) * torch.pi
        r = radius * (0.6 + 0.6 * torch.rand(len(centres), generator=generator))
        long = self.elongation[kind] ** (0.5 + 0.5 * torch.rand(len(centres), generator=generator))
        reach = int(radius * 1.3 * max(1.0, self.elongation[kind] ** 0.5)) + 2
        window = torch.arange(-reach, reach + 1)
        dy, dx = torch.meshgrid(window, window, indexing="ij")
        origin = centres.round()
        y = dy.flatten()[None] + (origin - centres)[:, 0:1]
        x = dx.flatten()[None] + (origin - centres)[:, 1:2]
        u = (x * angle.cos()[:, None] + y * angle.sin()[:, None]) / (r * long.sqrt())[:, None]
        v = (-x * angle.sin()[:, None] + y * angle.cos()[:, None]) / (r / long.sqrt())[:, None]
        d = (u * u + v * v).sqrt()
        rows_at = (origin[:, 0:1] + dy.flatten()[None]).long()
        cols_at = (origin[:, 1:2] + dx.flatten()[None]).long()
        inside = (rows_at >= 0) & (rows_at < size) & (cols_at >= 0) & (cols_at < size)
        at_pixel, d = (rows_at * size + cols_at)[inside], d[inside]
        nearest = best.flatten().scatter_reduce(0, at_pixel, d, reduce="amin", include_self=True)
        others = d > nearest[at_pixel]  # of an object that is not the nearest
        second = best.flatten().scatter_reduce(
            0, at_pixel[others], d[others], reduce="amin", include_self=True
        )
        wobble = self.wobble * noise(1, size, max(2.0, radius), generator)[0].clamp(-1.5, 1.5)
        distance = nearest.reshape(size, size) * (1 + 0.4 * wobble)
        lead = (second - nearest).reshape(size, size)
        return distance, torch.minimum(1 - distance, lead).clamp(0, 1)


class Rivers:
    """Winding bands: a river with islands and side channels, a road, a vessel."""

    def __init__(self, generator: Generator) -> None:
        base = torch.rand(3, generator=generator)
        self.land = [Material.random(generator, base) for _ in range(integer(generator, 1, 4))]
        self.water = Material.random(generator, base if uniform(generator, 0, 1) < 0.75 else None)
        self.width = 2.0 ** uniform(generator, 1.0, 4.6)
        self.wander = uniform(generator, 0.15, 0.6)
        self.islands = uniform(generator, 0.0, 1.0)

    def draw(self, size: int, generator: Generator) -> Drawing:
        """Draw an image of size x size px."""
        fields = noise(len(self.land), size, size / 3.5, generator)
        labels = fields.argmax(0)
        image = torch.zeros(3, size, size)
        for i, material in enumerate(self.land):
            image = torch.where(labels == i, material.paint(size, generator), image)
        bend = self.wander * size * 0.35
        mask = torch.zeros(size, size, dtype=torch.bool)
        rows, cols = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        for arm in range(integer(generator, 1, 3)):
            # a band is a level set of a coordinate warped by smooth noise: no curve is traced
            angle = uniform(generator, 0, torch.pi)
            across = (cols - size / 2) * torch.cos(torch.tensor(angle)) + (rows - size / 2) * torch.sin(
                torch.tensor(angle)
            )
            across = across - uniform(generator, -0.3, 0.3) * size
            warp = (
                bend * noise(1, size, size / 2.5, generator)[0]
                + bend * 0.2 * noise(1, size, size / 8, generator)[0]
            )
            width = (
                self.width
                * (0.5 if arm else 1.0)
                * (1 + 0.3 * noise(1, size, size / 3, generator)[0]).clamp(0.3, 2)
            )
            mask |= (across + warp).abs() < width
        if self.islands > 0.5:
            mask &= noise(1, size, max(4.0, self.width), generator)[0] < 1.6
        return Drawing(torch.where(mask, self.water.paint(size, generator), image), mask)
