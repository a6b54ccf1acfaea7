"""Options for opening a raster. Light to import: a command line needs them before it reads a pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fewscope.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RasterOptions:
    """How to open a raster, or several as one.

    Attributes
    ----------
    bands
        1-based: three for red, green and blue, or one for grey. Empty: by the file's colour interpretation, else the
        first three, else the first.
    scale
        Band values mapped to 0 and 255. None: the 2nd and 98th percentile of each band over the whole source.
    keep_ratios
        Without ``scale``: map 0 to 0 and scale all bands by one factor, which keeps their ratios.
    res
        Side of a working pixel in units of the CRS; None: the file's.
    crs
        CRS to work in, in any notation that GDAL reads; None: the first file's.
    aoi
        File of polygons (GeoJSON, GPKG, shapefile; any CRS); pixels outside all of them are not valid.
    bbox
        West, south, east, north in degrees (in the raster's own units if it states no CRS); likewise.
    scenes
        Further rasters to mosaic with the first: paths, patterns, STAC item collections.
    assets
        Keys of the STAC assets to read: one with all bands, or one for each band.
    nodata
        Nodata value of all bands. "file": as the file declares. "auto": likewise, or implicit nodata if the file
        declares none (`connectors.rasters.nodata`).
    pick
        Where scenes overlap, take the first with a valid pixel, or the one whose edge is farthest from it.

    Raises
    ------
    ConfigError
        An option is out of range.
    """

    bands: tuple[int, ...] = ()
    scale: tuple[float, float] | None = None
    keep_ratios: bool = False
    res: float | None = None
    crs: str | None = None
    aoi: str | None = None
    bbox: tuple[float, float, float, float] | None = None
    scenes: tuple[str, ...] = ()
    assets: tuple[str, ...] = ()
    nodata: float | Literal["auto", "file"] = "auto"
    pick: Literal["first", "best"] = "first"

    def __post_init__(self) -> None:
        if len(self.bands) not in (0, 1, 3):
            raise ConfigError(
                f"{len(self.bands)} bands {self.bands}; give three (red, green, blue) or one (grey)"
            )
        if self.scale is not None and not self.scale[0] < self.scale[1]:
            raise ConfigError(
                f"--scale {self.scale[0]:g} {self.scale[1]:g}: the first must be below the second"
            )
        if self.res is not None and not 0 < self.res < float("inf"):
            raise ConfigError(
                f"--res {self.res:g} is not above 0; give the side of a pixel in units of the CRS"
            )
        if self.bbox is not None and not (self.bbox[0] != self.bbox[2] and self.bbox[1] < self.bbox[3]):
            raise ConfigError(f"--bbox {self.bbox} has no area; give west, south, east, north")
