"""Options for opening a raster. Light to import: a command line needs them before it reads a pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fewscope.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RasterOptions:
    """How to open a raster, or several as one.

    Attributes
    ----------
    bands
        1-based: three for red, green and blue, one for grey, two, or any more, which travel as they are. Empty: by the
        file's colour interpretation, else the first three, else the first.
    all_bands
        Read all bands but the mask; `bands` is empty.
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
    alpha
        What a band is that GDAL marks as alpha: a "mask", a "band" of data, or ("auto") what its values look like.
    data_bands
        Further 1-based bands that are data, whatever GDAL marks them as.
    allow_remote_references
        Also open files that make GDAL read others outside their folder, or addresses: VRTs, descriptions of services.
    pick
        Where scenes overlap, take the first with a valid pixel, or the one whose edge is farthest from it.

    Raises
    ------
    ConfigError
        An option is out of range.
    """

    bands: tuple[int, ...] = ()
    all_bands: bool = False
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
    alpha: Literal["auto", "band", "mask"] = "auto"
    data_bands: tuple[int, ...] = ()
    allow_remote_references: bool = False

    def __post_init__(self) -> None:
        shown = ",".join(map(str, self.bands))
        if self.bands and self.all_bands:
            raise ConfigError(f"--bands {shown} and all bands are asked for; give one of them")
        if len(self.bands) not in (0, 1, 3) and len(set(self.bands)) < len(self.bands):
            raise ConfigError(f"--bands {shown} names a band twice; name each once")
        if any(band < 1 for band in self.bands):
            raise ConfigError(f"--bands {shown}: bands are counted from 1")
        if len(self.bands) == 3 and len(set(self.bands)) == 1:
            raise ConfigError(
                f"--bands {shown} is one band three times; give --bands {self.bands[0]}, for grey"
            )
        if self.scale is not None and not -math.inf < self.scale[0] < self.scale[1] < math.inf:
            raise ConfigError(
                f"--scale {self.scale[0]:g} {self.scale[1]:g}: give two numbers, the first below the second"
            )
        if self.res is not None and not 0 < self.res < float("inf"):
            raise ConfigError(
                f"--res {self.res:g} is not above 0; give the side of a pixel in units of the CRS"
            )
        if self.crs is not None and not self.crs.strip():
            raise ConfigError("--crs is empty; give one such as EPSG:32618, or leave it out")
        if self.bbox is not None:
            west, south, east, north = self.bbox
            if not all(map(math.isfinite, self.bbox)) or west == east or not south < north:
                raise ConfigError(
                    f"--bbox {west:g} {south:g} {east:g} {north:g} has no area; give west, south, east, north"
                )
            if west > east and east + 360 - west > 180:  # not across the antimeridian: the other way round
                raise ConfigError(
                    f"--bbox {west:g} {south:g} {east:g} {north:g}: west lies east of "
                    "east; give west, south, east, north"
                )
