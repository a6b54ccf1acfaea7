"""Regions for a finished run: read from a file, in the coordinates of its table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from affine import Affine
from rasterio.crs import CRS

from fewscope.connectors.open import reopen_slide
from fewscope.connectors.results.finished_run import FinishedRun, Place, place_record
from fewscope.connectors.slide_folders import names_of
from fewscope.connectors.storage.filesystem import find_filesystem, list_names
from fewscope.connectors.support.map_region_files import read_map_regions
from fewscope.connectors.support.region_files import RegionFile, read_regions
from fewscope.connectors.support_options import GeoJsonOrigin
from fewscope.connectors.vectors.placement import Target
from fewscope.connectors.vectors.polygon_files import listed
from fewscope.errors import ConfigError, SourceError
from fewscope.pipeline.regions.fields import HotSpotOptions
from fewscope.pipeline.regions.summary import Progress, RegionSummary, summarise

NDPVIEW = ".ndpa"


@dataclass(frozen=True, slots=True)
class RegionOptions:
    """How regions are read.

    Attributes
    ----------
    name_column
        Column of a vector file that holds their names; None: "name", if there is one.
    origin
        Where GeoJSON of a slide starts, as in `SupportOptions`; None: as in the run.
    slide
        Where the slide of the run is now; None: where it was. It is opened for few files only.
    """

    name_column: str | None = None
    origin: GeoJsonOrigin | None = None
    slide: str | None = None


def place_of(run: FinishedRun, options: RegionOptions) -> Place | None:
    """Where the grid of a slide's run lies; None for rasters.

    Raises
    ------
    SourceError
        The run did not keep it, and its slide is not there.
    """
    if run.is_raster:
        return None
    return run.place or Place.of(place_record(reopen_slide(run, options.slide)))


def origin_of(run: FinishedRun, options: RegionOptions) -> GeoJsonOrigin:
    """Where GeoJSON starts."""
    return options.origin or ("file" if run.manifest.get("geojson_origin") == "file" else "scan")


def read_for(run: FinishedRun, uri: str, options: RegionOptions) -> RegionFile:
    """The regions in a file, in the coordinates x, y of the table of a run.

    Raises
    ------
    SourceError
        The file cannot be used.
    ConfigError
        An option is for the other kind of source.
    """
    if run.is_raster:
        if options.origin is not None:
            raise ConfigError("--geojson-origin is for slides; leave it out")
        result = run.result
        crs = CRS.from_user_input(result.crs) if result.crs else None
        target = Target.of(crs, result.transform, result.spec.height, result.spec.width)
        return read_map_regions(uri, target, options.name_column)
    if options.name_column is not None:
        raise ConfigError(
            "--name is for columns of files on rasters; on slides each polygon has its own name"
        )
    place = place_of(run, options)
    assert place is not None
    info = run.source_info(place)
    if info.from_glass_nm is None and uri.lower().endswith(NDPVIEW):
        info = reopen_slide(run, options.slide)
    return read_regions(uri, info=info, origin=origin_of(run, options))


def transform_of(run: FinishedRun, options: RegionOptions) -> Affine:
    """From pixel corners (col, row) of the grid of a run to the coordinates of its table."""
    place = place_of(run, options)
    return run.result.transform if place is None else place.transform


def summary_of(
    run: FinishedRun,
    uri: str | None,
    options: RegionOptions,
    wanted: HotSpotOptions | None,
    progress: Progress = lambda n_blocks: lambda n_done: None,
) -> tuple[RegionSummary, Affine]:
    """Regions of a file, None for none, and hot spots of a run; and the transform that they were counted with.

    Raises
    ------
    SourceError, ConfigError
        The file or an option cannot be used.
    """
    transform = transform_of(run, options)
    read = read_for(run, uri, options) if uri else RegionFile(())
    notes = list(read.assumptions)
    if read.left_out:
        notes.append(f"{uri}: left out: {listed(list(read.left_out))}.")
    return summarise(run, transform, read.regions, wanted, notes, progress), transform


def match_files(folder: str, runs: list[FinishedRun]) -> tuple[dict[str, str], list[str]]:
    """For each run the file in a folder that is named after its folder or its source; and notes on what is left.

    A name is followed by an ending: that of source ``a.ome.tif`` is ``a.geojson``, ``a.ome.geojson`` or
    ``a.ome.tif.geojson``. The time points of a series share a file, which may be given itself if all runs are of one.

    Raises
    ------
    SourceError
        There is no such folder, no file fits, or two fit one run.
    """
    filesystem, root = find_filesystem(folder)
    sources = {run.source if run.time_point is not None else run.out: _file_name(run.source) for run in runs}
    if len(sources) == 1 and not filesystem.isdir(root):
        return {run.out: folder for run in runs}, []
    if not filesystem.isdir(root):
        raise SourceError(
            f"{folder}: is no folder; for several sources give one with a file named after each of them"
        )
    names = [name for name in list_names(filesystem, root) if not name.startswith(".")]
    files = dict[str, str]()
    n_called = Counter(called for source in sources.values() for called in names_of(source))
    for run in runs:
        called = {called for called in names_of(_file_name(run.source)) if n_called[called] == 1}
        called.add(_file_name(run.out))
        fits = [name for name in names if any(_is_named_after(name, one) for one in called)]
        if len(fits) > 1:
            raise SourceError(
                f"{folder}: {listed(fits)} are all named after {_file_name(run.source)}; keep one of them"
            )
        if fits:
            files[run.out] = f"{folder.rstrip('/')}/{fits[0]}"
    if not files:
        raise SourceError(
            f"{folder}: has no file named after a source, such as {_file_name(runs[0].out)}.geojson"
        )
    without = [_file_name(run.out) for run in runs if run.out not in files]
    notes = [f"{folder}: no file for {listed(without)}; left out."] if without else []
    if left := sorted(set(names) - {_file_name(file) for file in files.values()}):
        notes.append(f"{folder}: {listed(left)} not named after a source; left out.")
    return files, notes


def _file_name(path: str) -> str:
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _is_named_after(name: str, stem: str) -> bool:
    """Whether a file is called like a stem, with one ending, and perhaps another that says how it is packed.

    >>> [_is_named_after(name, "a") for name in ("a.geojson.gz", "a.RoiSet.zip", "a.svs.ndpa", "ab.xml")]
    [True, True, False, False]
    """
    rest = name[len(stem) + 1 :].removesuffix(".gz").removesuffix(".zip")
    return name.startswith(f"{stem}.") and "." not in rest
