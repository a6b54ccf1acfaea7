"""One raster file: its GDAL path, metadata and fingerprint."""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import urlsplit

import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.vrt import WarpedVRT

from fewscope.connectors.storage.download import local_copy, remote_version
from fewscope.connectors.storage.fingerprint import add_files, files_below
from fewscope.connectors.storage.gdal import gdal
from fewscope.errors import SourceError

VSI = {
    "s3": "/vsis3/",
    "gs": "/vsigs/",
    "az": "/vsiaz/",
    "http": "/vsicurl/http://",
    "https": "/vsicurl/https://",
}
"""GDAL's virtual file systems, which read ranges of remote files, by scheme."""

SAMPLE_PX = 32  # side of the nine samples in the fingerprint of a remote file

Georeference = Literal["transform", "gcps", "rpcs", "none"]
NodataOrigin = Literal["file", "implicit", "user"]
METHODS = {"gcps": "GCP_POLYNOMIAL", "rpcs": "RPC"}  # of GDAL's transformer

# Once per process, as warning filters are shared by all threads. The report has a note instead.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)


@dataclass(frozen=True, slots=True)
class RasterFile:
    """Metadata of a raster, known without reading pixels. Picklable.

    A file with control points or RPCs instead of a transform is described as `open_raster` opens it: resampled to the
    upright grid that GDAL suggests.

    Attributes
    ----------
    uri, path
        Its address as given, and as GDAL opens it.
    transform, crs
        From pixel corners (col, row) to the coordinates of ``crs``, which is None if the file states none.
    georeference
        How the file is georeferenced.
    colours
        Colour interpretation of each band.
    names
        Description of each band in lower case; empty without one.
    alpha
        Alpha band, 1-based; None without.
    nodata
        Nodata value of each band; empty without.
    nodata_origin
        Who declares nodata: the file, no one (implicit, see `connectors.rasters.nodata`), or the user.
    n_points
        Number of control points.
    overviews
        (height, width) of the file's overviews, finest first.
    block
        (rows, cols) of a block as the file stores it.
    """

    uri: str
    path: str
    driver: str
    height: int
    width: int
    dtypes: tuple[str, ...]
    colours: tuple[ColorInterp, ...]
    names: tuple[str, ...]
    alpha: int | None
    nodata: tuple[float | None, ...]
    crs: CRS | None
    transform: Affine
    georeference: Georeference
    n_points: int
    overviews: tuple[tuple[int, int], ...]
    block: tuple[int, int]
    nodata_origin: NodataOrigin = "file"

    def with_nodata(self, value: float, origin: NodataOrigin) -> RasterFile:
        """A copy with another nodata value for all bands."""
        return replace(self, nodata=(value,) * len(self.dtypes), nodata_origin=origin)

    @property
    def nodata_override(self) -> float | None:
        """The nodata value to pass to GDAL, if it is not the file's."""
        return None if self.nodata_origin == "file" else self.nodata[0]

    @property
    def is_upright(self) -> bool:
        """Whether the transform has no rotation and no shear."""
        return bool(self.transform.b == self.transform.d == 0)


def gdal_path(uri: str) -> str:
    """The path by which GDAL opens an address; a file that only fsspec reads is copied to the local cache.

    Raises
    ------
    SourceError
        It cannot be copied.
    """
    scheme = urlsplit(uri).scheme if "://" in uri else ""
    if scheme in VSI:
        return VSI[scheme] + uri.split("://", 1)[1]
    if scheme == "file":
        return uri.removeprefix("file://")
    if not scheme or scheme.split("+")[0] in ("zip", "tar", "gzip"):  # rasterio's own
        return uri
    return local_copy(uri)


def inspect(uri: str) -> RasterFile:
    """Open a raster and read its metadata.

    Raises
    ------
    SourceError
        It is missing, empty, damaged, not a raster, or a container of several.
    """
    path = gdal_path(uri)
    _check_local(path, uri)
    with gdal():
        try:
            with rasterio.open(path) as dataset:
                return _describe(dataset, uri, path)
        except RasterioError as error:
            raise SourceError(f"{uri}: {_reason(error, path)}") from error


def open_raster(
    path: str,
    georeference: Georeference,
    crs: CRS | None,
    overview: int | None = None,
    nodata: float | None = None,
) -> rasterio.DatasetReader:
    """Open a file, or one of its overviews, on a grid with a transform. Close it with `close_raster`.

    ``nodata`` replaces the file's nodata value if the file is resampled here.
    """
    if georeference not in METHODS:
        return rasterio.open(path) if overview is None else rasterio.open(path, overview_level=overview)
    dataset = rasterio.open(path)
    try:
        return WarpedVRT(
            dataset,
            src_crs=crs,
            resampling=Resampling.bilinear,
            src_nodata=dataset.nodata if nodata is None else nodata,
            add_alpha=ColorInterp.alpha not in dataset.colorinterp,
            SRC_METHOD=METHODS[georeference],
            UNIFIED_SRC_NODATA="YES",
        )
    except BaseException:
        dataset.close()
        raise


def close_raster(dataset: rasterio.DatasetReader) -> None:
    """Close a dataset and those that it is a view of."""
    source = dataset.src_dataset if isinstance(dataset, WarpedVRT) else None
    dataset.close()
    if source is not None:
        close_raster(source)


def _describe(dataset: rasterio.DatasetReader, uri: str, path: str) -> RasterFile:
    if not dataset.count:
        parts = dataset.subdatasets
        if parts:
            raise SourceError(
                f"{uri}: is a container of {len(parts)} rasters; name the one to read, for example {parts[0]!r}"
            )
        raise SourceError(f"{uri}: has no band; it is not an image")
    georeference: Georeference = "transform"
    crs, n_points = dataset.crs or None, 0
    if dataset.transform == Affine.identity():
        points, points_crs = dataset.gcps
        if points and points_crs:
            georeference, crs, n_points = "gcps", points_crs, len(points)
        elif dataset.rpcs is not None:
            georeference, crs = (
                "rpcs",
                CRS.from_epsg(4326),
            )  # RPCs are in longitude and latitude by definition
        else:
            georeference = "none"
    shown = open_raster(path, georeference, crs)
    try:
        overviews = []
        for index in range(len(dataset.overviews(1)) if shown.transform == dataset.transform else 0):
            with rasterio.open(path, overview_level=index) as overview:
                overviews.append((overview.height, overview.width))
        colours = tuple(shown.colorinterp)
        return RasterFile(
            uri=uri,
            path=path,
            driver=dataset.driver,
            height=shown.height,
            width=shown.width,
            dtypes=tuple(shown.dtypes),
            colours=colours,
            names=tuple((name or "").strip().lower() for name in dataset.descriptions[: len(colours)]),
            alpha=colours.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in colours else None,
            nodata=tuple(dataset.nodatavals) if shown.nodata is not None else (),
            crs=crs,
            transform=shown.transform,
            georeference=georeference,
            n_points=n_points,
            overviews=tuple(overviews),
            block=tuple(shown.block_shapes[0]),
        )
    finally:
        close_raster(shown)


def fingerprint(files: list[RasterFile]) -> str:
    """Hash of the metadata and content of files; the same for renamed or copied files.

    Of local files (sidecars, the files of a folder and what a VRT points to included) sizes and content as `add_files`
    samples it; of remote ones nine samples of pixels and what their storage says of their version. A local archive
    counts as a whole.
    """
    digest = hashlib.sha256()
    for file in files:
        facts = (file.height, file.width, file.dtypes, file.nodata, tuple(file.transform), file.georeference)
        digest.update(repr((facts, file.crs.to_wkt() if file.crs else None)).encode())
        with gdal(), rasterio.open(file.path) as dataset:
            if os.path.isdir(file.path):
                add_files(digest, files_below(file.path))
            elif is_local(file):
                add_files(digest, [("", part) for part in dataset.files if os.path.isfile(part)])
            elif archive := _local_archive(file.path):
                add_files(digest, [("", archive)])
            else:
                digest.update(remote_version(file.uri).encode())
                _add_samples(digest, dataset)
    return digest.hexdigest()


def is_local(file: RasterFile) -> bool:
    """Whether it is a file or folder of this machine, not of a network, a ZIP archive or a service."""
    return os.path.exists(file.path)


def _local_archive(path: str) -> str | None:
    """The archive on this machine in which a file of GDAL's ``/vsizip/`` and its like lies."""
    kind, _, inside = path.removeprefix("/vsi").partition("/")
    if not path.startswith("/vsi") or kind not in ("zip", "tar", "gzip", "7z", "rar"):
        return None
    inside = inside.replace("{", "").replace("}", "")
    while inside and not os.path.isfile(inside):
        inside = inside.rpartition("/")[0]
    return inside or None


def _add_samples(digest: Any, dataset: rasterio.DatasetReader) -> None:
    for row in range(0, dataset.height, max(1, -(-dataset.height // 3))):
        for col in range(0, dataset.width, max(1, -(-dataset.width // 3))):
            stop, end = min(row + SAMPLE_PX, dataset.height), min(col + SAMPLE_PX, dataset.width)
            try:
                digest.update(dataset.read(window=((row, stop), (col, end))).tobytes())
            except RasterioError:  # reading the source will report it
                digest.update(b"unreadable")


def _check_local(path: str, uri: str) -> None:
    """Raise SourceError for folders, missing and empty files, without GDAL."""
    if path.startswith("/vsi") or "://" in path:
        return
    if os.path.isdir(path) and not path.lower().endswith((".zarr", ".safe", ".gdb")):
        raise SourceError(
            f"{uri}: is a folder, expected one raster; give a file in it, or a pattern such as {uri}/*.tif"
        )
    if not os.path.exists(path):
        raise SourceError(f"{uri}: no such file; check the path")
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        raise SourceError(f"{uri}: is empty (0 bytes); copy it again from where it came")


def _reason(error: RasterioError, path: str) -> str:
    reason = " ".join(str(error).replace(f"'{path}'", "the file").replace(path, "the file").split())
    if "not recognized as being in a supported file format" in reason:
        return (
            "is not a raster that GDAL reads (GeoTIFF, VRT, JPEG 2000, PNG ...); it may be damaged or truncated: copy "
            "it again, or check that it is the right file"
        )
    return f"GDAL cannot open it ({reason}); check the address and the permissions, or copy the file again"
