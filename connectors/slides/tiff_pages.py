"""Plain TIFFs of several pages: which page is which channel, plane and time point."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile

from fewscope.connectors.slide_options import CHANNEL_TIFF_ENDINGS, Pages
from fewscope.connectors.slides.channel_image import MAX_CHANNELS
from fewscope.connectors.slides.ome_xml import MAX_PLANES
from fewscope.errors import SourceError

MAX_PAGES = 8
"""More pages than this are planes or time points rather than channels."""

PAGE_AXES: dict[Pages, str] = {"channels": "C", "planes": "Z", "times": "T"}


@dataclass(frozen=True, slots=True)
class PageOrder:
    """Which page is which.

    Attributes
    ----------
    offsets
        Of the pages, in the file.
    axes, sizes
        Of the channels (C), planes (Z) and time points (T) that are pages of their own, the last of which counts
        fastest, and how many there are of each.
    is_assumed
        Whether nothing says so.
    """

    offsets: tuple[int, ...]
    axes: str
    sizes: tuple[int, ...]
    is_assumed: bool = False

    def size(self, axis: str) -> int:
        """How many there are along an axis."""
        return self.sizes[self.axes.index(axis)] if axis in self.axes else 1

    def offset(self, channel: int, plane: int, time: int) -> int:
        """Of a page; the channel counts where channels are pages of their own."""
        of_axis = {"C": channel, "Z": plane, "T": time}
        place = tuple(of_axis[axis] for axis in self.axes)
        return self.offsets[int(np.ravel_multi_index(place, self.sizes))]


def has_pages(path: str) -> bool:
    """Whether a local file is a TIFF of several pages of one size, and not of levels of one picture."""
    if not path.lower().endswith(CHANNEL_TIFF_ENDINGS):
        return False
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = [tiff.pages[number] for number in range(min(2, len(tiff.pages)))]
            kinds = {(page.shape, page.dtype) for page in pages}
            return len(pages) == 2 and len(kinds) == 1 and not any(_is_reduced(page) for page in pages)
    except Exception:  # tifffile has no common error for files that are damaged, or no TIFFs
        return False


def page_order(uri: str, path: str, pages: Pages | None) -> PageOrder | None:
    """The order of the pages of a TIFF; None if it has one.

    tifffile, with which programs in Python write, may have noted the axes. Otherwise they are what ``pages`` says, or
    channels if they are few and grey.

    Raises
    ------
    SourceError
        It is not certain what they are, or they differ.
    """
    with tifffile.TiffFile(path) as tiff:
        found: list[Any] = [page for page in tiff.pages if not _is_reduced(page)]
        if len(found) < 2:
            return None
        kinds = {(page.shape, page.dtype, page.samplesperpixel) for page in found}
        offsets, n_samples = tuple(int(page.offset) for page in found), found[0].samplesperpixel
        noted = _noted(tiff, len(found))
    if len(kinds) > 1 or len(found) > MAX_PLANES:
        raise SourceError(
            f"{uri}: is a file of {len(found)} pictures of several sizes; save the one to segment by itself"
        )
    if noted is not None:
        return PageOrder(offsets, *noted)
    most = MAX_CHANNELS if pages == "channels" else MAX_PAGES
    if pages in (None, "channels") and (n_samples > 1 or len(found) > most):
        raise SourceError(
            f"{uri}: is a file of {len(found)} pictures that does not say what they are; give --pages planes or times "
            "if they are a z-stack or a time series, save the one to segment by itself, or its channels as OME-TIFF"
        )
    return PageOrder(offsets, PAGE_AXES[pages or "channels"], (len(found),), pages is None)


def _is_reduced(page: Any) -> bool:
    return bool(page.is_reduced or page.is_mask)


def _noted(tiff: tifffile.TiffFile, n_pages: int) -> tuple[str, tuple[int, ...]] | None:
    """Axes of the pages and their sizes, as tifffile noted them."""
    try:
        noted = (tiff.shaped_metadata or ({},))[0]
        axes, shape = str(noted.get("axes", "")), tuple(int(size) for size in noted.get("shape", ()))
    except (TypeError, ValueError):
        return None
    inner = next((end for end in ("YXS", "YX") if axes.endswith(end)), "")
    leading, sizes = axes[: -len(inner) or None], shape[: -len(inner) or None]
    if (
        not inner
        or len(axes) != len(shape)
        or not set(leading) <= set("CZT")
        or len(set(leading)) < len(leading)
    ):
        return None
    if math.prod(sizes) != n_pages or (inner == "YXS" and "C" in leading):
        return None
    return leading, sizes
