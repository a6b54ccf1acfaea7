"""What points mark: blobs of a typical radius, brighter or darker than what is around them.

The radius is the scale at which they stand out most [1]_.

References
----------
.. [1] Lindeberg, Feature detection with automatic scale selection, IJCV 30 (1998) 79-116.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from fewscope.connectors.support.support_set import POINT, SupportSet

SIGMAS = 2.0 ** np.arange(0.5, 5.01, 0.25)
"""Scales, px, at which points are looked at: of radii from 2 to 45 px."""

REACH = 4
"""Sigmas around a point that are looked at."""

NEIGHBOURS = 0.75
"""Largest radius that is looked for, as a part of the median distance from a point to the nearest other one: objects
that touch are two radii apart, and a crowd of them stands out as one blob."""


@dataclass(frozen=True, slots=True)
class Blobs:
    """What points mark: blobs that are brighter or darker than what is around them, in one channel.

    Attributes
    ----------
    radius : float
        px
    channel : int
        In which they stand out most.
    sign : float
        -1 where they are brighter there, 1 where darker.
    is_given : bool
        Whether the radius was stated, and not estimated.
    """

    radius: float
    channel: int
    sign: float
    is_given: bool = False

    def response(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """How much each place of an image (H, W, channels) looks like the middle of such a blob: (H, W)."""
        response: NDArray[np.float32] = self.sign * _response(image, self.channel, self.radius / np.sqrt(2))
        return response

    def middle(self, response: NDArray[np.float32], row: float, col: float) -> tuple[float, float]:
        """The middle of the blob on which a point lies, as people do not click exactly: where the response is largest
        within half a radius."""
        rows, cols = np.indices(response.shape, np.float32)
        near = (rows - row) ** 2 + (cols - col) ** 2 <= (self.radius / 2) ** 2
        if not near.any():
            return row, col
        best = np.unravel_index(np.where(near, response, -np.inf).argmax(), response.shape)
        return float(best[0]), float(best[1])


def _response(image: NDArray[np.uint8], channel: int, sigma: float) -> NDArray[np.float32]:
    """Scale-normalised Laplacian of Gaussian of a channel, (H, W)."""
    laplacian: NDArray[np.float32] = ndimage.gaussian_laplace(image[..., channel].astype(np.float32), sigma)
    return sigma**2 * laplacian


def find_blobs(
    images: NDArray[np.uint8], centres: list[NDArray[np.float64]], radius: float | None = None
) -> Blobs | None:
    """The blobs that points mark; None without a point.

    The scale-normalised Laplacian of Gaussian of a disc is largest at sigma = radius / sqrt(2). Its mean over the
    points is taken, in the channel where it is largest, so that what single points lie beside averages out.

    Parameters
    ----------
    images : NDArray[np.uint8]
        (K, H, W, channels)
    centres : list[NDArray[np.float64]]
        For each image (n, 2) rows and columns.
    radius : float | None
        Their typical radius, px; None to estimate it.
    """
    n = sum(map(len, centres))
    if not n:
        return None
    if radius is None:
        sigmas = SIGMAS[: max(1, np.searchsorted(SIGMAS, _largest_radius(centres) / np.sqrt(2), "right"))]
    else:
        sigmas = np.array([radius / np.sqrt(2)])
    reach = int(np.ceil(REACH * sigmas[-1]))
    around = np.zeros(
        (2 * reach + 1, 2 * reach + 1, images.shape[-1])
    )  # the sum of the places around all points
    for image, points in zip(images, centres, strict=True):
        padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), "symmetric")
        for row, col in np.rint(points).astype(int):
            around += padded[row : row + 2 * reach + 1, col : col + 2 * reach + 1]
    middle = np.zeros(2 * reach + 1)
    middle[reach] = 1
    total = np.zeros((len(sigmas), images.shape[-1]))
    for i, sigma in enumerate(sigmas):
        plain, curved = (ndimage.gaussian_filter1d(middle, sigma, order=order) for order in (0, 2))
        laplacian = np.outer(plain, curved) + np.outer(curved, plain)
        total[i] = sigma**2 * np.einsum("hw,hwc->c", laplacian, around)
    best = np.unravel_index(np.abs(total).argmax(), total.shape)
    found = float(sigmas[best[0]] * np.sqrt(2)) if radius is None else radius
    return Blobs(found, int(best[1]), float(np.sign(total[best])), radius is not None)


def blobs_of_classes(support: SupportSet, radius: float | None) -> dict[int, Blobs]:
    """What the points of each class 1..C mark that has some; `radius`: theirs, px, if it is given."""
    if support.rough is None or support.instances is None:
        return {}
    found = {}
    for value in range(1, len(support.class_names) + 1):
        centres = []
        for labels, numbers, rough in zip(support.labels, support.instances, support.rough, strict=True):
            marked = np.where((labels == value) & (rough == POINT), numbers, 0)
            ids = np.unique(marked[marked > 0])
            centres.append(np.array(ndimage.center_of_mass(marked > 0, marked, ids)).reshape(-1, 2))
        blobs = find_blobs(support.images, centres, radius)
        if blobs is not None:
            found[value] = blobs
    return found


def _largest_radius(centres: list[NDArray[np.float64]]) -> float:
    """Beyond which objects at points would lie over one another, px; infinite where no image has two points."""
    nearest = [KDTree(points).query(points, 2)[0][:, 1] for points in centres if len(points) > 1]
    return NEIGHBOURS * float(np.median(np.concatenate(nearest))) if nearest else np.inf
