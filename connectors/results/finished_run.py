"""A finished run as what is handed on to other programs: its classes, its source, and which instances are wanted."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.results.reader import Result, open_result
from fewscope.connectors.results.run_folder import WorkDir
from fewscope.connectors.results.store import ResultStore
from fewscope.connectors.source import SourceInfo
from fewscope.connectors.storage.filesystem import list_names, open_filesystem
from fewscope.errors import ConfigError, ResultNotFound, RunMismatch

TABLE = "instances.parquet"
Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in the coordinates ``x``, ``y`` of the table."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the working grid of a run lies in its source.

    Attributes
    ----------
    transform
        From pixel corners (col, row) of the working grid to world (x, y).
    native_height, native_width
        Size of the source at full resolution, px.
    scan_origin
        Level-0 (x, y) of the corner of the scanned area; (0, 0) if the file states none.
    from_glass_nm
        As `SourceInfo.from_glass_nm`; None also for runs of a version that did not keep it.
    """

    transform: Affine
    native_height: int
    native_width: int
    scan_origin: tuple[int, int]
    from_glass_nm: Affine | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Place:
        """From what `place_record` has made."""
        height, width = record["native_size"]
        x, y = record["scan_origin"]
        glass = record.get("from_glass_nm")
        return cls(Affine(*record["transform"]), height, width, (x, y), Affine(*glass) if glass else None)


def place_record(info: SourceInfo) -> dict[str, Any]:
    """The `Place` of a source as JSON values, kept with the result: its source may be elsewhere later."""
    return {
        "transform": list(info.transform)[:6],
        "native_size": [info.native_height, info.native_width],
        "scan_origin": list(info.scan_origin),
        **({"from_glass_nm": list(info.from_glass_nm)[:6]} if info.from_glass_nm else {}),
    }


@dataclass(frozen=True, slots=True, eq=False)
class AnalysedPart:
    """What of a slide was analysed.

    Attributes
    ----------
    foreground
        (h, w) bool on a coarse grid over all of the slide.
    area
        In px of the working grid, the polygons outside of which nothing was analysed; None: all of it was.
    """

    foreground: NDArray[np.bool_]
    area: BaseGeometry | None = None


def foreground_record(foreground: NDArray[np.bool_], area: BaseGeometry | None = None) -> dict[str, str]:
    """An `AnalysedPart` as JSON values: the foreground as a PNG of 1 bit, the area as WKB, both in base64.

    >>> mask = np.arange(12).reshape(3, 4) % 3 == 0
    >>> read = analysed_part(foreground_record(mask, shapely.box(0, 0, 3, 2)))
    >>> bool((read.foreground == mask).all()), read.area.bounds
    (True, (0.0, 0.0, 3.0, 2.0))
    """
    buffer = io.BytesIO()
    Image.fromarray(foreground).save(buffer, "PNG")
    record = {"png": buffer.getvalue()} | ({} if area is None else {"area": shapely.to_wkb(area)})
    return {name: base64.b64encode(value).decode("ascii") for name, value in record.items()}


def analysed_part(record: Mapping[str, str]) -> AnalysedPart:
    """What `foreground_record` has made JSON values of."""
    area = shapely.from_wkb(base64.b64decode(record["area"])) if "area" in record else None
    with Image.open(io.BytesIO(base64.b64decode(record["png"])), formats=("PNG",)) as picture:
        return AnalysedPart(np.asarray(picture.convert("1"), bool), area)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which instances are wanted.

    Attributes
    ----------
    class_names
        Of these classes; empty: of all.
    min_probability
        With at least this mean probability, 0 to 1.
    box
        With their centroid in this box, its left and upper edge included; None: anywhere.

    Raises
    ------
    ConfigError
        The probability is none, or the box is empty.
    """

    class_names: tuple[str, ...] = ()
    min_probability: float = 0.0
    box: Box | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.min_probability <= 1:
            raise ConfigError(f"--min-probability {self.min_probability:g} is not a probability; give 0 to 1")
        if self.box is not None:
            left, top, right, bottom = self.box
            if not (all(map(math.isfinite, self.box)) and left < right and top < bottom):
                raise ConfigError(
                    f"--box {left:g} {top:g} {right:g} {bottom:g} is empty; give X0 Y0 X1 Y1, with X0 below X1 and Y0 "
                    "below Y1"
                )


class FinishedRun:
    """A finished run, whose files are as it has left them.

    Parameters
    ----------
    out
        Its output folder, a local path or an fsspec URL.
    files
        Files and folders of it that are needed besides the table, which are checked.

    Raises
    ------
    ResultNotFound
        There is no run, or it has not finished.
    RunMismatch
        A file of it is missing or damaged.
    """

    def __init__(self, out: str, files: tuple[str, ...] = ()) -> None:
        self.out = out
        _check_is_run(out)
        WorkDir(out).check_result(("report.json", "result.zarr/zarr.json", TABLE, *files))
        self.result: Result = open_result(out)
        self.report: dict[str, Any] = self.result.report
        self.attributes: dict[str, Any] = ResultStore(out).attributes
        self.class_names: tuple[str, ...] = tuple(one["name"] for one in self.result.classes)

    @property
    def manifest(self) -> dict[str, Any]:
        """What determined the run."""
        manifest: dict[str, Any] = self.attributes["manifest"]
        return manifest

    @property
    def is_raster(self) -> bool:
        """Whether its source is a raster."""
        return "transform" in self.manifest

    @property
    def source(self) -> str:
        """Path or address of the source, as it was given."""
        return str(self.report["run"]["source"]["file"])

    @property
    def time_point(self) -> int | None:
        """Which time point of its source it is of, from 1; None where that is no series."""
        number: int | None = self.report.get("time_point")
        return number

    @property
    def place(self) -> Place | None:
        """Where its grid lies; None for runs of a version that did not keep it."""
        record = self.attributes.get("source")
        return Place.of(record) if record else None

    def source_info(self, place: Place) -> SourceInfo:
        """What a file of annotations needs to know of the slide of the run, without the slide."""
        spec, mpp = self.result.spec, self.result.mpp
        return SourceInfo(
            uri=self.source,
            kind="slide",
            height=spec.height,
            width=spec.width,
            transform=place.transform,
            mpp=mpp,
            mpp_source="the run",
            native_mpp=mpp / place.transform.a if mpp else None,
            native_height=place.native_height,
            native_width=place.native_width,
            vendor="",
            crs=None,
            background=(255, 255, 255),
            fingerprint=self.manifest["source"],
            scan_origin=place.scan_origin,
            from_glass_nm=place.from_glass_nm,
        )

    @property
    def analysed(self) -> AnalysedPart | None:
        """What of a slide was analysed; None for rasters, whose ``mask.tif`` says so, and for runs of a version that
        did not keep it."""
        record = self.attributes.get("foreground")
        return analysed_part(record) if record else None

    def outlines_origin(self, place: Place) -> tuple[int, int]:
        """Where the coordinates of its GeoJSON start, in those of the table."""
        return place.scan_origin if self.manifest.get("geojson_origin") == "scan" else (0, 0)

    def table(self) -> Iterator[pa.RecordBatch]:
        """The table of instances, batch by batch, in the order of the ids."""
        fs, root = open_filesystem(self.out)
        with fs.open(f"{root}/{TABLE}", "rb") as file, pq.ParquetFile(file) as parquet:
            yield from parquet.iter_batches()

    def schema(self) -> pa.Schema:
        """The columns of the table."""
        return self.result.table.schema

    def n_instances(self) -> int:
        """Rows of the table, which are the ids 1..N."""
        return int(self.result.table.count_rows())

    def wanted(self, selection: Selection) -> NDArray[np.bool_]:
        """For each id 0..N whether it is wanted, bool (N + 1,).

        Raises
        ------
        ConfigError
            A class is not one of the run.
        """
        for name in selection.class_names:
            if name not in self.class_names:
                raise ConfigError(
                    f"--class {name}: {self.out} has no such class; give {' or '.join(self.class_names)}"
                )
        wanted = np.zeros(self.n_instances() + 1, bool)
        for batch in self.table():
            wanted[batch["id"].to_numpy()] = _rows_wanted(batch, selection)
        return wanted

    def centroids(self, wanted: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Ids (n,) and x, y (n, 2) of the wanted instances."""
        ids, points = [np.zeros(0, np.int64)], [np.zeros((0, 2))]
        for batch in self.table():
            of_batch = batch["id"].to_numpy().astype(np.int64)
            here = wanted[of_batch]
            ids.append(of_batch[here])
            points.append(np.column_stack([batch["x"].to_numpy(), batch["y"].to_numpy()])[here])
        return np.concatenate(ids), np.concatenate(points)


def _rows_wanted(batch: pa.RecordBatch, selection: Selection) -> NDArray[np.bool_]:
    here = batch["mean_probability"].to_numpy() >= selection.min_probability
    if selection.class_names and "class" in batch.schema.names:
        names = pa.array(selection.class_names, pa.string())
        here &= pc.is_in(batch["class"].cast(pa.string()), names).to_numpy(zero_copy_only=False)
    if selection.box is not None:
        left, top, right, bottom = selection.box
        x, y = batch["x"].to_numpy(), batch["y"].to_numpy()
        here &= (x >= left) & (x < right) & (y >= top) & (y < bottom)
    return here


def _check_is_run(out: str) -> None:
    """ResultNotFound, with what to give instead, for files of a run and for folders of masks of photographs."""
    fs, root = open_filesystem(out)
    names = list_names(fs, root)
    if ".fewscope" in names and ("report.json" in names or "result.zarr" in names):
        return
    if "photographs.json" in names:
        raise ResultNotFound(
            f"{out} holds the masks of photographs, which other programs open as they are; give the run of a slide or "
            "a raster"
        )
    if not fs.exists(root):
        raise ResultNotFound(f"{out}: no such folder; check the path")
    if re.search(r"\.(zarr|json|html|parquet|gz)/?$", out):
        raise ResultNotFound(f"{out} is a file of a run; give the folder of the run, {Path(out).parent}")
    # what is left is for `WorkDir.check_result`


def runs_in(out: str) -> list[str]:
    """Names of the folders in ``out`` that are runs, if it is that of several sources; empty if it is a run itself."""
    fs, root = open_filesystem(out)
    names = list_names(fs, root)
    if ".fewscope" in names:
        return []
    return sorted(name for name in names if fs.exists(f"{root}/{name}/report.json"))


def check_out(run: FinishedRun, out: str, overwrite: bool) -> None:
    """Check that a file may be written.

    Raises
    ------
    ConfigError
        It would lie in the folder of the run.
    RunMismatch
        It is there already, and is not to be overwritten.
    """
    fs, path = open_filesystem(out)
    _, root = open_filesystem(run.out)
    if path == root or path.startswith(f"{root}/"):
        raise ConfigError(f"--out {out} lies in the run, whose files stay as they are; give another place")
    if fs.isdir(path):
        raise ConfigError(f"--out {out} is a folder; give the name of a file")
    if fs.exists(path) and not overwrite:
        raise RunMismatch(f"{out} is there already; use --overwrite to replace it, or another --out")
