"""Stains of brightfield slides by colour deconvolution: optical densities of two stains in a pixel.

Optical density is -log10(I / 255), which adds up over stains (Beer and Lambert). A pixel's three densities are divided
among two stains and what is perpendicular to both, as by Ruifrok and Johnston [1]_ and as QuPath does it, with the
vectors that QuPath starts from: its values and ours can be compared.

References
----------
.. [1] Ruifrok and Johnston, Quantification of histochemical staining by color deconvolution, Anal. Quant. Cytol.
   Histol. 23 (2001) 291-299.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewscope.connectors.source import MeasuredChannel
from fewscope.connectors.stain_options import STAIN_SETS

VECTORS: dict[str, tuple[float, float, float]] = {
    "hematoxylin": (0.65, 0.70, 0.29),
    "DAB": (0.27, 0.57, 0.78),
    "eosin": (0.2159, 0.8012, 0.5581),
}
"""Optical density of a stain in red, green and blue: of hematoxylin and DAB by Ruifrok and Johnston, of eosin as QuPath
starts from."""

STEP = 1e-4
"""Optical density of a code."""

BROWN_SHARE = 0.03
"""Part of the stained pixels of an overview that are brown where a slide looks like DAB."""

_DENSITY = -np.log10(np.maximum(np.arange(256), 1) / 255)
"""Optical density of each 8-bit value; black is taken to be 1."""


@dataclass(frozen=True, slots=True)
class Stains:
    """Two stains of a slide.

    Attributes
    ----------
    kind : str
        One of `STAIN_SETS`.
    """

    kind: str

    @property
    def names(self) -> tuple[str, ...]:
        """The stains, in the order of `codes`."""
        return STAIN_SETS[self.kind]

    @property
    def measured(self) -> tuple[MeasuredChannel, ...]:
        """The stains as measured channels, in optical density."""
        return tuple(MeasuredChannel(name, 0.0, STEP, "od") for name in self.names)

    def codes(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """Optical densities of pixels, (n, 3) RGB, in steps of `STEP`: (n, 2); 0 where the density is negative."""
        first, second = (np.array(VECTORS[name]) / np.linalg.norm(VECTORS[name]) for name in self.names)
        rest = np.cross(first, second)
        inverse = np.linalg.inv(np.stack([first, second, rest / np.linalg.norm(rest)]))
        red, green, blue = (_DENSITY[pixels[:, i]] for i in range(3))
        found = np.empty((len(pixels), 2), np.uint16)
        for k in range(2):
            # in this order of sums for every number of pixels, which a product of matrices does not promise
            density = red * inverse[0, k] + green * inverse[1, k] + blue * inverse[2, k]
            found[:, k] = np.clip(np.rint(density / STEP), 0, np.iinfo(np.uint16).max)
        return found


def looks_like_dab(image: NDArray[np.uint8], valid: NDArray[np.bool_]) -> bool:
    """Whether an overview (h, w, 3) of a bright slide shows brown, and less of the pink of eosin."""
    pixels = image[valid]
    if not len(pixels) or np.percentile(pixels.max(axis=1), 90) < 160:
        return False
    red, green, blue = (_DENSITY[pixels[:, i]] for i in range(3))
    stained = red + green + blue > 0.3
    brown = stained & (blue > 0.95 * green) & (blue > 1.2 * red)
    pink = stained & (green > 1.6 * red) & (green > 1.15 * blue)
    return bool(brown.sum() > max(BROWN_SHARE * stained.sum(), pink.sum()))
