"""Rivers whose length and width are known: a mask burnt at any resolution, orientation and place."""

from __future__ import annotations

import math

import numpy as np
import shapely
from affine import Affine
from rasterio.features import rasterize


def sinusoid(length: float, amplitude: float, wavelength: float, n: int = 4000) -> np.ndarray:
    """Points (n, 2) of a sine along x, symmetric about 0, in the unit of the arguments."""
    x = np.linspace(-length / 2, length / 2, n)
    return np.stack([x, amplitude * np.sin(2 * np.pi * x / wavelength)], axis=-1)


def turned(points: np.ndarray, degrees: float) -> np.ndarray:
    """Points (n, 2) rotated about 0."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return points @ np.array([[c, s], [-s, c]])


def band(points: np.ndarray, width: float) -> shapely.Polygon:
    """What lies within half a width of a line, with flat ends."""
    return shapely.LineString(points).buffer(width / 2, cap_style="flat", quad_segs=32)


def burn(shapes: list[shapely.Geometry], pixel: float, margin: float = 0.0) -> tuple[np.ndarray, Affine]:
    """Mask (H, W) of shapes, by pixel centres, with square pixels; and its transform."""
    west, south, east, north = shapely.total_bounds(shapes)
    west, north = west - margin - pixel * 3.3, north + margin + pixel * 3.7  # banks between pixel edges
    width, height = (math.ceil((side + margin) / pixel) + 4 for side in (east - west, north - south))
    transform = Affine(pixel, 0, west, 0, -pixel, north)
    return rasterize([(s, 1) for s in shapes], (height, width), transform=transform).astype(bool), transform
