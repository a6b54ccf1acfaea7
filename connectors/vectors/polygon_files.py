"""Polygons of vector files in any CRS, on a raster's grid: areas of interest, annotations, rasterisation."""

from __future__ import annotations

import gzip
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.features import rasterize
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.storage.download import local_copy
from fewscope.connectors.vectors.placement import LONGITUDE_LATITUDE, MAX_LONGITUDE, Target, place
from fewscope.errors import SourceError

EDGE_PARTS = 32  # segments that each side of a box is divided into before it is transformed to another CRS
GEOPARQUET = (".parquet", ".geoparquet")
IN_ARCHIVES = (
    ".shp",
    ".gpkg",
    ".geojson",
    ".json",
    ".kml",
    ".gml",
    ".fgb",
    ".sqlite",
    ".gdb",
    ".tab",
    ".mif",
)
"""What is looked for in ZIP archives, the first kind that there is."""


REFERENCES = (b"<ogrvrtdatasource", b"<ogrwfsdatasource", b"<ogrcswdatasource", b"gdal_streamed_alg")
"""Beginnings of small files that make GDAL read other files or addresses, whatever their name ends with."""

HEAD_BYTES = 4096
MAX_UNPACKED_BYTES = 512 * 2**20
TOO_LARGE = "give the few features that are needed"


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature of a vector file.

    Attributes
    ----------
    geometry
        None where the file has none, or an empty one.
    layer
        Name of its layer.
    properties
        As text, by name; those without a value are left out.
    number
        Its place in the file, from 1.
    """

    geometry: BaseGeometry | None
    layer: str
    properties: dict[str, str]
    number: int


def read_features(uri: str, target: Target) -> list[Feature]:
    """Read the features of all layers in the coordinates of ``target`` (as they are, where it states no CRS).

    Raises
    ------
    SourceError
        The file is missing or damaged, has no feature, or its coordinates cannot be placed.
    """
    if "://" not in uri and not uri.startswith("/vsi") and not os.path.exists(uri):
        raise SourceError(f"{uri}: no such file; check the path")
    features: list[Feature] = []
    for layer, stated, shapes, columns in _read_layers(uri):
        geometries = place(uri, shapes, stated, target)
        for index, geometry in enumerate(geometries):
            values = {
                name: str(column[index]).strip()
                for name, column in columns.items()
                if _is_known(column[index])
            }
            known = None if geometry is None or geometry.is_empty else geometry
            features.append(Feature(known, layer, values, len(features) + 1))
    if not features:
        raise SourceError(f"{uri}: holds no feature; draw one")
    return features


def _read_layers(uri: str) -> list[tuple[str, str | None, NDArray[Any], dict[str, Any]]]:
    """Name, stated CRS, geometries and columns of each layer that can have geometries."""
    if uri.lower().endswith(GEOPARQUET):
        from fewscope.connectors.vectors.geoparquet import read_geoparquet

        wkb, stated, columns = read_geoparquet(uri)
        return [(os.path.basename(uri), stated, _from_wkb(uri, wkb), columns)]
    import pyogrio  # takes half a second if pandas is installed, which pyogrio then imports

    layers = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # GDAL's remarks on formats; what matters is checked by us
            for path in _paths(uri):
                for layer, kind in pyogrio.list_layers(path):
                    if kind is None:  # a table without geometry
                        continue
                    meta, _, shapes, columns = pyogrio.raw.read(path, layer=layer, force_2d=True)
                    named = dict(zip(map(str, meta["fields"]), columns, strict=True))
                    layers.append((str(layer), meta["crs"], _from_wkb(uri, shapes), named))
    except (SourceError, MemoryError):
        raise
    except Exception as error:  # GDAL's drivers and pyogrio have exceptions of many kinds; all mean: not read
        reason = " ".join(str(error).split())[:200]
        raise SourceError(
            f"{uri}: cannot be read as polygons ({reason}); give GeoJSON, GPKG or a shapefile"
        ) from error
    return layers


def _from_wkb(uri: str, shapes: Any) -> NDArray[Any]:
    try:
        geometries = shapely.from_wkb(np.asarray(shapes, object))
    except shapely.errors.ShapelyError as error:
        raise SourceError(
            f"{uri}: has a geometry that cannot be read ({' '.join(str(error).split())}); save it as GeoPackage"
        ) from error
    finite = shapely.get_coordinates(geometries)
    if not np.isfinite(finite).all():
        raise SourceError(f"{uri}: has coordinates that are not finite; draw that feature again")
    return np.atleast_1d(geometries)


def _paths(uri: str) -> list[str]:
    """What GDAL is to open: the file itself, what is compressed in it, or the vector files of a ZIP archive."""
    name = uri.lower()
    if name.endswith(".gz"):
        if uri.startswith("/vsi"):
            return [f"/vsigzip/{uri}"]
        packed = os.path.abspath(local_copy(uri))
        _check_unpacked(uri, packed)
        return [f"/vsigzip/{packed}"]
    if not name.endswith(".zip") or name.endswith((".gdb.zip", ".shp.zip")) or uri.startswith("/vsi"):
        if os.path.isfile(uri):
            with open(uri, "rb") as file:
                _check_head(uri, file.read(HEAD_BYTES))
        return [uri]
    archive = local_copy(uri)
    try:
        with zipfile.ZipFile(archive) as opened:
            names = sorted(n for n in opened.namelist() if not n.startswith("__MACOSX/"))
            for member in names:
                with opened.open(member) as file:
                    _check_head(uri, file.read(HEAD_BYTES))
            if sum(entry.file_size for entry in opened.infolist()) > MAX_UNPACKED_BYTES:
                raise SourceError(
                    f"{uri}: unpacks to more than {MAX_UNPACKED_BYTES // 2**20} MiB; {TOO_LARGE}"
                )
    except (OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:  # encrypted ones, too
        raise SourceError(
            f"{uri}: is not a ZIP archive ({error}); pack it again, or give the file in it"
        ) from error
    for ending in IN_ARCHIVES:
        if ending == ".gdb":
            folders = {n[: n.lower().index(".gdb/") + 4] for n in names if ".gdb/" in n.lower()}
            found = sorted(folders)
        else:
            found = [n for n in names if n.lower().endswith(ending)]
        if found:
            return [f"/vsizip/{{{os.path.abspath(archive)}}}/{n}" for n in found]
    raise SourceError(
        f"{uri}: has no vector file, only {', '.join(names[:5]) or 'nothing'}; pack a GeoPackage in it"
    )


def polygons_of(geometry: BaseGeometry) -> BaseGeometry | None:
    """The part of a geometry with an area, made valid; None if it has none."""
    if not geometry.is_valid:
        geometry = shapely.make_valid(geometry)
    parts = [part for part in shapely.get_parts(geometry) if part.area > 0]
    parts = [
        polygon for part in parts for polygon in shapely.get_parts(part) if polygon.geom_type == "Polygon"
    ]
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _check_head(uri: str, head: bytes) -> None:
    """Refuse a file that refers to others: they would be read in the name of whoever runs the job."""
    if any(reference in head.lower() for reference in REFERENCES):
        raise SourceError(
            f"{uri}: refers to other files or addresses instead of holding polygons; write what it shows with "
            "`ogr2ogr OUT.gpkg FILE`"
        )


def _check_unpacked(uri: str, path: str) -> None:
    """Refuse a compressed file that is too large, or refers to others."""
    size = 0
    try:
        with gzip.open(path) as unpacked:
            while piece := unpacked.read(2**20):
                if not size:
                    _check_head(uri, piece[:HEAD_BYTES])
                size += len(piece)
                if size > MAX_UNPACKED_BYTES:
                    raise SourceError(
                        f"{uri}: unpacks to more than {MAX_UNPACKED_BYTES // 2**20} MiB; {TOO_LARGE}"
                    )
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{uri}: cannot be read as polygons ({error}); save it again") from error


def load_area(
    uri: str, options: RasterOptions, crs: CRS | None, transform: Affine, size: tuple[int, int]
) -> tuple[BaseGeometry, list[str]]:
    """The requested area, in pixels (col, row) of a grid, and what was skipped in its file.

    Parameters
    ----------
    uri
        The raster, for errors.
    options
        Its ``aoi`` and ``bbox``; with both, their intersection.
    crs, transform, size
        CRS, transform and (height, width) of the grid.

    Raises
    ------
    SourceError
        The file or the box cannot be placed, or has no area.
    """
    target = Target.of(crs, transform, *size)
    areas, notes = list[BaseGeometry](), list[str]()
    if options.aoi:
        features = read_features(options.aoi, target)
        polygons = [polygons_of(one.geometry) if one.geometry is not None else None for one in features]
        known = [polygon for polygon in polygons if polygon is not None]
        if not known:
            raise SourceError(f"{options.aoi}: holds no polygon; draw the area as one")
        if len(known) < len(features):
            lost = [
                f"{describe(one)} (feature {one.number})"
                for one, p in zip(features, polygons, strict=True)
                if p is None
            ]
            notes.append(f"{options.aoi}: left out of the area asked for: {listed(lost)}.")
        areas.append(shapely.union_all(known))
    if options.bbox:
        areas.append(_box(uri, options.bbox, target))
    inside = ~transform
    matrix = [inside.a, inside.b, inside.d, inside.e, inside.c, inside.f]
    return shapely.affinity.affine_transform(shapely.intersection_all(areas), matrix), notes


def _box(uri: str, bbox: tuple[float, float, float, float], target: Target) -> BaseGeometry:
    """A box in degrees, in the coordinates of a raster."""
    west, south, east, north = bbox
    if target.crs is None:
        return shapely.box(west, south, east, north)
    shown = f"--bbox {west:.9g} {south:.9g} {east:.9g} {north:.9g}"
    if max(abs(west), abs(east)) > MAX_LONGITUDE or max(abs(south), abs(north)) > 90:
        raise SourceError(
            f"{uri}: {shown} is no west, south, east and north in degrees; give degrees, or draw the area and give it "
            "as --aoi"
        )
    box = shapely.box(west, south, east + 360 if east < west else east, north)
    box = shapely.segmentize(box, max(box.bounds[2] - west, north - south) / EDGE_PARTS)
    try:
        placed: BaseGeometry = place(shown, np.array([box], object), LONGITUDE_LATITUDE.to_wkt(), target)[0]
    except SourceError as error:
        if "swapped" in str(error):
            raise SourceError(
                f"{uri}: {shown} lies outside it, but not with x and y swapped; give WEST SOUTH EAST NORTH"
            ) from error
        raise SourceError(
            f"{uri}: {shown} cannot be placed on it; give WEST SOUTH EAST NORTH in degrees"
        ) from error
    return placed


def describe(feature: Feature) -> str:
    """Why a feature has no area, as the end of a sentence."""
    geometry = feature.geometry
    if geometry is None:
        return "a feature without geometry"
    return "a feature without area" if "Polygon" in geometry.geom_type else f"a {geometry.geom_type}"


def listed(parts: list[str], most: int = 4) -> str:
    """The first few of a list, and how many more there are.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    rest = len(parts) - most
    return ", ".join(parts[:most]) + (f" and {rest} more" if rest > 0 else "")


def burn(
    shapes: Iterable[tuple[BaseGeometry, int]], shape: tuple[int, ...], to_shapes: Affine
) -> NDArray[np.int32]:
    """Rasterise geometries: int32 (h, w), the value of the last geometry that contains the pixel's centre, 0 for none.

    ``to_shapes`` maps pixel corners (col, row) to the coordinates of the geometries.
    """
    filled = [(geometry, value) for geometry, value in shapes if not geometry.is_empty]
    if not filled:
        return np.zeros(shape, np.int32)
    burnt: NDArray[np.int32] = rasterize(filled, shape, transform=to_shapes, dtype="int32")
    return burnt


def _is_known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float | np.floating) and np.isnan(value))
