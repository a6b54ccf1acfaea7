"""One raster file: its GDAL path, metadata and fingerprint."""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Interleaving, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile
from rasterio.shutil import copy as copy_raster
from rasterio.vrt import WarpedVRT

from fewscope.connectors.rasters.alpha import is_opacity
from fewscope.connectors.rasters.references import check_driver, check_references
from fewscope.connectors.rasters.stored_values import read_bands
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

MAX_BLOCK_BYTES = 512 * 2**20
"""A stored block is decoded as a whole: larger ones are refused before any is read."""

SAMPLE_PX = 32  # side of the nine samples in the fingerprint of a remote file

Georeference = Literal["transform", "gcps", "rpcs", "none"]
NodataOrigin = Literal["file", "implicit", "user"]
AlphaChoice = Literal["auto", "band", "mask"]
FEWEST_POINTS = 3  # control points that determine an affine transform
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
    opacity_as_data
        Band that GDAL marks as alpha but that is read as data, 1-based; None without.
    nodata
        Nodata value of each band; empty without, and where the file has a mask, which takes precedence as in GDAL.
    nodata_origin
        Who declares nodata: the file, no one (implicit, see `connectors.rasters.nodata`), or the user.
    doubtful_nodata
        A value that covers solid areas and may be nodata, but is read as data; None without.
    n_points
        Number of control points.
    overviews
        (height, width) of the file's overviews, finest first.
    block
        (rows, cols) of a block as the file stores it.
    calibration
        Scale and offset of each band, by which stored values become physical ones; (1, 0) if the file states none.
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
    opacity_as_data: int | None = None
    doubtful_nodata: float | None = None
    calibration: tuple[tuple[float, float], ...] = field(default=())

    def with_nodata(self, value: float, origin: NodataOrigin) -> RasterFile:
        """A copy with another nodata value for all bands."""
        return replace(self, nodata=(value,) * len(self.dtypes), nodata_origin=origin)

    @property
    def nodata_override(self) -> float | None:
        """The nodata value that is not the file's own."""
        return None if self.nodata_origin == "file" else self.nodata[0]

    @property
    def warp_nodata(self) -> float | None:
        """The nodata value that GDAL's warper is given, one for all bands."""
        return next((value for value in self.nodata if value is not None), None)

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


def inspect(
    uri: str,
    alpha: AlphaChoice = "auto",
    data_bands: tuple[int, ...] = (),
    *,
    allow_remote_references: bool = False,
) -> RasterFile:
    """Open a raster and read its metadata.

    Parameters
    ----------
    uri
        Its address.
    alpha
        What a band is that GDAL marks as alpha: opacity, data, or ("auto") what its values look like.
    data_bands
        1-based bands that the user names as data, whatever GDAL marks them as.
    allow_remote_references
        Also open files that make GDAL read others outside their folder, or addresses (`references`).

    Raises
    ------
    SourceError
        It is missing, empty, damaged, not a raster, or a container of several.
    """
    path = gdal_path(uri)
    _check_local(path, uri)
    checked = allow_remote_references or check_references(path, uri)
    with gdal():
        try:
            with rasterio.open(path) as dataset:
                if not checked:
                    check_driver(dataset.driver, uri)
                return _describe(dataset, uri, path, alpha, data_bands)
        except RasterioError as error:
            raise SourceError(f"{uri}: {_reason(error, path)}") from error


def open_raster(
    path: str,
    georeference: Georeference,
    crs: CRS | None,
    overview: int | None = None,
    nodata: float | None = None,
    opacity_as_data: bool = False,
) -> rasterio.DatasetReader:
    """Open a file, or one of its overviews, on a grid with a transform. Close it with `close_raster`.

    ``nodata`` is the nodata value if the file is resampled here. ``opacity_as_data`` resamples a band that GDAL
    marks as alpha as any other.
    """
    if georeference not in METHODS:
        return rasterio.open(path) if overview is None else rasterio.open(path, overview_level=overview)
    dataset = open_without_alpha(path) if opacity_as_data else rasterio.open(path)
    try:
        return WarpedVRT(
            dataset,
            src_crs=crs,
            resampling=Resampling.bilinear,
            src_nodata=nodata,
            add_alpha=ColorInterp.alpha not in dataset.colorinterp,
            SRC_METHOD=METHODS[georeference],
            UNIFIED_SRC_NODATA="YES",
        )
    except BaseException:
        dataset.close()
        raise


def open_without_alpha(path: str) -> rasterio.DatasetReader:
    """Open a file as a view in which no band is marked as alpha: GDAL's warper treats that one separately."""
    local = os.path.abspath(path) if os.path.exists(path) else path
    with rasterio.open(local) as dataset, MemoryFile(ext=".vrt") as view:
        copy_raster(dataset, view.name, driver="VRT")
        described = view.read().decode()
    return rasterio.open(
        described.replace("<ColorInterp>Alpha</ColorInterp>", "<ColorInterp>Undefined</ColorInterp>")
    )


def close_raster(dataset: rasterio.DatasetReader) -> None:
    """Close a dataset and those that it is a view of."""
    source = dataset.src_dataset if isinstance(dataset, WarpedVRT) else None
    dataset.close()
    if source is not None:
        close_raster(source)


def _describe(
    dataset: rasterio.DatasetReader, uri: str, path: str, alpha: AlphaChoice, data_bands: tuple[int, ...]
) -> RasterFile:
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
            if len(points) < FEWEST_POINTS:
                raise SourceError(
                    f"{uri}: is located by {len(points)} control point{'s' * (len(points) > 1)}, and at least "
                    f"{FEWEST_POINTS} are needed; give it a transform, for example with `gdal_translate -a_ullr`"
                )
            georeference, crs, n_points = "gcps", points_crs, len(points)
        elif dataset.rpcs is not None:
            georeference, crs = (
                "rpcs",
                CRS.from_epsg(4326),
            )  # RPCs are in longitude and latitude by definition
        else:
            georeference = "none"
    _check_block(dataset, uri)
    marked = next((i for i, colour in enumerate(dataset.colorinterp, 1) if colour == ColorInterp.alpha), None)
    as_data = marked is not None and (
        alpha == "band" or marked in data_bands or (alpha == "auto" and not is_opacity(dataset, marked))
    )
    nodata = () if _has_mask(dataset, as_data) else tuple(dataset.nodatavals)
    nodata = nodata if any(value is not None for value in nodata) else ()
    value = next((value for value in nodata if value is not None), None)
    shown = open_raster(path, georeference, crs, nodata=value, opacity_as_data=as_data)
    try:
        overviews = []
        for index in range(len(dataset.overviews(1)) if shown.transform == dataset.transform else 0):
            with rasterio.open(path, overview_level=index) as overview:
                overviews.append((overview.height, overview.width))
        colours = tuple(shown.colorinterp)
        if as_data:
            colours = tuple(ColorInterp.undefined if i == marked else c for i, c in enumerate(colours, 1))
        stored = tuple(zip(dataset.scales, dataset.offsets, strict=True))
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
            nodata=nodata,
            crs=crs,
            transform=shown.transform,
            georeference=georeference,
            n_points=n_points,
            overviews=tuple(overviews),
            block=tuple(shown.block_shapes[0]),
            opacity_as_data=marked if as_data else None,
            calibration=stored + ((1.0, 0.0),) * (len(colours) - len(stored)),
        )
    finally:
        close_raster(shown)


def _has_mask(dataset: rasterio.DatasetReader, alpha_is_data: bool) -> bool:
    """Whether the file has a mask of its own, internal or beside it, which is not its alpha band."""
    flags = dataset.mask_flag_enums[0]
    return MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags


def _check_block(dataset: rasterio.DatasetReader, uri: str) -> None:
    """Raise SourceError if one stored block would take too much memory."""
    rows, cols = dataset.block_shapes[0]
    together = dataset.count if dataset.interleaving == Interleaving.pixel else 1
    size = rows * cols * together * max(_bytes_of(name) for name in dataset.dtypes)
    if size > MAX_BLOCK_BYTES:
        raise SourceError(
            f"{uri}: is stored in blocks of {rows} x {cols} px, {size / 2**30:.1f} GiB each, at most "
            f"{MAX_BLOCK_BYTES / 2**30:g} GiB are read at once; write it in tiles: `gdal_translate -co TILED=YES`"
        )


def _bytes_of(dtype: str) -> int:
    """Bytes of a value of a rasterio type; complex integers have two numbers."""
    return {"complex_int16": 4, "complex_int32": 8}.get(dtype) or np.dtype(dtype).itemsize


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
        if file.opacity_as_data is not None:
            digest.update(f"band {file.opacity_as_data} is data".encode())
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
                window = ((row, stop), (col, end))
                digest.update(read_bands(dataset, dataset.indexes, window).tobytes())
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
