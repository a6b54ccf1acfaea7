"""A finished run, opened lazily."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pyarrow.dataset
from affine import Affine

from fewscope.connectors.results.store import Name, ResultStore
from fewscope.connectors.results.store_layout import StoreSpec
from fewscope.connectors.source import measured_title
from fewscope.connectors.storage.filesystem import open_filesystem
from fewscope.errors import MissingPackageError, ResultNotFound

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A finished result; data are read only when they are used.

    Attributes
    ----------
    out : str
        Output folder.
    spec : StoreSpec
        Size, pixel size, storage.
    probability, semantic, instances : tuple of dask.array.Array
        (height, width) uint8 (0..255 is 0..1), uint8, uint32: one per pyramid level, full resolution first.
    class_probabilities : tuple of tuple of dask.array.Array
        For each class its probability, in the same form; empty unless the run stored them.
    """

    out: str
    spec: StoreSpec
    probability: tuple[da.Array, ...]
    semantic: tuple[da.Array, ...]
    instances: tuple[da.Array, ...]
    class_probabilities: tuple[tuple[da.Array, ...], ...] = ()

    @property
    def mask(self) -> tuple[da.Array, ...]:
        """Class map, uint8 (height, width) per pyramid level: 0 background, 1, 2, ... the `classes`."""
        return self.semantic

    @property
    def labels(self) -> tuple[da.Array, ...]:
        """Instance ids, uint32 (height, width) per pyramid level: 0 background, else ``id`` of `table`."""
        return self.instances

    @property
    def report(self) -> dict[str, Any]:
        """Content of ``report.json``.

        Raises
        ------
        ResultNotFound
            The run has not finished.
        """
        fs, root = open_filesystem(self.out)
        try:
            report: dict[str, Any] = json.loads(fs.cat_file(f"{root}/report.json"))
        except FileNotFoundError:
            raise ResultNotFound(
                f"{self.out} holds no report.json: its run has not finished; resume it"
            ) from None
        return report

    @property
    def report_path(self) -> str:
        """Path or URL of ``report.html``."""
        return f"{self.out.rstrip('/')}/report.html"

    @property
    def count(self) -> int:
        """Number of instances that were found; `count_estimate` is the estimated true number."""
        return int(self.report["count"])

    @property
    def count_estimate(self) -> int | None:
        """Estimated true number: the count, corrected by the counting errors on held-out patches.

        None if the support set allows none, or with several classes (`classes`).
        """
        estimate: int | None = self.report.get("count_estimate")
        return estimate

    @property
    def count_interval(self) -> tuple[int, int] | None:
        """95 % interval of `count_estimate`; None likewise."""
        return _interval(self.report["count_interval"])

    @property
    def quality(self) -> dict[str, Any] | None:
        """Estimated quality of the mask; None if the support set allows none.

        ``iou_mean`` is the estimated IoU on this source and ``iou_interval`` its 95 % interval, both None where hardly
        any of the class was found on a sample of tiles; ``iou_held_out`` is the mean over the held-out patches.
        """
        quality: dict[str, Any] | None = self.report.get("quality")
        return quality

    @property
    def classes(self) -> tuple[dict[str, Any], ...]:
        """For each class at least ``name``, ``value`` in `mask`, ``count``, ``count_estimate``, ``count_interval``,
        ``quality``."""
        report = self.report
        if "classes" in report:
            return tuple(report["classes"])
        own = {name: report.get(name) for name in ("count", "count_estimate", "count_interval", "quality")}
        return ({"name": report["class_name"], "value": 1, **own},)

    @property
    def table(self) -> pyarrow.dataset.Dataset:
        """``instances.parquet``, one row per instance, as a pyarrow dataset (filters without loading all)."""
        fs, root = open_filesystem(self.out)
        return pyarrow.dataset.dataset(f"{root}/instances.parquet", filesystem=fs, format="parquet")

    def to_pandas(self, columns: list[str] | None = None) -> pandas.DataFrame:
        """One row per instance, with all columns or some of them.

        Raises
        ------
        MissingPackageError
            pandas is not installed.
        """
        try:
            import pandas  # noqa: F401
        except ImportError:
            raise MissingPackageError(
                "to_pandas needs pandas: pip install pandas; or use Result.table"
            ) from None
        return self.table.to_table(columns=columns).to_pandas()

    @property
    def transform(self) -> Affine:
        """From pixel corner (col, row) of level 0 to x, y: rasters in units of `crs`, slides in micrometres."""
        of_raster = self._manifest.get("transform")
        return Affine(*of_raster) if of_raster else Affine.scale(self.spec.scale[1], self.spec.scale[0])

    @property
    def crs(self) -> str | None:
        """Coordinate reference system of a raster as WKT; None for slides, and where the raster states none."""
        wkt: str | None = ResultStore(self.out).georeference.get("proj:wkt2")
        return wkt

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel of a slide; None for rasters, and where it is not known."""
        mpp: float | None = self._manifest.get("mpp")
        return mpp

    @property
    def _manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = ResultStore(self.out).attributes.get("manifest", {})
        return manifest

    def napari_layers(self) -> list[tuple[list[da.Array], dict[str, Any], str]]:
        """Layer data tuples of napari, as multiscale dask arrays: probability, mask, labels; napari is not needed."""
        scale = self.spec.scale
        shown: list[tuple[tuple[da.Array, ...], dict[str, Any], str]] = [
            (
                self.probability,
                {"name": "probability", "contrast_limits": (0, 255), "visible": False},
                "image",
            ),
            (self.mask, {"name": "mask", "visible": False}, "labels"),
            (self.labels, {"name": "instances"}, "labels"),
        ]
        return [
            (list(levels), {**how, "scale": scale, "multiscale": True}, kind) for levels, how, kind in shown
        ]

    def to_napari(self, viewer: Any = None) -> Any:
        """Add `napari_layers` to a ``napari.Viewer``, a new one if none is given; returns it.

        Raises
        ------
        MissingPackageError
            No viewer is given, and napari is not installed.
        """
        if viewer is None:
            try:
                import napari
            except ImportError:
                raise MissingPackageError('to_napari needs napari: pip install "napari[all]"') from None
            viewer = napari.Viewer()
        for levels, how, kind in self.napari_layers():
            getattr(viewer, f"add_{kind}")(levels, **how)
        return viewer

    def to_anndata(self) -> Any:
        """Instances as an ``anndata.AnnData``: X (n, features) float32, obs the class, obsm["spatial"] x, y.

        Raises
        ------
        MissingPackageError
            anndata or pandas is not installed.
        """
        try:
            import anndata
        except ImportError:
            raise MissingPackageError("to_anndata needs anndata: pip install anndata") from None
        table = self.to_pandas()
        table.index = table["id"].astype(str)
        features = [*FEATURES, *(name for name in table if measured_title(name))]
        described = [name for name in features if name in table and table[name].notna().any()]
        others = table.drop(columns=[*described, "x", "y"])
        return anndata.AnnData(
            X=table[described].to_numpy(np.float32),
            obs=others,
            var={"feature": described},
            obsm={"spatial": table[["x", "y"]].to_numpy(np.float64)},
        )

    def _repr_html_(self) -> str:
        """A card for notebooks: counts with intervals, size, where the report is."""
        cells = "".join(
            f"<tr><td>{html.escape(one['name'])}</td><td style='text-align:right'><b>{one['count']:,}</b></td>"
            f"<td>found</td><td>{_in_words(one)}</td></tr>"
            for one in self.classes
        )
        size = f"{self.spec.width:,} x {self.spec.height:,} px"
        at = f" at {self.mpp:.4g} um per px" if self.mpp else ""
        return (
            "<div style='display:inline-block;border:1px solid #bbb;border-radius:6px;padding:8px 12px'>"
            f"<table>{cells}</table><div>{size}{at}</div><code>{html.escape(self.report_path)}</code></div>"
        )


FEATURES = ("area_px", "area_um2", "eccentricity", "equivalent_diameter_um", "mean_probability")
"""Columns of `Result.table` that describe an object, not where it lies; so do those of measured channels."""


def _interval(ends: list[int] | None) -> tuple[int, int] | None:
    return (ends[0], ends[1]) if ends else None


def _in_words(counted: dict[str, Any]) -> str:
    """The estimated true number of a class with its interval; empty without."""
    if not counted.get("count_interval"):
        return ""
    low, high = counted["count_interval"]
    estimate = counted.get("count_estimate")
    number = "" if estimate is None else f" {estimate:,}"
    return f"estimated true number{number} (95 % interval {low:,} to {high:,})"


def open_result(out: str) -> Result:
    """Open the output folder of a run, a local path or an fsspec URL.

    Raises
    ------
    ResultNotFound
        There is no result; also a ``FileNotFoundError``.

    Examples
    --------
    >>> _ = ResultStore("memory://docs/result").create(StoreSpec(height=100, width=70, shard=64, chunk=32))
    >>> result = open_result("memory://docs/result")
    >>> result.instances[0]
    dask.array<from-zarr, shape=(100, 70), dtype=uint32, chunksize=(64, 64), chunktype=numpy.ndarray>
    >>> int((result.semantic[0] > 0).sum().compute())
    0
    """
    store = ResultStore(out)
    spec = store.spec

    def levels(name: Name) -> tuple[da.Array, ...]:
        arrays = [store.array(name, level) for level in range(spec.levels)]
        return tuple(da.from_zarr(array, chunks=array.shards, inline_array=True) for array in arrays)

    by_class = tuple(levels(name) for name in spec.class_arrays)
    return Result(out, spec, levels("probability"), levels("semantic"), levels("instances"), by_class)
