"""The choice of a raster's bands; how their values become 8 bits is in `connectors.pixels.stretch`."""

from __future__ import annotations

from dataclasses import dataclass

from rasterio.enums import ColorInterp

from fewscope.connectors.colours import Colour
from fewscope.connectors.pixels.composite import BLACK, PRIMARIES, colours_in_words, unique_names
from fewscope.connectors.rasters.gdal_file import RasterFile
from fewscope.errors import SourceError

COLOURS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
NAMES = (("red", "green", "blue"), ("b04", "b03", "b02"))
"""Names of the red, green and blue bands; the second triple is Sentinel-2's, the only sensor with a leading 0. Names
take precedence over colour interpretation, which GDAL assigns to any three uint8 bands."""


@dataclass(frozen=True, slots=True)
class Bands:
    """Bands to read: three for red, green and blue, one, as grey or through its palette, two, or more.

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
    names
        Of more than three bands: their names.
    colours
        Of more than three bands: the RGB in which each is shown to people.
    """

    indexes: tuple[int, ...]
    words: str
    is_palette: bool = False
    is_picture: bool = False
    is_declared: bool = False
    names: tuple[str, ...] = ()
    colours: tuple[Colour, ...] = ()


def choose_bands(
    file: RasterFile, asked: tuple[int, ...], option: str = "--bands", *, every: bool = False
) -> Bands:
    """Choose bands: those requested (1-based), all (``every``) but a mask, else by name, by colour interpretation, or
    the first three.

    Raises
    ------
    SourceError
        The file does not have the requested bands.
    """
    n_bands = len(file.dtypes)
    if every:
        asked = tuple(band for band in range(1, n_bands + 1) if band != file.alpha)
    if asked:
        missing = [band for band in asked if not 1 <= band <= n_bands]
        if missing:
            raise SourceError(
                f"{file.uri}: has no band {missing[0]}, only 1..{n_bands}; give {option} from these, 1 is the first"
            )
        if len(asked) > 3:
            return _several(file, asked)
        listed = f"{'band' if len(asked) == 1 else 'bands'} {', '.join(map(str, asked))}"
        return Bands(asked, f"{listed}{' (magenta, green)' if len(asked) == 2 else ''}, as asked for")
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


def _several(file: RasterFile, bands: tuple[int, ...]) -> Bands:
    """More than three bands, of which people see those that would be red, green and blue without them, if they can."""
    names = tuple(file.names[band - 1] or f"band {band}" for band in bands)
    usual = choose_bands(file, ())
    red_green_blue = (
        usual.indexes if set(usual.indexes) <= set(bands) and len(usual.indexes) == 3 else bands[:3]
    )
    colours = tuple(
        PRIMARIES[red_green_blue.index(band)] if band in red_green_blue else BLACK for band in bands
    )
    return Bands(
        bands,
        f"{len(bands)} bands, shown as {colours_in_words(names, colours)}",
        names=names,
        colours=colours,
    )


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
    """Bands of a scene with one file per band: three, or more.

    Raises
    ------
    SourceError
        There are two files, or one of them has several bands.
    """
    for file in files:
        if len(file.dtypes) > 1:
            raise SourceError(
                f"{file.uri}: has {len(file.dtypes)} bands, expected one, as each asset is one band"
            )
    if len(files) < 3:
        raise SourceError(
            f"{files[0].uri}: is one of {len(files)} files of a scene; give three assets or more, or one"
        )
    if len(files) > 3:
        stems = [file.uri.rstrip("/").rpartition("/")[2].partition(".")[0] for file in files]
        names = unique_names([file.names[0] or stem for file, stem in zip(files, stems, strict=True)])
        colours = (*PRIMARIES, *(BLACK for _ in files[3:]))
        words = f"one file for each of {len(files)} bands, shown as {colours_in_words(names, colours)}"
        return Bands(tuple(range(1, len(files) + 1)), words, names=names, colours=colours)
    return Bands((1, 2, 3), "one file for each of red, green, blue")
