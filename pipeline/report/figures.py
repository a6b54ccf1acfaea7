"""The pictures of the report: what was found, drawn on what was seen.

Everything is read in bounded pieces (an overview, coarse pyramid levels in strips, windows of at most
1,024 px), so memory does not grow with the source. Colours are distinguishable for colour-blind readers: yellow is
opposite the pinks and purples of H&E on the one axis that everybody sees, and a dark casing carries it over
pale and dark ground alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from rasterio.windows import Window
from scipy.ndimage import gaussian_filter
from skimage.measure import find_contours

from fewscope.connectors.colours import Colour, class_colour
from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.connectors.pixels.composite import composite
from fewscope.connectors.source import SourceInfo
from fewscope.pipeline.report.drawing import (
    EDGE,
    FOUND,
    GREY,
    RGB,
    Canvas,
    Picture,
    _bytes,
    _hatch,
    _stroke,
    _tint,
    agreement,
    colour_map,
    outlined,
    picture,
    with_area,
)
from fewscope.pipeline.report.formatting import round_up
from fewscope.pipeline.report.seam_check import Floats, Mask
from fewscope.pipeline.report.statistics import FIELD_PX, InstanceStatistics, area_mean
from fewscope.pipeline.tiling.area import Area

OVERVIEW_PX = 1400  # 180 mm of paper at 200 dots per inch
SMALL_PX = 700  # smaller sources are enlarged to this in the overview, thrice at most
CROP_PX = 1024  # no window of the source larger than this is read
GALLERY_PX = 176  # pixels of a gallery picture
MAX_PATCHES = 10  # support patches shown: the page stays below 5 MB


@dataclass(frozen=True, slots=True)
class Field:
    """A field of view: why it was chosen, where it is, and the image without and with outlines."""

    title: str
    row: int
    col: int
    count: int
    mean_probability: float | None
    plain: Picture
    outlined: Picture


@dataclass(frozen=True, slots=True)
class GradedField:
    """A field of view with the objects' outlines in the colours of their grades, and how many are positive."""

    title: str
    row: int
    col: int
    count: int
    positive: int
    plain: Picture
    outlined: Picture


@dataclass(frozen=True, slots=True)
class Portrait:
    """One instance of the gallery."""

    id: int
    row: float
    col: float
    area_px: int
    whole: bool
    class_name: str | None  # where there are several
    picture: Picture


@dataclass(frozen=True, slots=True)
class Patch:
    """One support patch: as seen, as labelled, and as predicted from the other patches."""

    name: str
    image: Picture
    labelled: Picture
    predicted: Picture | None


@dataclass(frozen=True, slots=True)
class DensityMap:
    """Objects per million pixels of tissue under a Gaussian window, and the range of its colour bar."""

    picture: Picture
    top_per_mpx: float
    sigma_px: float


@dataclass(frozen=True, slots=True)
class Pictures:
    """All pictures of a report; `patches` are the first ten of `n_patches`, `map` is there for rasters."""

    overview: Picture
    density: DensityMap | None
    fields: tuple[Field, ...]
    gallery: tuple[Portrait, ...]
    patches: tuple[Patch, ...]
    n_patches: int
    map: Picture | None = None
    unlike: tuple[Picture, ...] = ()  # of `Report.unlike`, in order
    graded: tuple[GradedField, ...] = ()  # of the first of `Report.channels`, if it has thresholds


def draw(
    source: Any,
    result: Any,
    statistics: InstanceStatistics,
    foreground: Mask,
    support: Any,
    held_out: npt.NDArray[np.uint8] | None = None,
    unlike: Sequence[Window] = (),
    area: Area | None = None,
) -> Pictures:
    """Draw every picture of the report.

    Parameters
    ----------
    source : fewscope.connectors.source.Source
    result : fewscope.connectors.results.reader.Result
        ``semantic`` and ``instances``: one array (H, W) per pyramid level, factor 2, read lazily by slices
    statistics : InstanceStatistics
        of the same result
    foreground : (h, w) bool
        tissue, on any grid that spans the source
    support : fewscope.connectors.support.support_set.SupportSet
    held_out : (K, 224, 224) uint8
        class of every pixel of each patch, predicted from the others; None when there is no such estimate
    unlike : sequence of Window
        tiles that are unlike the patches
    area : Area, optional
        what was asked for of the source, where it is not all
    """
    info = source.info
    image = composite(source.overview(OVERVIEW_PX)[0], info)
    tissue = area_mean(foreground, *_onto(foreground.shape, image.shape[:2])) >= 0.5
    colours = colours_of(len(support.class_names))
    if image.shape[:2] == (info.height, info.width):
        canvas = _every_object(image, result, tissue, colours)
    else:
        covered = _coverage(result.semantic, image.shape[:2], len(colours))
        canvas = _overview(image, covered, tissue, info.width, colours)
    if area is not None:
        canvas = with_area(canvas, area.geometry, area.shape)
    return Pictures(
        overview=picture(canvas, info.width, lines=True),
        density=_density(image, tissue, statistics, info.width, info.mpp or 1.0),
        fields=tuple(_fields(source, result, statistics, colours, area)),
        gallery=tuple(_portrait(source, result, row, colours) for row in statistics.samples),
        patches=tuple(_patches(support, info, held_out, colours)),
        n_patches=_n_shown(support),
        unlike=tuple(_view(source, result, window, colours, area) for window in unlike),
    )


def colours_of(n_classes: int) -> tuple[Colour, ...]:
    """What objects of each class are drawn in."""
    return (FOUND,) if n_classes == 1 else tuple(class_colour(value) for value in range(1, n_classes + 1))


# The whole source


def _onto(shape: tuple[int, ...], target: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Edges, in pixels of `shape`, of the pixels of a grid `target` over the same ground."""
    return np.linspace(0, shape[0], target[0] + 1), np.linspace(0, shape[1], target[1] + 1)


def _coverage(levels: Sequence[Any], shape: tuple[int, int], n_classes: int) -> Floats:
    """Share of each overview pixel that is of each class, (C, h, w), from a coarse level thrice as fine, in strips."""
    fine = [level for level in levels if min(level.shape[0] / shape[0], level.shape[1] / shape[1]) >= 3]
    level = fine[-1] if fine else levels[0]
    height = level.shape[0]
    columns = np.empty((n_classes, height, shape[1]), np.uint8)
    for top in range(0, height, CROP_PX):
        strip = np.asarray(level[top : top + CROP_PX, :])
        for c in range(n_classes):
            of_class = Image.fromarray((strip == c + 1).view(np.uint8) * np.uint8(255))
            columns[c, top : top + CROP_PX] = of_class.resize((shape[1], len(strip)), Image.Resampling.BOX)
    rows = [Image.fromarray(c).resize((shape[1], shape[0]), Image.Resampling.BOX) for c in columns]
    return np.stack([np.asarray(of_class, np.float32) / 255 for of_class in rows])


def _overview(image: RGB, covered: Floats, tissue: Mask, span_px: float, colours: Sequence[Colour]) -> Canvas:
    """The slide with what was found in the colours of the classes; the edge of the tissue as a faint line."""
    canvas = image.astype(np.float32)
    for of_class, colour in zip(covered, colours, strict=True):
        canvas = _tint(canvas, colour, 0.6 * np.sqrt(of_class))
        if span_px / image.shape[1] <= 4:  # below that an outline would be thinner than a pixel
            canvas = _stroke(canvas, find_contours(np.pad(of_class, 1), 0.5), 1, 1.0, colour, 0.9)
    return _stroke(canvas, find_contours(np.pad(tissue.astype(float), 1), 0.5), 1, 1.6, EDGE, 0.8)


def _whole(level: Any) -> npt.NDArray[Any]:
    """All of a level of a small source."""
    found = np.empty(level.shape, level.dtype)
    for top in range(0, level.shape[0], CROP_PX):
        for left in range(0, level.shape[1], CROP_PX):
            part = np.s_[top : top + CROP_PX, left : left + CROP_PX]
            found[part] = np.asarray(level[part])
    return found


def _every_object(image: RGB, result: Any, tissue: Mask, colours: Sequence[Colour]) -> Canvas:
    """A small source, each object outlined by itself: touching ones can be told apart, and counted.

    The edge of the tissue is a faint line, as in `_overview`.
    """
    labels, classes = _whole(result.instances[0]), _whole(result.semantic[0])
    scale = float(np.clip(SMALL_PX / max(labels.shape), 1, 3))
    tinted = image.astype(np.float32)
    for value, colour in enumerate(colours, start=1):
        tinted = _tint(tinted, colour, 0.18 * (classes == value))
    drawn = outlined(np.round(tinted).astype(np.uint8), labels, scale, 1.4, classes, colours)
    edge = find_contours(np.pad(tissue.astype(float), 1), 0.5)
    return _stroke(drawn.astype(np.float32), edge, scale, 1.6, EDGE, 0.8)


def _density(
    image: RGB, tissue: Mask, statistics: InstanceStatistics, span_px: float, mpp: float
) -> DensityMap | None:
    """Objects over tissue, both blurred by the same Gaussian, over the slide in grey."""
    tissue_px = statistics.tissue_px
    if not statistics.count or not tissue_px:
        return None
    longest = max(statistics.height, statistics.width)
    # about thirty objects under the window (area 4 pi sigma^2), neither finer than the cells nor one blur
    sigma_px = float(
        np.clip(np.sqrt(30 * tissue_px / statistics.count / (4 * np.pi)), longest / 100, longest / 16)
    )
    cell_px = statistics.cell_px
    objects = gaussian_filter(statistics.grid.astype(np.float64), sigma_px / cell_px, mode="constant")
    ground = gaussian_filter(statistics.tissue, sigma_px / cell_px, mode="constant") * cell_px**2
    share = ground / cell_px**2  # tissue under the window, 0..1
    per_mpx = np.divide(objects * 1e6, ground, out=np.zeros_like(objects), where=share > 0.05)
    shown = per_mpx[(statistics.tissue >= 0.5) & (share > 0.05)]
    top = round_up(float(shown.max()) / mpp**2) * mpp**2 if shown.size and shown.max() > 0 else 1.0

    size = image.shape[1], image.shape[0]
    rows, cols = (
        statistics.height / cell_px,
        statistics.width / cell_px,
    )  # the last cells may reach over the edge
    smooth = Image.fromarray(per_mpx.astype(np.float32)).resize(
        size, Image.Resampling.BICUBIC, box=(0, 0, cols, rows)
    )
    colours = colour_map()[np.clip(np.asarray(smooth) / top * 255, 0, 255).astype(np.uint8)]
    grey = np.repeat(np.asarray(Image.fromarray(image).convert("L"))[..., None], 3, axis=2).astype(np.float32)
    grey = 255 - (255 - grey) * 0.6 if np.median(grey) > 127 else grey
    canvas = np.where(tissue[..., None], 0.25 * grey + 0.75 * colours, grey)
    return DensityMap(picture(canvas, span_px), top, sigma_px)


# Fields of view and single instances


def _fields(
    source: Any, result: Any, statistics: InstanceStatistics, colours: Sequence[Colour], area: Area | None
) -> list[Field]:
    """The densest, the median and a sparse field of tissue, and the one with the least certain objects."""
    counts, probability = statistics.field_counts, statistics.field_probability
    order = np.argsort(counts, axis=None, kind="stable")
    usable = order[statistics.field_tissue.flat[order] >= 0.5]  # a reader learns little from glass
    if not len(usable):
        usable = order[counts.flat[order] > 0]
    if not statistics.count or not len(usable):
        chosen = {"Field with the most tissue": int(statistics.field_tissue.argmax())}
    else:
        chosen = {
            "Densest field": int(usable[-1]),
            "Median field": int(usable[len(usable) // 2]),
            "Sparse field": int(usable[len(usable) // 10]),
        }
    mean = np.divide(probability, counts, out=np.full(counts.shape, np.inf), where=counts > 0)
    ordinary = [int(i) for i in usable[len(usable) // 4 :] if counts.flat[i] and i not in chosen.values()]
    if ordinary and probability.any():
        chosen["Least certain field"] = min(ordinary, key=lambda i: (mean.flat[i], i))

    fields: dict[int, Field] = {}
    for title, i in chosen.items():
        if i in fields:
            continue
        row, col = (int(k) * FIELD_PX for k in np.unravel_index(i, counts.shape))
        window = Window(
            col, row, min(FIELD_PX, statistics.width - col), min(FIELD_PX, statistics.height - row)
        )
        image, labels, classes = crop(source, result, window)
        fields[i] = Field(
            title=title,
            row=row,
            col=col,
            count=int(counts.flat[i]),
            mean_probability=float(mean.flat[i]) if probability.flat[i] else None,
            plain=picture(image, window.width),
            outlined=picture(
                outlined(faded(image, window, area), labels, 1.5, 2, classes, colours),
                window.width,
                lines=True,
            ),
        )
    return list(fields.values())


def _view(source: Any, result: Any, window: Window, colours: Sequence[Colour], area: Area | None) -> Picture:
    """A window with the outlines of what was found."""
    image, labels, classes = crop(source, result, window)
    image = faded(image, window, area)
    return picture(outlined(image, labels, 1.5, 2, classes, colours), window.width, lines=True)


def faded(image: RGB, window: Window, area: Area | None) -> RGB:
    """The image of a window, grey where it is outside the area that was asked for: nothing was looked for there."""
    return (
        image
        if area is None
        else _bytes(_tint(image.astype(np.float32), GREY, 0.65 * ~area.on_window(window)))
    )


def _portrait(source: Any, result: Any, sample: dict[str, Any], colours: Sequence[Colour]) -> Portrait:
    """One instance, outlined, in the middle of a square of at least 64 px with room around it."""
    top, left, bottom, right = (int(sample[f"bbox_{side}"]) for side in ("row0", "col0", "row1", "col1"))
    longest = max(bottom - top, right - left)
    side = int(np.clip(64 * np.ceil((longest * 1.5) / 64), 64, CROP_PX))
    window = Window((left + right - side) // 2, (top + bottom - side) // 2, side, side)
    image, labels, classes = crop(source, result, window)
    drawn = outlined(image, labels == sample["id"], max(1, GALLERY_PX / side), 1.8, classes, colours)
    if side > GALLERY_PX:
        drawn = np.asarray(Image.fromarray(drawn).resize((GALLERY_PX, GALLERY_PX), Image.Resampling.LANCZOS))
    return Portrait(
        id=int(sample["id"]),
        row=float(sample["centroid_row"]),
        col=float(sample["centroid_col"]),
        area_px=int(sample["area_px"]),
        whole=longest <= side,
        class_name=sample.get("class"),
        picture=picture(drawn, side, lines=True),
    )


def crop(source: Any, result: Any, window: Window) -> tuple[RGB, npt.NDArray[Any], npt.NDArray[np.uint8]]:
    """Image, labels and classes of a window that may reach beyond the source (0 there)."""
    image = composite(source.read(window)[0], source.info)
    instances, semantic = result.instances[0], result.semantic[0]
    labels = np.zeros((window.height, window.width), instances.dtype)
    classes = np.zeros((window.height, window.width), np.uint8)
    top, left = max(0, window.row_off), max(0, window.col_off)
    bottom = min(instances.shape[0], window.row_off + window.height)
    right = min(instances.shape[1], window.col_off + window.width)
    inside = np.s_[
        top - window.row_off : bottom - window.row_off, left - window.col_off : right - window.col_off
    ]
    labels[inside] = np.asarray(instances[top:bottom, left:right])
    classes[inside] = np.asarray(semantic[top:bottom, left:right])
    return image, labels, classes


def _n_shown(support: Any) -> int:
    """Patches to show: those of regions; where there are none, those with single labels."""
    return support.n_dense or len(support.names)


def _patches(
    support: Any, info: SourceInfo, held_out: npt.NDArray[np.uint8] | None, colours: Sequence[Colour]
) -> list[Patch]:
    patches = []
    for k, name in enumerate(support.names[: min(MAX_PATCHES, _n_shown(support))]):
        image, label = composite(support.images[k], info), support.labels[k]
        predicted = None
        if held_out is not None:
            known = None if support.complete is None else support.complete[k]
            predicted = picture(agreement(image, label, held_out[k], known), image.shape[1])
        classes = np.where(label == IGNORE_LABEL, 0, label)
        objects = classes if support.instances is None else support.instances[k]
        labelled = _hatch(outlined(image, objects, 2, 1.8, classes, colours), label == IGNORE_LABEL)
        patches.append(
            Patch(
                str(name),
                picture(image, image.shape[1]),
                picture(labelled, image.shape[1], lines=True),
                predicted,
            )
        )
    return patches
