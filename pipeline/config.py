"""Everything that a user may ask for, and whether it makes sense."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from fewscope.connectors.source import RasterOptions
from fewscope.pipeline.tiling.grid import TILE

Instances = Literal["auto", "components", "split", "learned"]


@dataclass(frozen=True, slots=True)
class SegmentConfig:
    """Everything a user may ask for. The defaults are what the command line does.

    Attributes
    ----------
    source, support, out : paths or fsspec URLs
    support_slide : the slide that annotations were drawn on; None: the source itself
    class_names : which classes of the support set to look for, in this order; none: all
    mpp, slide_mpp : working resolution, and resolution of level 0 where the file does not say (um per px)
    overlap : px between neighbouring tiles
    adapt_s : seconds of one core, about, that fine-tuning on the support set may take; 0: none
    threshold : probability from which on a pixel is object; None: chosen by leave-one-out, 0.5 where that cannot be
    instances : "components", "split" (touching objects told apart by their shape), "learned" (by what the network says
        of depth), or "auto": whichever counts the support's outlined objects better, left out one patch at a time
    object_radius_um : typical radius, for "split" and "learned"; None: from the support's objects
    unit, shard : px; None: by the size of the source
    raster : the source is a raster, and what only rasters are asked for; None: it is a slide
    max_unreadable : largest part of the foreground that may be unreadable
    outlines : what instances.geojson.gz holds; "auto": polygons up to a million instances, points above
    simplify_px : outlines may differ from the mask by so much; 0 follows every pixel
    class_probabilities : keep the probability of each class too, not only that of the class which has the pixel
    """

    source: str
    support: str
    out: str
    support_slide: str | None = None
    class_names: tuple[str, ...] = ()
    mpp: float | None = None
    slide_mpp: float | None = None
    overlap: int = 32
    model: str = "compact"
    weights: str | None = None
    adapt_s: float = 120.0
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


def check(config: SegmentConfig) -> None:
    """Refuse options that make no sense, before anything is read."""
    if config.threshold is not None and not 0 < config.threshold < 1:
        raise ValueError(
            f"threshold {config.threshold} is not between 0 and 1; leave it out to have it chosen"
        )
    if config.adapt_s < 0:
        raise ValueError(f"--adapt {config.adapt_s:g} is negative; give seconds, or 0 to leave it out")
    if config.min_area_um2 is not None and config.min_area_um2 < 0:
        raise ValueError(
            f"--min-area-um2 {config.min_area_um2} is negative; give an area, or 0 to keep everything"
        )
    if not 0 <= config.max_unreadable <= 1:
        raise ValueError(f"--max-unread {config.max_unreadable} is not between 0 and 1")
    if not 0 <= config.overlap <= TILE // 2:
        raise ValueError(f"overlap {config.overlap} is not in 0..{TILE // 2} (half a tile); use 32")
    if config.object_radius_um is not None and not config.object_radius_um > 0:
        raise ValueError(
            f"--object-radius-um {config.object_radius_um} is not above 0; give a typical radius"
        )
    if config.shard is not None and (config.shard < 16 or config.shard % 16):
        raise ValueError(f"shard {config.shard} is not a multiple of 16 px; use 1024, 2048 or 4096")
    if config.unit and (config.shard is None or config.unit % config.shard):
        raise ValueError(f"unit {config.unit} is not a multiple of the shard {config.shard}; give both")


@dataclass(frozen=True, slots=True)
class RasterConfig:
    """What only rasters may be asked for.

    Attributes
    ----------
    view : how the raster is to be seen: bands, stretch, resolution, CRS, area, further scenes
    index_bands : bands of water indices to compare the mask with; None: no comparison
    min_area_m2 : objects smaller on the ground are dropped; None: those of a few pixels
    simplify_px : polygons of the map may differ from the mask by so much; 0 follows every pixel
    """

    view: RasterOptions = field(default_factory=RasterOptions)
    index_bands: IndexBands | None = None
    min_area_m2: float | None = None
    simplify_px: float = 0.0

    def __post_init__(self) -> None:
        if self.min_area_m2 is not None and not self.min_area_m2 >= 0:
            raise ValueError(
                f"--min-area-m2 {self.min_area_m2:g} is negative; give an area, or 0 to keep everything"
            )
        if not self.simplify_px >= 0:
            raise ValueError(
                f"--simplify {self.simplify_px:g} is negative; give pixels, or 0 to follow every pixel"
            )


@dataclass(frozen=True, slots=True)
class IndexBands:
    """1-based bands of a raster by what they see; ``green`` and at least one of the others."""

    green: int
    nir: int | None = None
    swir: int | None = None

    def __post_init__(self) -> None:
        if self.nir is None and self.swir is None:
            raise ValueError("a water index needs --green and one of --nir (NDWI) and --swir (MNDWI)")

    def view(self, view: RasterOptions) -> RasterOptions:
        """How to see a raster so that red, green and blue are green, NIR and SWIR on one scale."""
        bands = (self.green, self.nir or self.green, self.swir or self.green)
        return replace(view, bands=bands, scale=None, keep_ratios=True)

    @property
    def pairs(self) -> dict[str, int]:
        """Name of each index that can be had, and the channel of that view which is held against green."""
        channels = {"NDWI": (self.nir, 1), "MNDWI": (self.swir, 2)}
        return {name: channel for name, (band, channel) in channels.items() if band is not None}
