"""Band values to 8-bit RGB: the choice of bands, and one linear stretch for the whole source.

The stretch is fixed once, from a sample of the whole source, never from a window: stretching each tile separately would
cause seams in the mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from fewscope.connectors.rasters.gdal_file import RasterFile
from fewscope.errors import SourceError

PERCENTILES = (2.0, 98.0)  # QGIS's cumulative count cut
DISPLAY_RANGE = 64
"""Grey levels that the middle 96 % of a uint8 raster must span to be used unstretched: it is an image, not
measurements."""

COLOURS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
NAMES = (("red", "green", "blue"), ("b04", "b03", "b02"))
"""Names of the red, green and blue bands; the second triple is Sentinel-2's, the only sensor with a leading 0. Names
take precedence over colour interpretation, which GDAL assigns to any three uint8 bands."""


@dataclass(frozen=True, slots=True)
class Bands:
    """Bands to read: three for red, green and blue, or one, as grey or through its palette.

    Attributes
    ----------
    indexes
        1-based bands.
    words
        The choice in words.
    is_palette
        The band holds indexes of a palette.
    is_picture
        The file declares red, green and blue.
    is_declared
        The file says which bands these are, by names or colours.
    """

    indexes: tuple[int, ...]
    words: str
    is_palette: bool = False
    is_picture: bool = False
    is_declared: bool = False


def choose_bands(file: RasterFile, asked: tuple[int, ...], option: str = "--bands") -> Bands:
    """Choose bands: those requested (1-based; one or three), else by name, by colour interpretation, or the first
    three.

    Raises
    ------
    SourceError
        The file does not have the requested bands.
    """
    n_bands = len(file.dtypes)
    if asked:
        missing = [band for band in asked if not 1 <= band <= n_bands]
        if missing:
            raise SourceError(
                f"{file.uri}: has no band {missing[0]}, only 1..{n_bands}; give {option} from these, 1 is the first"
            )
        return Bands(asked, f"bands {', '.join(map(str, asked))}, as asked for")
    if file.colours[0] == ColorInterp.palette and n_bands == 1:
        return Bands((1,), "the colours of its palette", is_palette=True)
    for names in NAMES:
        if all(name in file.names for name in names):
            indexes = tuple(file.names.index(name) + 1 for name in names)
            listing = ", ".join(f"{index} ({name})" for index, name in zip(indexes, names, strict=True))
            return Bands(indexes, f"bands {listing} as red, green, blue, by their names", is_declared=True)
    if all(colour in file.colours for colour in COLOURS):
        indexes = tuple(file.colours.index(colour) + 1 for colour in COLOURS)
        return Bands(
            indexes,
            f"bands {', '.join(map(str, indexes))}: red, green, blue by the file",
            is_picture=True,
            is_declared=True,
        )
    shown = [band for band in range(1, n_bands + 1) if band != file.alpha]
    if len(shown) >= 3:
        first = tuple(shown[:3])
        of = f" of {len(shown)}" if len(shown) > 3 else ""
        return Bands(first, f"the first three bands{of}, as the file does not say which are red, green, blue")
    if not shown:
        raise SourceError(f"{file.uri}: has nothing but an alpha band; give the picture itself")
    return Bands((shown[0],), f"band {shown[0]} as grey")


def bands_like(file: RasterFile, first: RasterFile, chosen: Bands, asked: tuple[int, ...]) -> tuple[int, ...]:
    """Bands of a further file of a mosaic that correspond to those ``chosen`` of the first.

    By the names of the first file's bands, by what the file itself declares, else the same numbers.

    Raises
    ------
    SourceError
        The file does not have these bands.
    """
    names = [first.names[band - 1] if band <= len(first.names) else "" for band in chosen.indexes]
    if all(names) and all(file.names.count(name) == 1 for name in names):
        return tuple(file.names.index(name) + 1 for name in names)
    colours = [first.colours[band - 1] for band in chosen.indexes]
    if all(colour in COLOURS and file.colours.count(colour) == 1 for colour in colours):
        return tuple(file.colours.index(colour) + 1 for colour in colours)
    if not asked and len(chosen.indexes) == 3:
        own = choose_bands(file, ())
        if own.is_declared and len(own.indexes) == 3:
            return own.indexes
    return choose_bands(file, chosen.indexes).indexes


def stacked_bands(files: list[RasterFile]) -> Bands:
    """Bands of a scene with one file per band: exactly three.

    Raises
    ------
    SourceError
        There are not three files, or one of them has several bands.
    """
    for file in files:
        if len(file.dtypes) > 1:
            raise SourceError(
                f"{file.uri}: has {len(file.dtypes)} bands, expected one, as each asset is one band"
            )
    if len(files) != 3:
        raise SourceError(
            f"{files[0].uri}: is one of {len(files)} files of a scene; give three assets, or one"
        )
    return Bands((1, 2, 3), "one file for each of red, green, blue")


@dataclass(frozen=True, slots=True)
class Stretch:
    """Linear map from ``low`` to 0 and ``high`` to 255 for each band, clipped; ``words`` describes it.

    >>> Stretch((0.0,), (510.0,), "")(np.array([[[-7.0, 255.0, 900.0]]])).tolist()
    [[[0, 0, 0], [128, 128, 128], [255, 255, 255]]]
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    words: str

    def __call__(self, bands: NDArray[np.generic]) -> NDArray[np.uint8]:
        """RGB, uint8 (h, w, 3), of bands (1 or 3, h, w); NaN becomes 0."""
        if bands.dtype == np.uint8 and self.is_identity:
            scaled = bands.astype(np.uint8)
        else:
            low = np.array(self.low, np.float32)[:, None, None]
            factor = (255 / (np.array(self.high) - self.low)).astype(np.float32)[:, None, None]
            with np.errstate(over="ignore", invalid="ignore"):  # of values that are not valid
                values = (bands.astype(np.float32) - low) * factor
            scaled = np.rint(np.clip(np.nan_to_num(values), 0, 255)).astype(np.uint8)
        if len(scaled) == 1:
            scaled = np.repeat(scaled, 3, 0)
        return np.ascontiguousarray(np.moveaxis(scaled, 0, 2))

    @property
    def is_identity(self) -> bool:
        """Whether the stretch maps 0..255 to themselves."""
        return set(self.low) == {0.0} and set(self.high) == {255.0}


def as_is(n_bands: int, words: str) -> Stretch:
    """The stretch that maps 0..255 to themselves."""
    return Stretch((0.0,) * n_bands, (255.0,) * n_bands, words)


def choose_stretch(
    sample: NDArray[np.generic],
    scale: tuple[float, float] | None,
    is_picture: bool = False,
    keep_ratios: bool = False,
) -> Stretch:
    """Choose the stretch of a source.

    Parameters
    ----------
    sample
        Valid values from all over the source, (n_bands, n).
    scale
        Values mapped to 0 and 255 in every band. None: the 2nd and 98th percentile of each band, or no stretch for
        uint8 images.
    is_picture
        The file declares red, green and blue.
    keep_ratios
        Without a scale: stretch from 0 to the largest of the bands' 98th percentiles, the same for all bands.
    """
    n_bands = len(sample)
    if scale is not None:
        return Stretch(
            (scale[0],) * n_bands, (scale[1],) * n_bands, f"{scale[0]:g} to {scale[1]:g}, as asked for"
        )
    if not sample.size:
        return as_is(n_bands, "nothing to go by")
    values = sample.astype(np.float64)
    if keep_ratios and sample.dtype != np.uint8:
        top = max(
            float(np.percentile(values, PERCENTILES[1], axis=1).max()), float(np.finfo(np.float32).tiny)
        )
        return Stretch((0.0,) * n_bands, (top,) * n_bands, f"0 to {top:.4g}")
    if sample.dtype == np.uint8 and (
        is_picture or keep_ratios or np.ptp(np.percentile(values, PERCENTILES)) >= DISPLAY_RANGE
    ):
        return as_is(n_bands, "8 bits as they are")
    ends = np.percentile(values, PERCENTILES, axis=1)
    flat = ends[0] == ends[1]  # nearly constant: the few other values are the content
    ends[:, flat] = values.min(1)[flat], values.max(1)[flat]
    lows = tuple(float(value) for value in ends[0])
    highs = tuple(float(high) if high > low else low + 1.0 for low, high in zip(lows, ends[1], strict=True))
    shown = "; ".join(f"{low:.4g} to {high:.4g}" for low, high in zip(lows, highs, strict=True))
    return Stretch(lows, highs, f"2nd to 98th percentile of each band ({shown})")
