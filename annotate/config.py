"""Configuration of ``fewscope annotate``. Light to import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.slide_options import SlideOptions
from fewscope.connectors.support_options import CellPart, GeoJsonOrigin
from fewscope.errors import ConfigError
from fewscope.pipeline.config import check_radius

SourceKind = Literal["auto", "slide", "raster"]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MIN_TOKEN = 16
"""Characters of a token that a person chooses: an attacker in the network can try many."""


@dataclass(frozen=True, slots=True)
class AnnotateConfig:
    """What is annotated, where it is kept, and who may reach the page.

    Attributes
    ----------
    sources : tuple of str
        Slides and rasters: paths or fsspec URLs.
    names : tuple of str
        Name of each source's folder in `out`, all different.
    out : str
        Local folder for labels, rounds and runs.
    support : str or None
        Annotations of the first source to start from.
    folders : tuple of str
        Labelled pictures to learn from beside what is drawn; empty: those of the last start in `out`.
    areas : tuple of str
        For each source the file of the area to start from; empty: none.
    area_classes, area_excluded : tuple of str
        Which polygons of it outline the area of a slide, as in `connectors.support.area_files.AreaOptions`.
    kind : {"auto", "slide", "raster"}
        What the sources are; "auto": what each file is.
    mpp, slide_mpp : float or None
        um per px of slides, as in `pipeline.config.SegmentConfig`.
    slide : SlideOptions
        Which channels of which image of a multi-channel TIFF or OME-Zarr.
    raster : RasterOptions
        How rasters are read.
    cell_part, geojson_origin
        How annotations are read, as in `connectors.support_options.SupportOptions`.
    model, weights : str, str or None
        The network, and other weights than the shipped ones.
    encoder : str or None
        A frozen encoder, as in `pipeline.config.SegmentConfig`; None or "": none.
    object_radius_um : float or None
        Typical radius of objects that are marked by points, as in `pipeline.config.SegmentConfig`; slides alone.
    fine : bool
        The preview sees twice as fine, and takes twice as long.
    slide_arguments, raster_arguments : tuple of str
        Options of this command line that the command of a run gets too.
    host, port : str, int
        Where the server listens; port 0: any that is free.
    open_browser : bool
        Open the page when the server is ready.
    token : str or None
        Secret of the address, for hosts other than loopback; None: a random one.
    name_folders : callable or None
        How the command of a run names the folders of several sources; None: as `names`.

    Raises
    ------
    ConfigError
        A value is out of its range, or others could reach the page without a token of your own.
    """

    sources: tuple[str, ...]
    names: tuple[str, ...]
    out: str
    support: str | None = None
    folders: tuple[str, ...] = ()
    areas: tuple[str, ...] = ()
    area_classes: tuple[str, ...] = ()
    area_excluded: tuple[str, ...] = ()
    kind: SourceKind = "auto"
    mpp: float | None = None
    slide_mpp: float | None = None
    slide: SlideOptions = SlideOptions()  # noqa: RUF009  # frozen
    raster: RasterOptions = RasterOptions()  # noqa: RUF009  # frozen
    cell_part: CellPart = "auto"
    geojson_origin: GeoJsonOrigin = "scan"
    model: str = "compact"
    weights: str | None = None
    encoder: str | None = None
    object_radius_um: float | None = None
    fine: bool = False
    slide_arguments: tuple[str, ...] = ()
    raster_arguments: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 0
    open_browser: bool = True
    token: str | None = None
    name_folders: Callable[[Sequence[str]], list[str]] | None = None

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("no slide or raster to annotate; give one")
        check_radius(self.object_radius_um)
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"--port {self.port} is not in 0..65535; 0 takes any that is free")
        if "://" in self.out:
            raise ConfigError(f"--out {self.out}: labels are kept in a local folder; give a path")
        if self.host not in LOOPBACK and self.token is None:
            raise ConfigError(
                f"--host {self.host} lets others in the network reach the page; leave it out and run "
                f"{ssh_line(self.port)} on your own machine, or give a secret with --token-file"
            )
        if self.token is not None and (len(self.token) < MIN_TOKEN or not self.token.isascii()):
            raise ConfigError(
                f"the token of --token-file has {len(self.token)} characters; give at least {MIN_TOKEN}, letters and "
                "digits"
            )


def ssh_line(port: int) -> str:
    """The command that brings a port of this machine to another one.

    >>> ssh_line(8000)
    '`ssh -L 8000:127.0.0.1:8000 USER@THIS_MACHINE`'
    """
    shown = port or "PORT"
    return f"`ssh -L {shown}:127.0.0.1:{shown} USER@THIS_MACHINE`"
