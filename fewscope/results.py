"""Finished results from Python: ``fewscope.open_result`` and ``fewscope.regions``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fewscope.connectors.support_options import GeoJsonOrigin
from fewscope.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow

    from fewscope.connectors.results.reader import Result

Path = str | os.PathLike[str]
"""A local path; as text also an fsspec URL."""


def open_result(path: Path) -> Result:
    """Open the output folder of a finished run; arrays and tables are read when they are used.

    Parameters
    ----------
    path : Path
        Output folder: path or fsspec URL.

    Raises
    ------
    ResultNotFound
        There is no result; also a ``FileNotFoundError``.
    """
    from fewscope.connectors.results.reader import open_result as opened

    return opened(os.fspath(path))


def regions(
    result: Path,
    within: Path | None = None,
    *,
    name: str | None = None,
    geojson_origin: GeoJsonOrigin | None = None,
    slide: Path | None = None,
    hot_spots: int = 0,
    field_area: float | None = None,
    hot_spots_of: str | None = None,
) -> pyarrow.Table:
    """Count what a finished run has found in regions, and find hot spots; nothing is written.

    Parameters
    ----------
    result : Path
        Output folder of the run: path or fsspec URL.
    within : Path | None
        Polygons: annotations on the slide, or any vector file of a raster; None: hot spots alone.
    name : str | None
        Rasters: column with the names of the regions; None: ``name``, if there is one.
    geojson_origin : GeoJsonOrigin | None
        As in `segment`; None: as in the run.
    slide : Path | None
        Where the slide of the run is now, if an older run must look at it; None: where it was.
    hot_spots : int
        How many hot spots, the circles with the most objects that do not overlap.
    field_area : float | None
        Area of a hot spot: mm2 on slides, um2 on images of an electron microscope, px without a resolution, km2 on
        rasters; None: 1 mm2, but at most a tenth of the tissue; a hundredth of a raster.
    hot_spots_of : str | None
        Class whose objects make hot spots, or stain or channel whose positive objects do; None: all.

    Returns
    -------
    pyarrow.Table
        A row for each region and class, then hot spots, then totals: the columns of ``regions.csv``.

    Raises
    ------
    ResultNotFound, RunMismatch
        There is no finished run, or its files were changed.
    SourceError, ConfigError
        The file or an option cannot be used.

    Examples
    --------
    >>> table = fewscope.regions("out/slide", "tumour.geojson", hot_spots=3)  # doctest: +SKIP
    """
    from fewscope.connectors.results.finished_run import FinishedRun
    from fewscope.pipeline.regions.fields import HotSpotOptions
    from fewscope.pipeline.regions.inputs import RegionOptions, summary_of
    from fewscope.pipeline.regions.table import region_table

    if within is None and not hot_spots:
        raise ConfigError("nothing to count: give a file of regions, or a number of hot spots")
    wanted = HotSpotOptions(hot_spots, field_area, hot_spots_of) if hot_spots else None
    options = RegionOptions(name, geojson_origin, None if slide is None else os.fspath(slide))
    uri = None if within is None else os.fspath(within)
    summary, _ = summary_of(FinishedRun(os.fspath(result)), uri, options, wanted)
    return region_table([summary])
