"""What is annotated in one start of the server: sources with their tiles and labels, and what pages are told."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyproj
import shapely
from affine import Affine
from shapely.geometry.base import BaseGeometry

from fewscope._version import __version__
from fewscope.annotate.config import AnnotateConfig
from fewscope.annotate.events import EventHub
from fewscope.annotate.folders import LabelledFolders, read_folder
from fewscope.annotate.label_files import LabelFile, image_size, work_scale
from fewscope.annotate.label_state import Changes
from fewscope.annotate.labels import Labels
from fewscope.annotate.resolution import Choice, Ladder, read_choice, side_of
from fewscope.annotate.shapes import Label
from fewscope.annotate.tiles import ImageTiles, TileCache, TileGrid
from fewscope.connectors.colours import Colour
from fewscope.connectors.conventions import PATCH_SIZE
from fewscope.connectors.open import open_any, open_source, stack_size
from fewscope.connectors.source import Source, SourceInfo, ZoomableSource
from fewscope.connectors.support_options import SupportOptions
from fewscope.errors import ConfigError, LabelError, SourceError
from fewscope.pipeline.sources import shown_like
from fewscope.pipeline.tiling.area import Area

log = logging.getLogger(__name__)

TILE_THREADS = 3
"""Threads that read image tiles; the network has its own."""


@dataclass(slots=True)
class OpenSource:
    """A slide or raster with its tiles and labels.

    Attributes
    ----------
    id, name : str
        How the page calls it, and its folder.
    uri : str
        As it was given.
    source : Source
        Its pixels on the working grid, at the resolution of now.
    info : SourceInfo
        Of the source as it was at the start, whose grid labels on rasters lie on.
    folder : Path
        Where its labels are.
    """

    id: str
    name: str
    uri: str
    source: Source
    info: SourceInfo
    tiles: ImageTiles
    labels: Labels
    folder: Path
    to_file: Affine
    scale: float
    frame: BaseGeometry

    @property
    def grid(self) -> TileGrid:
        """Its tiles."""
        return self.tiles.grid

    @property
    def area(self) -> Area | None:
        """What a run segments, on the working grid; None: everything."""
        drawn, info = self.labels.area, self.source.info
        if drawn is None:
            return None
        on_grid = shapely.affinity.scale(drawn, 1 / self.scale, 1 / self.scale, origin=(0, 0))
        return Area(on_grid, (info.height, info.width))

    def described(self) -> dict[str, Any]:
        """What the page must know of it."""
        info = self.source.info
        labels = self.labels.all()
        crs = pyproj.CRS.from_user_input(info.crs) if info.crs else None
        return {
            "id": self.id,
            "name": self.name + (f", time point {info.time.number}" if info.time else ""),
            "kind": info.kind,
            "width": self.grid.width,
            "height": self.grid.height,
            "tile": 256,
            "max_zoom": self.grid.max_zoom,
            "key": self.tiles.key,
            "work_scale": self.scale,
            "mpp": info.native_mpp,
            "unit": _unit(crs) if info.kind == "raster" else "um" if info.native_mpp else None,
            "transform": list(self.to_file[:6]),
            "crs": info.crs,
            "crs_name": None if crs is None else crs.name,
            "n_regions": sum(one.kind == "region" for one in labels),
            "n_objects": sum(one.kind in ("object", "point") and not one.negative for one in labels),
            "state": "labelled" if labels else "new",
            "notes": [
                *info.notes,
                *info.assumptions,
                *_time_note(info),
                *self.labels.notes,
                *filter(None, [self.labels.problem]),
            ],
        }


class Session:
    """The sources of one start, opened, and where their labels are kept.

    Parameters
    ----------
    config : AnnotateConfig
        What is annotated.

    Attributes
    ----------
    start : str
        Tells apart starts of the server, of which a browser may keep answers under the same addresses.

    Raises
    ------
    FewscopeError
        A source, the labels in the folder, or `config.support` cannot be used.
    """

    def __init__(self, config: AnnotateConfig) -> None:
        self.config = config
        self.hub = EventHub()
        self.start = secrets.token_hex(4)
        self.cache = TileCache()
        self.out = Path(config.out)
        self.readers = ThreadPoolExecutor(TILE_THREADS, "tiles")
        self.writer = ThreadPoolExecutor(1, "labels")
        self.sources: list[OpenSource] = []
        self.on_labels: list[Callable[[int], None]] = []
        self._told: dict[str, tuple[int, str]] = {}
        self._problems: dict[str, str] = {}
        self.folders: LabelledFolders
        self._opened: dict[float, list[OpenSource]] = {1: self.sources}
        try:
            for number, uri in enumerate(config.sources):
                self.sources.append(self._open(number, uri))
            self._opened[1] = list(self.sources)
            self._told = {one.id: one.labels.state_now() for one in self.sources}
            self.ladder = self._ladder()
            self.choice = read_choice(self.out, self.ladder)
            self._resume()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Wait for what is being written, and let go of all files."""
        self.writer.shutdown(wait=True)
        self.readers.shutdown(wait=True, cancel_futures=True)
        for one in self._opened[1]:
            one.labels.close()
        for one in (one for opened in self._opened.values() for one in opened):
            one.source.close()

    def at(self, factor: float) -> list[OpenSource]:
        """The sources at a resolution so many times coarser than at the start; they are opened here, if need be.

        Raises
        ------
        SourceError
            One of them cannot be opened.
        """
        if factor not in self._opened:
            opened: list[OpenSource] = []
            try:
                for one in self._opened[1]:
                    opened.append(self._reopened(one, factor))
            except BaseException:
                for one in opened:
                    one.source.close()
                raise
            self._opened[factor] = opened
        return self._opened[factor]

    def take(self, factor: float, choice: Choice) -> None:
        """Work on the sources at another resolution from now on, which `at` has opened. Called between requests."""
        self.sources[:] = self._opened[factor]
        self.choice = choice

    def source(self, own: Any) -> OpenSource:
        """The source with an id.

        Raises
        ------
        LabelError
            There is none.
        """
        for one in self.sources:
            if one.id == own:
                return one
        raise LabelError(f"there is no source {str(own)[:40]!r}; reload the page")

    @property
    def classes(self) -> dict[str, Colour]:
        """Colours of the classes of all sources, and of labelled pictures."""
        found: dict[str, Colour] = {}
        for one in self.sources:
            found = {**one.labels.classes, **found}
        return found | self.folders.colours(found)

    def described(self) -> dict[str, Any]:
        """What the page must know first."""
        return {
            "version": __version__,
            "start": self.start,
            "patch": PATCH_SIZE * self.sources[0].scale,
            "out": str(self.out),
            "classes": shown_classes(self.classes),
            "sources": [one.described() for one in self.sources],
            "folders": self.folders.described(),
            "notes": self.folders.notes,
        }

    def tell(self, one: OpenSource) -> None:
        """Tell all pages that labels have changed, and learn from them again; nothing where that was done."""
        revision, digest = now = one.labels.state_now()
        before, self._told[one.id] = self._told[one.id], now
        if revision != before[0]:
            self.hub.publish({"type": "labels", "source": one.id, "revision": revision})
        problem = one.labels.problem
        if problem and problem != self._problems.get(one.id):
            self.hub.publish({"type": "labels", "source": one.id, "error": problem})
        self._problems[one.id] = problem
        if digest != before[1]:  # else it is the area alone, from which nothing is learned
            self.learn_again(int(one.id))

    def learn_again(self, source: int) -> None:
        """Call all listeners: what is learned from has changed."""
        for listener in self.on_labels:
            listener(source)

    def _ladder(self) -> Ladder:
        """The resolutions that the page can have; with labelled pictures, that of the pictures."""
        infos, config = [one.info for one in self.sources], self.config
        is_slide = infos[0].kind == "slide"
        crs = pyproj.CRS.from_user_input(infos[0].crs) if infos[0].crs else None
        unit = "µm" if is_slide else _unit(crs) or ""
        given = config.mpp if is_slide else config.raster.res
        found = Ladder.of(infos, "degrees" if unit == "degree" else unit, given is not None)
        return replace(found, doublings=0, halvings=0) if self.folders.folders else found

    def _resume(self) -> None:
        """Open the sources at the resolution that was chosen before."""
        try:
            self.at(self.choice.factor)
        except SourceError as error:
            log.warning("%s", error)
            self.choice = Choice()
        self.take(self.choice.factor, self.choice)

    def _reopened(self, one: OpenSource, factor: float) -> OpenSource:
        """A source at a resolution so many times coarser than at the start."""
        config, info = self.config, one.info
        side = (side_of(info) or 0.0) * factor
        if info.kind == "raster":
            source = open_source(one.uri, raster=replace(config.raster, res=side))
            scale = source.info.transform.a / info.transform.a if info.transform.a else factor
        else:
            source = shown_like(_opened(one.uri, config, side), info.ranges)
            scale = work_scale(source.info)
        return replace(one, source=source, scale=scale)

    def _area_of(self, number: int, file: LabelFile) -> Callable[[], list[Label]] | None:
        """Gives the area that a source starts with."""
        config = self.config
        if not config.areas:
            return None
        return lambda: file.read_area(config.areas[number], config.area_classes, config.area_excluded)

    def _open(self, number: int, uri: str) -> OpenSource:
        config = self.config
        several = len(config.sources) > 1
        first = self.sources[0].source.info if self.sources else None
        source = _opened(uri, config, first.mpp if first is not None else config.mpp)
        info = source.info
        if config.object_radius_um is not None and info.kind == "raster":
            source.close()
            raise ConfigError(
                f"--object-radius-um {config.object_radius_um:g}: {uri} is a raster, of which runs take no radius; "
                "leave the option out"
            )
        if first is not None and info.kind != first.kind:
            source.close()
            raise SourceError(
                f"{uri}: is a {info.kind}, {config.sources[0]} a {first.kind}; annotate them separately"
            )
        if first is not None and info.channels != first.channels:
            source.close()
            raise SourceError(
                f"{uri}: has other channels than {config.sources[0]}; give --channels that both have"
            )
        if first is None:
            shown = source
            try:
                self.folders = LabelledFolders(
                    self.out, config.folders, lambda uri: read_folder(uri, shown, config)
                )
            except BaseException:
                source.close()
                raise
        source = shown_like(source, self.folders.ranges if first is None else first.ranges)
        info = source.info
        assert isinstance(source, ZoomableSource)
        folder = self.out / config.names[number] if several else self.out
        options = SupportOptions((), config.cell_part, config.geojson_origin)
        file = LabelFile(info, options)
        try:
            labels = Labels(
                folder, file, config.support if number == 0 else None, self._area_of(number, file)
            )
        except BaseException:
            source.close()
            raise
        if first is None:
            self.folders.keep()
        grid = TileGrid(*image_size(info))
        tiles = ImageTiles(source, grid, self.cache)
        return OpenSource(
            str(number),
            config.names[number],
            uri,
            source,
            info,
            tiles,
            labels,
            folder,
            file.to_file,
            work_scale(info),
            file.image,
        )


def _opened(uri: str, config: AnnotateConfig, mpp: float | None) -> Source:
    if config.kind == "raster":
        return open_source(uri, raster=config.raster)
    slide = config.slide
    if slide.stack.time is None and stack_size(uri, slide).n_times > 1:
        slide = replace(slide, stack=replace(slide.stack, time=1))
    if config.kind == "slide":
        return open_source(uri, mpp=mpp, slide_mpp=config.slide_mpp, slide=slide)
    return open_any(uri, mpp=mpp, slide_mpp=config.slide_mpp, slide=slide, raster=config.raster)


def _time_note(info: SourceInfo) -> list[str]:
    """Which time point of a series is shown."""
    if info.time is None:
        return []
    return [
        f"{info.uri}: shows time point {info.time.number} of {info.time.total}; --time N opens another one."
    ]


def shown_classes(classes: dict[str, Colour]) -> list[dict[str, str]]:
    """Classes for the page: names, and colours as ``#rrggbb``."""
    return [{"name": name, "colour": f"#{bytes(colour).hex()}"} for name, colour in classes.items()]


def shown_changes(changes: Changes, classes: dict[str, Colour]) -> dict[str, Any]:
    """The answer to operations."""
    return {
        "revision": changes.revision,
        "changed": [one.feature() for one in changes.changed],
        "removed": list(changes.removed),
        "undo": changes.undo,
        "redo": changes.redo,
        "classes": shown_classes(classes),
        "area": shown_area(changes.area),
    }


def shown_area(area: BaseGeometry | None) -> dict[str, Any] | None:
    """The area that a run segments, for the page: GeoJSON in image px; None: everything."""
    return None if area is None else shapely.geometry.mapping(area)


def _unit(crs: pyproj.CRS | None) -> str | None:
    name = crs.axis_info[0].unit_name if crs is not None and crs.axis_info else ""
    return {"metre": "m", "meter": "m", "degree": "degree"}.get(name)
