"""Slides, read with OpenSlide: levels, resolutions and unreadable places are handled here.

The working grid is resampled from the coarsest level that is fine enough; see `connectors.pixels.levels`.
"""

from __future__ import annotations

import hashlib
import logging
import math
import shlex
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import openslide
import rasterio
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from fewscope.connectors.pixels.levels import (
    Block,
    Level,
    assemble,
    whole_blocks,
)
from fewscope.connectors.slides.members import check_file, slide_files
from fewscope.connectors.slides.pyramid_source import (
    BLOCK,
    DARK_LEVEL,
    PyramidSource,
    grid_size,
    level_steps,
)
from fewscope.connectors.slides.resolution import resolve_mpp, working_scale
from fewscope.connectors.slides.tiff_pages import has_pages
from fewscope.connectors.source import COLOURS, Pixels, SourceInfo, changed_since
from fewscope.connectors.storage.download import local_copy, remote_version
from fewscope.connectors.storage.fingerprint import add_files
from fewscope.errors import SourceError

log = logging.getLogger(__name__)

CHUNK = 2048  # level px read at once, a multiple of BLOCK: 16 MB of RGBA
MAX_TILE_BYTES = 2**30
"""Of a decoded tile; scanners write tiles of a megabyte. GLib aborts where memory is lacking."""


@dataclass(frozen=True, slots=True)
class _Level(Level):
    reported_step: float  # OpenSlide's, which maps locations

    @property
    def is_aligned(self) -> bool:
        """Whether level pixels lie on whole level-0 pixels, so that any location reads the same pixels."""
        return self.reported_step == round(self.reported_step)


class OpenSlideSource(PyramidSource[_Level]):
    """A slide on its working grid. Made by `OpenSlideSource.open`; see `connectors.source.Source`."""

    def __init__(self, info: SourceInfo, slide: openslide.OpenSlide | None = None) -> None:
        """Open the slide that ``info`` describes; SourceError if the file has changed."""
        self._path = local_copy(info.uri)
        opened = slide or _open(self._path, info.uri)
        self._slide: openslide.OpenSlide | None = opened
        super().__init__(info, _levels(opened))
        self._closed = False
        if slide is None and (changed := changed_since(info, _fingerprint(opened, self._path, info.uri))):
            raise changed

    @classmethod
    def open(cls, uri: str, *, mpp: float | None = None, slide_mpp: float | None = None) -> OpenSlideSource:
        """Open a slide at a working resolution; parameters and errors as in `connectors.open.open_source`."""
        path = local_copy(uri)
        slide = _open(path, uri)
        properties = dict(slide.properties)
        vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
        if vendor == "generic-tiff" and (crs := _raster_crs(path)):
            raise SourceError(
                f"{uri}: is a georeferenced raster ({crs}), not a slide; segment it with jobs/segment_raster.py"
            )
        _check_tiles(uri, properties)
        native_mpp, mpp_source = resolve_mpp(uri, properties, mpp, slide_mpp)
        steps = [level.row_step for level in _levels(slide) if level.row_step == level.col_step]
        scale, working_mpp = working_scale(uri, native_mpp, mpp, steps)
        width, height = slide.dimensions
        rows, cols = grid_size(uri, height, width, scale)
        info = SourceInfo(
            uri=uri,
            kind="slide",
            height=rows,
            width=cols,
            transform=Affine.scale(scale),
            mpp=working_mpp,
            mpp_source=mpp_source,
            native_mpp=native_mpp,
            native_height=height,
            native_width=width,
            vendor=vendor,
            crs=None,
            background=_stated_background(properties) or (255, 255, 255),
            fingerprint=_fingerprint(slide, path, uri),
            measured=COLOURS,
            scan_origin=_scan_origin(properties),
            from_glass_nm=_from_glass_nm(properties, width, height),
        )
        source = cls(info, slide)
        if _stated_background(properties) is None and source._is_dark():
            source._info = replace(info, background=(0, 0, 0))
        log.info(
            "%s: %s, %d x %d px at %.4g um per px (%s), working on %d x %d px at %.4g",
            uri, vendor, width, height, native_mpp, mpp_source, info.width, info.height, info.mpp,
        )  # fmt: skip
        return source

    def __reduce__(self) -> tuple[type[OpenSlideSource], tuple[SourceInfo]]:
        return type(self), (self._info,)

    def close(self) -> None:
        """Close the file; reading afterwards raises ValueError."""
        with self._lock:
            self._closed = True
            self._slide = None  # OpenSlide closes it with its last reader

    def _read_level(self, level: _Level, bounds: Block) -> Iterator[tuple[Block, Pixels]]:
        """Pixels of a level, piece by piece, in whole blocks."""
        chunk = CHUNK if level.is_aligned else BLOCK
        for block in whole_blocks(*bounds, level, (BLOCK, BLOCK), (chunk, chunk)):
            yield block, self._read_chunk(level, *block)

    def _read_chunk(self, level: _Level, top: int, bottom: int, left: int, right: int) -> Pixels:
        slide = self._slide
        if slide is None:
            raise ValueError(f"{self._info.uri}: is closed")
        try:
            return self._decode(slide, level, top, bottom, left, right)
        except openslide.OpenSlideError as error:
            log.debug("%s: level %d at (%d, %d): %s", self._info.uri, level.index, top, left, error)
        # A failed read leaves the handle failing for good (openslide issue 689): the threads get a fresh one,
        # and the blocks of this chunk are tried one by one on a handle of our own, so that a good block of
        # another thread cannot fail because of our bad one.
        with self._lock:
            if self._slide is slide and not self._closed:
                self._slide = _open(self._path, self._info.uri)
        return self._salvage(level, top, bottom, left, right)

    def _salvage(self, level: _Level, top: int, bottom: int, left: int, right: int) -> Pixels:
        """Read block by block; those that fail are background and not valid."""
        image = np.empty((bottom - top, right - left, 3), np.uint8)
        image[:] = self._info.background
        valid = np.zeros(image.shape[:2], np.bool_)
        slide: openslide.OpenSlide | None = None
        for block in whole_blocks(top, bottom, left, right, level, (BLOCK, BLOCK), (BLOCK, BLOCK)):
            slide = slide or _open(self._path, self._info.uri)
            target = (slice(block[0] - top, block[1] - top), slice(block[2] - left, block[3] - left))
            try:
                image[target], valid[target] = self._decode(slide, level, *block)
            except openslide.OpenSlideError:
                slide.close()
                slide = None
                with self._lock:
                    self._failed.add((level, block))
        if slide is not None:
            slide.close()
        return image, valid

    def _decode(
        self, slide: openslide.OpenSlide, level: _Level, top: int, bottom: int, left: int, right: int
    ) -> Pixels:
        location = (round(left * level.reported_step), round(top * level.reported_step))
        rgba = np.asarray(slide.read_region(location, level.index, (right - left, bottom - top)))
        image, alpha = rgba[..., :3], rgba[..., 3]
        if alpha.min() == 255:
            return image, np.ones(alpha.shape, np.bool_)
        weight = alpha[..., None].astype(np.uint16)
        background = np.asarray(self._info.background, np.uint16)
        image = ((image * weight + background * (255 - weight) + 127) // 255).astype(np.uint8)
        return image, alpha > 0

    def _is_dark(self) -> bool:
        """Whether this is a fluorescence slide: by the median grey of nine places of its coarsest level."""
        level = self._levels[-1]
        greys = []
        for row in np.linspace(0, max(0, level.height - BLOCK), 3).astype(int):
            for col in np.linspace(0, max(0, level.width - BLOCK), 3).astype(int):
                bounds = (row, min(row + BLOCK, level.height), col, min(col + BLOCK, level.width))
                image, valid = assemble(bounds, self._read_level(level, bounds))
                greys.append(image[valid].mean(1))
        grey = np.concatenate(greys)
        return bool(grey.size) and float(np.median(grey)) < DARK_LEVEL


def knows(path: str) -> bool:
    """Whether OpenSlide reads a local file as it should be: no georeferenced TIFF, and none of several pages, of which
    it shows the first."""
    try:
        vendor = openslide.OpenSlide.detect_format(path)
    except (openslide.OpenSlideError, OSError, ValueError):
        return False
    if vendor != "generic-tiff":
        return vendor is not None
    return not _raster_crs(path) and not has_pages(path)


def _levels(slide: openslide.OpenSlide) -> tuple[_Level, ...]:
    """Usable levels, finest first. Levels with another aspect ratio than the slide's are skipped."""
    width, height = slide.level_dimensions[0]
    levels = []
    for index, (size, reported) in enumerate(
        zip(slide.level_dimensions, slide.level_downsamples, strict=True)
    ):
        steps = level_steps((height, width), (size[1], size[0]), reported)
        if steps is not None:
            levels.append(_Level(index, size[1], size[0], *steps, reported_step=float(reported)))
    return tuple(levels)


def _scan_origin(properties: Mapping[str, str]) -> tuple[int, int]:
    """Level-0 (x, y) of the corner of the scanned area.

    Leica and MIRAX files state one. As QuPath reads them: all four bounds as whole numbers, or none.
    """
    names = (
        openslide.PROPERTY_NAME_BOUNDS_X,
        openslide.PROPERTY_NAME_BOUNDS_Y,
        openslide.PROPERTY_NAME_BOUNDS_WIDTH,
        openslide.PROPERTY_NAME_BOUNDS_HEIGHT,
    )
    try:
        x, y, _, _ = (int(properties[name]) for name in names)
    except (KeyError, ValueError):
        return 0, 0
    return x, y


def _from_glass_nm(properties: Mapping[str, str], width: int, height: int) -> Affine | None:
    """From nanometres from the centre of the glass slide to level-0 (x, y); None if a slide does not state both.

    Hamamatsu's state how far the centre of the image is from that of the glass, and the size of a pixel along each
    axis, which differ too much to use one for both.
    """
    names = (
        "hamamatsu.XOffsetFromSlideCentre",
        "hamamatsu.YOffsetFromSlideCentre",
        openslide.PROPERTY_NAME_MPP_X,
        openslide.PROPERTY_NAME_MPP_Y,
    )
    try:
        x, y, mpp_x, mpp_y = (float(properties[name]) for name in names)
    except (KeyError, ValueError):
        return None
    if not (math.isfinite(x) and math.isfinite(y) and 0 < mpp_x < math.inf and 0 < mpp_y < math.inf):
        return None
    per_px = Affine.scale(1 / (1000 * mpp_x), 1 / (1000 * mpp_y))
    return Affine.translation(width / 2, height / 2) @ per_px @ Affine.translation(-x, -y)


def _stated_background(properties: Mapping[str, str]) -> tuple[int, int, int] | None:
    stated = properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "").lstrip("#")
    if len(stated) != 6:
        return None
    try:
        red, green, blue = bytes.fromhex(stated)
    except ValueError:
        return None
    return red, green, blue


def _fingerprint(slide: openslide.OpenSlide, path: str, uri: str) -> str:
    """Hash of OpenSlide's own identity, of the content of all files of the slide, and of a remote file's version."""
    identity = slide.properties.get(openslide.PROPERTY_NAME_QUICKHASH1, ""), remote_version(uri)
    digest = hashlib.sha256("\n".join(identity).encode())
    add_files(digest, slide_files(path, slide.properties.get(openslide.PROPERTY_NAME_VENDOR, "")))
    return digest.hexdigest()


def _open(path: str, uri: str) -> openslide.OpenSlide:
    """OpenSlide's handle; SourceError, which says what the file is instead, if it is not a slide."""
    check_file(uri, path)
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise SourceError(f"{uri}: {_what_instead(path, uri)}") from error
    except openslide.OpenSlideError as error:
        reason = " ".join(str(error).replace(path, "the file").split())
        raise SourceError(
            f"{uri}: OpenSlide cannot open it ({reason}); it is damaged, cut short or of a kind that is "
            "not read: copy it again, or convert it with `vips tiffsave --tile --pyramid`"
        ) from error


def _what_instead(path: str, uri: str) -> str:
    """What a file is that is not a slide, and the cure, in words."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.open(path) as picture:
                driver, size = picture.driver, f"{picture.width} x {picture.height} px"
                n_pictures, crs = len(picture.subdatasets), picture.crs
        except RasterioError:
            return (
                "is not a slide that OpenSlide knows (.svs, .ndpi, .mrxs, .scn, .bif, .dcm, tiled TIFF), nor "
                "a picture; it may be damaged or cut short: copy it again, or check that it is the right file"
            )
    if crs:
        return f"is a georeferenced raster ({crs}), not a slide; segment it with jobs/segment_raster.py"
    if n_pictures > 1:
        return (
            f"is a file of {n_pictures} pictures of {size}, not a slide that OpenSlide knows; export the one "
            "to segment as an RGB pyramid, for example as OME-TIFF (RGB) from QuPath"
        )
    kind, ending = ("plain TIFF", ".tif") if driver == "GTiff" else (driver, f".{driver.lower()}")
    return (
        f"is a {kind} picture of {size}, whose name does not say so; rename it to end in {ending}, or make it a slide "
        f"with `python -m fewscope.connectors.slides.pyramid_tiff {shlex.quote(uri)} OUT.tif --mpp UM_PER_PX`"
    )


def _raster_crs(path: str) -> str | None:
    """CRS of a georeferenced TIFF; None for any other file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.open(path) as raster:
                return raster.crs.to_string() if raster.crs else None
        except RasterioError:
            return None


def _check_tiles(uri: str, properties: Mapping[str, str]) -> None:
    """Refuse a slide whose tiles do not fit into memory: a small file may state any."""
    for name, value in properties.items():
        if name.startswith("openslide.level[") and name.endswith("].tile-width"):
            width, height = int(value), int(properties.get(name.replace("width", "height"), 1))
            if width * height * 4 > MAX_TILE_BYTES:
                raise SourceError(
                    f"{uri}: is stored in tiles of {width} x {height} px, {width * height * 4 / 2**30:.1f} GiB each; "
                    "write it again with `python -m fewscope.connectors.slides.pyramid_tiff`"
                )
