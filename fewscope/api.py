"""Fewscope from Python: segment a slide, map a raster, open a result, count in regions, predict single images.

Names of this module are imported from `fewscope` itself: ``fewscope.segment``, ``fewscope.Segmenter``. What they
need is imported when they are called. All errors are those of `fewscope.errors`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal

from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.slide_options import Pages, PlaneName
from fewscope.connectors.stain_options import Positive
from fewscope.connectors.support.load import is_annotations
from fewscope.connectors.support.slide_files import time_drawn_on
from fewscope.connectors.support_options import CellPart, GeoJsonOrigin
from fewscope.errors import ConfigError
from fewscope.pipeline.config import IndexBands, Instances, RasterConfig, SegmentConfig
from fewscope.results import Path, open_result, regions
from fewscope.single_images import Segmenter

if TYPE_CHECKING:
    from fewscope.connectors.results.reader import Result
    from fewscope.pipeline.execution.pool import Pool
    from fewscope.pipeline.execution.progress import ProgressEvent

OnProgress = Callable[["ProgressEvent"], None]
"""Called with each event: `ProgressEvent` has ``stage``, ``done``, ``total`` and ``unit``."""

Cancel = Callable[[], bool] | threading.Event
"""Set, or returning True, once the run is to stop."""

__all__ = ["Segmenter", "map", "open_result", "regions", "segment"]


def segment(
    source: Path,
    support: Path | Sequence[Path],
    out: Path,
    *,
    mpp: float | None = None,
    slide_mpp: float | None = None,
    channels: Sequence[str] = (),
    series: int | None = None,
    scale: tuple[float, float] | None = None,
    plane: PlaneName | int | None = None,
    time: int | None = None,
    pages: Pages | None = None,
    support_time: int | None = None,
    support_slide: Path | None = None,
    class_names: Sequence[str] = (),
    cell_part: CellPart = "auto",
    geojson_origin: GeoJsonOrigin = "scan",
    aoi: Path | None = None,
    aoi_classes: Sequence[str] = (),
    aoi_excluded: Sequence[str] = (),
    foreground: Literal["auto", "all"] = "auto",
    model: str = "compact",
    weights: Path | None = None,
    encoder: str | None = None,
    looks: int | None = None,
    adapt_s: float = 30.0,
    threshold: float | None = None,
    instances: Instances = "auto",
    object_radius_um: float | None = None,
    min_area_um2: float | None = None,
    class_probabilities: bool = False,
    stains: str | None = None,
    positive: Mapping[str, Sequence[float]] | None = None,
    max_unreadable: float = 0.1,
    overwrite: bool = False,
    workers: int | None = 0,
    progress: OnProgress | None = None,
    cancel: Cancel | None = None,
) -> Result:
    """Segment a whole slide and count its objects. Called again with the same arguments, it resumes.

    Parameters
    ----------
    source : Path
        slide: path or fsspec URL.
    support : Path | Sequence[Path]
        Support set: folder of labelled patches, or annotations drawn on the slide; several become one, their classes
        joined by name.
    out : Path
        Output folder: path or fsspec URL.
    mpp : float | None
        Working resolution, um per px; None: that of patches that state one, else 0.5, or the slide's if coarser, or
        what large or small labelled objects need (`pipeline.working_resolution`).
    slide_mpp : float | None
        Resolution of level 0, um per px, if the file does not state it.
    channels : Sequence[str]
        Channels of a multi-channel TIFF or OME-Zarr to use, by name or by number from 1; empty: all.
    series : int | None
        Image of a multi-channel TIFF or OME-Zarr that holds several, counted from 1; None: the first.
    scale : tuple[float, float] | None
        Values of its channels shown as black and white; None: 1 to 99.8 % of each one's values.
    plane : PlaneName | int | None
        Plane of a z-stack: "max" or "mean" (projections), "middle", "sharpest", or a number from 1; None: "max" of
        what is dark between the objects, as fluorescence is, else "sharpest".
    time : int | None
        Time point of a series, from 1; None: the source has one alone.
    pages : Pages | None
        What the pages of a TIFF are, if it does not say it: "channels", "planes" or "times"; None: channels.
    support_time : int | None
        Time point that the annotations were drawn on; None: the one that they state, else `time`.
    support_slide : Path | None
        Slide that the annotations were drawn on; None: `source`.
    class_names : Sequence[str]
        Classes of the support set to segment; empty: all.
    cell_part : CellPart
        Outline of QuPath's cells to learn from; "auto": the nucleus for classes that mean nuclei, else the
        cell.
    geojson_origin : GeoJsonOrigin
        Where GeoJSON starts, read and written, on slides that state a scanned area: "scan": at its corner, as
        in QuPath; "file": at the corner of the slide, as in OpenSlide.
    aoi : Path | None
        File of polygons drawn on the slide: only what lies in them is segmented; None: all of it.
    aoi_classes, aoi_excluded : Sequence[str]
        Classes or names of the polygons that outline the area (empty: all), and of those left out of it, as are always
        those of class Ignore*.
    foreground : Literal['auto', 'all']
        "auto": skip empty glass; "all": predict every tile.
    model, weights : str, Path | None
        Name of the network, and a file of weights to use instead of the shipped one.
    encoder : str | None
        A frozen encoder, read out beside the pixel classifier: ``efficientnet-lite0``, or one of your own, the path of
        a TorchScript file or ``timm/NAME:FILE``.
    looks : int | None
        Looks at every tile, 1 or 2: two take twice the network's time, and gain 0.00 to 0.01 IoU. None: as many as the
        weights were trained for, which is one for the shipped ones.
    adapt_s : float
        Time budget for adapting to the support set, seconds on one core (approximate); above 30 the network is
        fine-tuned, too; 0: no adaptation.
    threshold : float | None
        Probability above which a pixel is object; None: 0.5, or a better value if leave-one-out shows one.
    instances : Instances
        How touching objects are separated.
    object_radius_um : float | None
        Typical radius, for "split", "learned" and objects that are marked by points, px where no um per px is known;
        None: measured on the support set.
    min_area_um2 : float | None
        Smaller objects are dropped; None: a tenth of the typical area.
    class_probabilities : bool
        Also store the probability of each class.
    stains : str | None
        "h-dab" or "h-e": measure the optical density of hematoxylin and DAB, or of hematoxylin and eosin, in every
        object of a bright slide.
    positive : Mapping[str, Sequence[float]] | None
        From which mean of a stain or channel an object counts as positive: one value, or three for 1+, 2+ and 3+; None:
        of DAB, where it is measured, 0.2, 0.4 and 0.6.
    max_unreadable : float
        Largest fraction of the tissue that may be unreadable.
    overwrite : bool
        Replace the result of another run in `out`.
    workers : int | None
        0: in this process; n: Ray actors; None: as many Ray actors as GPUs, or CPUs. The result is the same.
    progress : OnProgress | None
        Called with a `fewscope.pipeline.execution.progress.ProgressEvent` at each stage and after each unit.
    cancel : Cancel | None
        Event, or function that returns True, to stop between two units.

    Returns
    -------
    Result
        The finished result, opened.

    Raises
    ------
    ConfigError, SourceError, SupportError, WeightsError
        Bad input; nothing was written.
    RunMismatch, OutputError
        The output folder belongs to another run, or cannot be written.
    UnreadableError
        More than `max_unreadable` could not be read; the result was written.
    Cancelled
        `cancel` stopped the run; the same call resumes.
    WorkerError
        Ray cannot be started, or a worker died repeatedly.

    Examples
    --------
    >>> result = fewscope.segment("slide.svs", "nuclei.geojson", "out/slide")  # doctest: +SKIP
    >>> result.count, result.count_interval  # doctest: +SKIP
    (10183, (9544, 10869))
    """
    supports = _supports(support)
    if time is not None and support_time is None:
        support_time = time_drawn_on([uri for uri in supports if is_annotations(uri)])
    config = SegmentConfig(
        source=os.fspath(source),
        support=supports[0],
        more_support=tuple(supports[1:]),
        out=os.fspath(out),
        support_slide=os.fspath(support_slide or source),
        class_names=tuple(class_names),
        cell_part=cell_part,
        geojson_origin=geojson_origin,
        mpp=mpp,
        slide_mpp=slide_mpp,
        channels=tuple(channels),
        series=series,
        scale=scale,
        plane=plane,
        time=time,
        pages=pages,
        support_time=support_time,
        model=model,
        weights=None if weights is None else os.fspath(weights),
        encoder=encoder,
        looks=looks,
        adapt_s=adapt_s,
        threshold=threshold,
        instances=instances,
        object_radius_um=object_radius_um,
        min_area_um2=min_area_um2,
        aoi=None if aoi is None else os.fspath(aoi),
        aoi_classes=tuple(aoi_classes),
        aoi_excluded=tuple(aoi_excluded),
        foreground=foreground,
        max_unreadable=max_unreadable,
        overwrite=overwrite,
        class_probabilities=class_probabilities,
        stains=stains,
        positive=tuple(Positive(name, tuple(values)) for name, values in (positive or {}).items()),
    )
    return _run(config, workers, progress, cancel)


def _supports(support: Path | Sequence[Path]) -> list[str]:
    """One support set or several, as text."""
    several = [support] if isinstance(support, (str, os.PathLike)) else list(support)
    if not several:
        raise ConfigError("no support set is given; give one path, or several")
    return [os.fspath(one) for one in several]


def map(
    source: Path | Sequence[Path],
    support: Path | Sequence[Path],
    out: Path,
    *,
    bands: Sequence[int] | Literal["all"] = (),
    scale: tuple[float, float] | None = None,
    nodata: float | Literal["auto", "file"] = "auto",
    alpha: Literal["auto", "band", "mask"] = "auto",
    allow_remote_references: bool = False,
    res: float | None = None,
    crs: str | None = None,
    aoi: Path | None = None,
    bbox: tuple[float, float, float, float] | None = None,
    support_raster: Path | None = None,
    class_names: Sequence[str] = (),
    model: str = "compact",
    weights: Path | None = None,
    encoder: str | None = None,
    looks: int | None = None,
    adapt_s: float = 30.0,
    threshold: float | None = None,
    instances: Instances = "components",
    min_area_m2: float | None = None,
    simplify_px: float = 0.0,
    index_bands: IndexBands | None = None,
    class_probabilities: bool = False,
    max_unreadable: float = 0.1,
    overwrite: bool = False,
    workers: int | None = 0,
    progress: OnProgress | None = None,
    cancel: Cancel | None = None,
) -> Result:
    """Map what a support set shows on a raster, or on several as one mosaic. Resumes as `segment` does.

    Parameters
    ----------
    source : Path | Sequence[Path]
        raster: path, URL or STAC item collection; several become one mosaic.
    support : Path | Sequence[Path]
        Support set: folder of labelled patches, or polygons drawn on the raster, in any vector format and CRS; several
        become one, their classes joined by name.
    out : Path
        Output folder: path or fsspec URL.
    bands : Sequence[int] | Literal['all']
        Red, green and blue, or any other number of bands, counted from 1; empty: by the file's band names or colours.
    scale : tuple[float, float] | None
        Band values shown as black and white; None: 8-bit unchanged, others 2nd to 98th percentile.
    nodata : float | Literal['auto', 'file']
        Band value that marks missing pixels; "file": only the file's; "auto": also the value of empty corners.
    alpha : Literal['auto', 'band', 'mask']
        Meaning of a band that GDAL marks as alpha; "auto": by what its values look like.
    allow_remote_references : bool
        Also open VRTs and descriptions of services that refer to files outside their folder, or to addresses.
    res : float | None
        Working resolution in units of the CRS; None: the raster's.
    crs : str | None
        CRS to work in; None: that of the first raster.
    aoi, bbox : Path | None, tuple[float, float, float, float] | None
        Area to segment: a file of polygons, or west, south, east, north in degrees.
    support_raster : Path | None
        Raster that the polygons were drawn on; None: the first of `source`.
    min_area_m2 : float | None
        Smaller objects are dropped; None: those of fewer than 4 pixels.
    simplify_px : float
        Tolerance of the map's polygons, px; 0: they follow pixel edges.
    index_bands : IndexBands | None
        Bands of water indices to compare the mask with; None: no comparison.
    class_names, model, weights, encoder, looks, adapt_s, threshold, instances, class_probabilities, max_unreadable,
    overwrite, workers, progress, cancel
        As in `segment`.

    Returns
    -------
    Result
        The finished result, opened; ``mask.tif`` and ``features.gpkg`` lie in `out`.

    Raises
    ------
    FewscopeError
        As `segment` does.
    """
    first, *others = [source] if isinstance(source, (str, os.PathLike)) else list(source) or [""]
    if not first:
        raise ConfigError("no raster to map; give one path, or several for a mosaic")
    view = RasterOptions(
        bands=() if bands == "all" else tuple(bands),
        all_bands=bands == "all",
        scale=scale,
        nodata=nodata,
        res=res,
        crs=crs,
        aoi=None if aoi is None else os.fspath(aoi),
        bbox=bbox,
        scenes=tuple(os.fspath(other) for other in others),
        alpha=alpha,
        allow_remote_references=allow_remote_references,
        data_bands=() if index_bands is None else index_bands.numbers,
    )
    supports = _supports(support)
    config = SegmentConfig(
        source=os.fspath(first),
        support=supports[0],
        more_support=tuple(supports[1:]),
        out=os.fspath(out),
        support_slide=os.fspath(support_raster or first),
        class_names=tuple(class_names),
        model=model,
        weights=None if weights is None else os.fspath(weights),
        encoder=encoder,
        looks=looks,
        adapt_s=adapt_s,
        threshold=threshold,
        instances=instances,
        raster=RasterConfig(view, index_bands, min_area_m2, simplify_px),
        max_unreadable=max_unreadable,
        overwrite=overwrite,
        class_probabilities=class_probabilities,
    )
    return _run(config, workers, progress, cancel)


def _run(
    config: SegmentConfig, workers: int | None, progress: OnProgress | None, cancel: Cancel | None
) -> Result:
    """Run a configuration, and open its result."""
    from fewscope.pipeline.execution.pool import LocalPool
    from fewscope.pipeline.execution.progress import Monitor
    from fewscope.pipeline.plan import model_loader
    from fewscope.pipeline.run import segment as run

    if workers is not None and workers < 0:
        raise ConfigError(
            f"workers {workers} is negative; give 0 for this process, or a number of Ray actors"
        )
    monitor = Monitor(progress, cancel)
    load = model_loader(config)
    model = load()
    pool: AbstractContextManager[Pool]
    if workers == 0:
        pool = LocalPool(lambda: model)
    else:
        from fewscope.pipeline.execution.ray_pool import RayPool

        pool = RayPool(load, workers)
    with pool as entered:
        run(config, entered, model, monitor=monitor)
    return open_result(config.out)
