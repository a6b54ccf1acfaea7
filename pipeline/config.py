"""Configuration of a run, validated when it is made.

Light to import: command lines need the defaults before they load numpy, GDAL or torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.slide_options import Pages, PlaneName, SlideOptions, StackOptions
from fewscope.connectors.stain_options import Positive, StainOptions
from fewscope.connectors.support_options import CellPart, GeoJsonOrigin, SupportOptions
from fewscope.errors import ConfigError
from fewscope.model.conventions import PATCH_SIZE, PRECISIONS

Instances = Literal["auto", "components", "split", "learned"]
"""How touching objects are separated."""


@dataclass(frozen=True, slots=True)
class SegmentConfig:
    """Configuration of one run. The defaults are those of the command line.

    Attributes
    ----------
    source, support, out : str
        Paths or fsspec URLs.
    more_support : tuple[str, ...]
        Further support sets, learned from together with the first; their classes are joined by name.
    support_slide : str | None
        The slide that the annotations were drawn on; None: the source itself.
    support_slide_mpp : float | None
        um per px of its level 0, instead of what its file states; None: as the file states, else ``slide_mpp``.
    class_names : tuple[str, ...]
        Classes of the support set to segment, in this order; empty: all.
    mpp, slide_mpp : float | None
        um per px: working resolution (None: see `pipeline.working_resolution`), and resolution of level 0 where the
        file states none.
    channels, series, scale : tuple[str, ...], int | None, tuple[float, float] | None
        What is read of a multi-channel TIFF or OME-Zarr, as in `connectors.slide_options.SlideOptions`.
    plane, time, pages : PlaneName | int | None, int | None, Pages | None
        What is read of z-stacks and time series, as in `connectors.slide_options.StackOptions`.
    support_time : int | None
        Time point that annotations were drawn on, counted from 1; None: that of the source, or the only one.
    looks : int | None
        Looks at every tile, 1 or 2: two take twice the network's time, and gain 0.00 to 0.01 IoU. None: as many as the
        weights were trained for, which is one for the shipped ones.
    overlap : int
        px that neighbouring tiles share, 0 to half a tile.
    model, weights : str, str | None
        Name of the network, and a file of weights to use instead of the shipped one.
    encoder : str | None
        A frozen encoder, as `model.networks.frozen_encoder.load_encoder` takes it; every worker opens it. None or
        empty: none.
    adapt_s : float
        Time budget for adapting to the support set, in seconds on one core (approximate); above 30 the network is
        fine-tuned, too; 0: no adaptation.
    threshold : float | None
        Probability above which a pixel is object, between 0 and 1; None: 0.5, or a better value if
        leave-one-out shows one with 95 % confidence.
    connectivity : int
        1: pixels that share a side are connected; 2: also those that share a corner.
    instances : Instances
        How touching objects are separated: "components" (not at all), "split" (by shape), "learned" (by
        predicted depth), or "auto": whichever counts the outlined objects of the held-out patches best.
    object_radius_um : float | None
        Typical radius, for "split", "learned" and objects that are marked by points, px where no um per px is known;
        None: measured on the support set.
    min_area_um2 : float | None
        Smaller objects are dropped; None: a tenth of the typical area.
    foreground : Literal['auto', 'all']
        "auto": skip the background of slides; "all": predict every tile.
    unit, shard : int | None
        Sides of a work unit and of a storage shard, px; None: chosen by the size of the source.
    max_unreadable : float
        Largest fraction of the foreground that may be unreadable, 0 to 1.
    overwrite : bool
        Replace the result of another run in `out`.
    aoi : str | None
        File of polygons on the slide: only what lies in them is segmented; None: all of it.
    aoi_classes, aoi_excluded : tuple[str, ...]
        Classes of the polygons that outline the area, and of those left out of it, as in
        `connectors.support.area_files.AreaOptions`.
    raster : RasterConfig | None
        Options for rasters; None: the source is a slide.
    outlines : Literal['auto', 'polygons', 'points', 'none']
        What instances.geojson.gz holds; "auto": polygons up to a million instances, points above.
    simplify_px : float
        Tolerance of the outlines, px; 0 follows every pixel.
    class_probabilities : bool
        Also store the probability of each class, not only that of the class that a pixel is assigned to.
    precision : Literal['auto', 'float32', 'bfloat16']
        In which tiles are predicted, by all workers; "auto": bfloat16 where the processor computes in it, else
        float32; a run that is resumed keeps its own.
    stains, positive : str | None, tuple[Positive, ...]
        Stains to measure in every object of a bright slide, and from which mean of a channel an object is positive, as
        in `connectors.stain_options.StainOptions`.
    geojson_origin : GeoJsonOrigin
        Where the coordinates of GeoJSON start, read and written, on slides that state a scanned area: "scan":
        at its corner, as QuPath expects; "file": at the corner of the slide.
    cell_part : CellPart
        Outline of QuPath's cells that is learned from; "auto": the nucleus for classes that mean nuclei, else
        the cell.

    Raises
    ------
    ConfigError
        A value is out of its range, or contradicts another.
    """

    source: str
    support: str
    out: str
    more_support: tuple[str, ...] = ()
    support_slide: str | None = None
    support_slide_mpp: float | None = None
    class_names: tuple[str, ...] = ()
    mpp: float | None = None
    slide_mpp: float | None = None
    channels: tuple[str, ...] = ()
    series: int | None = None
    scale: tuple[float, float] | None = None
    plane: PlaneName | int | None = None
    time: int | None = None
    pages: Pages | None = None
    support_time: int | None = None
    looks: int | None = None
    overlap: int = 32
    model: str = "compact"
    weights: str | None = None
    encoder: str | None = None
    adapt_s: float = 30.0
    threshold: float | None = None
    connectivity: int = 2
    instances: Instances = "auto"
    object_radius_um: float | None = None
    min_area_um2: float | None = None
    foreground: Literal["auto", "all"] = "auto"
    unit: int | None = None
    shard: int | None = None
    max_unreadable: float = 0.1
    overwrite: bool = False
    raster: RasterConfig | None = None
    outlines: Literal["auto", "polygons", "points", "none"] = "auto"
    simplify_px: float = 0.5
    class_probabilities: bool = False
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    stains: str | None = None
    positive: tuple[Positive, ...] = ()
    geojson_origin: GeoJsonOrigin = "scan"
    cell_part: CellPart = "auto"
    aoi: str | None = None
    aoi_classes: tuple[str, ...] = ()
    aoi_excluded: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        SupportOptions(self.class_names, self.cell_part, self.geojson_origin)  # checks them
        self.slide, self.measured  # noqa: B018  # checks them
        self._check_area()
        if twice := next((one for one in self.more_support if self.supports.count(one) > 1), None):
            raise ConfigError(f"--support {twice} is given twice; give it once")
        if self.support_time is not None and self.support_time < 1:
            raise ConfigError(f"--support-time {self.support_time}: time points are counted from 1")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise ConfigError(
                f"--threshold {self.threshold} is not between 0 and 1; leave it out to have it chosen"
            )
        if not 0 <= self.adapt_s < math.inf:
            raise ConfigError(
                f"--adapt {self.adapt_s:g} is negative or no number; give seconds, or 0 for no adaptation"
            )
        for name, mpp in (("--mpp", self.mpp), ("--slide-mpp", self.slide_mpp)):
            if mpp is not None and not 0 < mpp < math.inf:
                raise ConfigError(f"{name} {mpp:g} is not above 0, or no number; give um per px, such as 0.5")
        if self.connectivity not in (1, 2):
            raise ConfigError(
                f"--connectivity {self.connectivity} is neither 1 (sides) nor 2 (sides and corners)"
            )
        if self.min_area_um2 is not None and not 0 <= self.min_area_um2 < math.inf:
            raise ConfigError(
                f"--min-area-um2 {self.min_area_um2} is negative or no number; give an area, or 0 to keep everything"
            )
        if not 0 <= self.max_unreadable <= 1:
            raise ConfigError(f"--max-unreadable {self.max_unreadable} is not between 0 and 1; use 0.1")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"--precision {self.precision} is none of {', '.join(PRECISIONS)}")
        if not 0 <= self.overlap <= PATCH_SIZE // 2:
            raise ConfigError(
                f"--overlap {self.overlap} is not in 0..{PATCH_SIZE // 2} (half a tile); use 32"
            )
        check_radius(self.object_radius_um)
        if not 0 <= self.simplify_px < math.inf:
            raise ConfigError(
                f"simplify_px {self.simplify_px:g} is negative or no number; give pixels, or 0 to follow every pixel"
            )
        if self.shard is not None and (self.shard < 16 or self.shard % 16):
            raise ConfigError(f"shard {self.shard} is not a multiple of 16 px; use 1024, 2048 or 4096")
        if self.unit is not None and (self.shard is None or self.unit < 1 or self.unit % self.shard):
            raise ConfigError(f"unit {self.unit} is not a multiple of the shard {self.shard}; give both")

    def _check_area(self) -> None:
        if self.aoi is not None and self.raster is not None:
            raise ConfigError(f"--aoi {self.aoi} of a raster belongs to its view; give it to `RasterOptions`")
        if self.aoi is None and (self.aoi_classes or self.aoi_excluded):
            option = "--aoi-class" if self.aoi_classes else "--aoi-exclude"
            raise ConfigError(f"{option} says which polygons of a file to use; give the file with --aoi")
        for name in (*self.aoi_classes, *self.aoi_excluded):
            if not name.strip():
                raise ConfigError(
                    "--aoi-class or --aoi-exclude has no name; give the class of polygons, or leave it out"
                )

    @property
    def supports(self) -> tuple[str, ...]:
        """All support sets, in their order."""
        return (self.support, *self.more_support)

    @property
    def label(self) -> str:
        """The source, and its time point if one is chosen."""
        return self.source if self.time is None else f"{self.source}, time point {self.time}"

    @property
    def slide(self) -> SlideOptions:
        """What is read of a slide of channels."""
        scale = None if self.scale is None else (self.scale[0], self.scale[1])
        stack = StackOptions(self.plane, self.time, self.pages)
        return SlideOptions(tuple(self.channels), self.series, scale, stack)

    @property
    def support_slide_options(self) -> SlideOptions:
        """The same for the slide that the support set was drawn on."""
        return replace(self.slide, stack=replace(self.slide.stack, time=self.support_time or self.time))

    @property
    def measured(self) -> StainOptions:
        """What is measured of stains, and what counts as positive."""
        return StainOptions(self.stains, tuple(self.positive))


def check_workers(workers: int | None, gpus_per_worker: float | None) -> None:
    """Check the numbers of a pool of Ray actors, before Ray is imported.

    Raises
    ------
    ConfigError
        There would be no worker, or a negative part of a GPU for each.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers} is below 1; give the number of Ray actors, or leave it out")
    if gpus_per_worker is not None and not 0 <= gpus_per_worker < math.inf:
        raise ConfigError(
            f"--gpus-per-worker {gpus_per_worker:g} is negative or no number; give GPUs per actor, or 0 for none"
        )


@dataclass(frozen=True, slots=True)
class RasterConfig:
    """Configuration that applies to rasters only.

    Attributes
    ----------
    view : RasterOptions
        How the raster is read: bands, stretch, resolution, CRS, area, further scenes.
    index_bands : IndexBands | None
        Bands of the water indices that the mask is compared with; None: no comparison.
    min_area_m2 : float | None
        Smaller objects are dropped; None: those of fewer than 4 pixels.
    simplify_px : float
        Tolerance of the polygons, px; 0 follows every pixel.

    Raises
    ------
    ConfigError
        A value is out of its range.
    """

    view: RasterOptions = field(default_factory=RasterOptions)
    index_bands: IndexBands | None = None
    min_area_m2: float | None = None
    simplify_px: float = 0.0

    def __post_init__(self) -> None:
        if self.min_area_m2 is not None and not 0 <= self.min_area_m2 < math.inf:
            raise ConfigError(
                f"--min-area-m2 {self.min_area_m2:g} is negative or no number; give an area, or 0 to keep everything"
            )
        if not 0 <= self.simplify_px < math.inf:
            raise ConfigError(
                f"--simplify {self.simplify_px:g} is negative or no number; give pixels, or 0 to follow every pixel"
            )


@dataclass(frozen=True, slots=True)
class IndexBands:
    """Numbers of the bands of water indices, counted from 1: ``green`` and at least one of the others.

    Raises
    ------
    ConfigError
        Both NIR and SWIR are missing, a number is below 1, or one stands for two of them.
    """

    green: int
    nir: int | None = None
    swir: int | None = None

    def __post_init__(self) -> None:
        if self.nir is None and self.swir is None:
            raise ConfigError("a water index needs --green and one of --nir (NDWI) and --swir (MNDWI)")
        named = {"--green": self.green, "--nir": self.nir, "--swir": self.swir}
        seen: dict[int, str] = {}
        for option, band in named.items():
            if band is None:
                continue
            if band < 1:
                raise ConfigError(f"{option} {band} is no band; bands are counted from 1")
            if band in seen:
                raise ConfigError(
                    f"{seen[band]} and {option} are both band {band}; an index needs two different bands"
                )
            seen[band] = option

    def view(self, view: RasterOptions) -> RasterOptions:
        """Options to read green, NIR and SWIR as the channels red, green and blue, on one scale."""
        bands = (self.green, self.nir or self.green, self.swir or self.green)
        return replace(view, bands=bands, all_bands=False, scale=None, keep_ratios=True)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers that are given."""
        return tuple(band for band in (self.green, self.nir, self.swir) if band is not None)

    @property
    def pairs(self) -> dict[str, int]:
        """Each available index by name, with the channel of `view` that it compares with green."""
        channels = {"NDWI": (self.nir, 1), "MNDWI": (self.swir, 2)}
        return {name: channel for name, (band, channel) in channels.items() if band is not None}


def check_radius(object_radius_um: float | None) -> None:
    """Check a typical radius.

    Raises
    ------
    ConfigError
        It is none.
    """
    if object_radius_um is not None and not 0 < object_radius_um < math.inf:
        raise ConfigError(
            f"--object-radius-um {object_radius_um} is not above 0, or no number; give a typical radius"
        )
