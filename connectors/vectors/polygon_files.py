"""Polygons of vector files in any CRS, on a raster's grid: areas of interest, annotations, rasterisation."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.features import rasterize
from rasterio.warp import transform as transform_points
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.storage.gdal import gdal
from fewscope.errors import SourceError

LONGITUDE_LATITUDE = CRS.from_epsg(4326)
EDGE_PARTS = 32  # segments that each side of a box is divided into before it is transformed to another CRS


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature of a vector file: its geometry, the name of its layer, and its properties as text."""

    geometry: BaseGeometry
    layer: str
    properties: dict[str, str]


def read_features(uri: str, crs: CRS | None) -> list[Feature]:
    """Read the features of all layers that have a geometry, in the coordinates of ``crs`` (None: untransformed).

    Raises
    ------
    SourceError
        The file is missing or damaged, has no feature, or states no CRS.
    """
    import pyogrio  # takes half a second if pandas is installed, which pyogrio then imports

    if "://" not in uri and not uri.startswith("/vsi") and not os.path.exists(uri):
        raise SourceError(f"{uri}: no such file; check the path")
    features: list[Feature] = []
    path = f"/vsigzip/{uri}" if uri.lower().endswith(".gz") else uri
    try:
        for layer, kind in pyogrio.list_layers(path):
            if kind is None:  # a table without geometry
                continue
            meta, _, shapes, columns = pyogrio.raw.read(path, layer=layer, force_2d=True)
            geometries = shapely.from_wkb(shapes)
            if crs is not None:
                geometries = _to_crs(uri, geometries, meta["crs"], crs)
            for index, geometry in enumerate(geometries):
                if geometry is None or geometry.is_empty:
                    continue
                values = {
                    str(name): str(column[index])
                    for name, column in zip(meta["fields"], columns, strict=True)
                    if _is_known(column[index])
                }
                features.append(Feature(geometry, str(layer), values))
    except (
        pyogrio.errors.DataSourceError,
        pyogrio.errors.DataLayerError,
        shapely.errors.ShapelyError,
    ) as error:
        reason = " ".join(str(error).split())
        raise SourceError(
            f"{uri}: cannot be read as polygons ({reason}); give GeoJSON, GPKG or a shapefile"
        ) from error
    if not features:
        raise SourceError(f"{uri}: holds no feature; draw one")
    return features


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


def load_area(uri: str, options: RasterOptions, crs: CRS | None, transform: Affine) -> BaseGeometry:
    """The requested area, in pixels (col, row) of a grid.

    Parameters
    ----------
    uri
        The raster, for errors.
    options
        Its ``aoi`` and ``bbox``; with both, their intersection.
    crs, transform
        Of the grid.

    Raises
    ------
    SourceError
        The file cannot be read, or has no polygon.
    """
    areas: list[BaseGeometry] = []
    if options.aoi:
        polygons = [polygons_of(feature.geometry) for feature in read_features(options.aoi, crs)]
        known = [polygon for polygon in polygons if polygon is not None]
        if not known:
            raise SourceError(f"{options.aoi}: holds no polygon; draw the area as one")
        areas.append(shapely.union_all(known))
    if options.bbox:
        west, south, east, north = options.bbox
        box = shapely.box(west, south, east + 360 if crs is not None and east < west else east, north)
        if crs is not None:
            box = shapely.segmentize(box, max(box.bounds[2] - west, north - south) / EDGE_PARTS)
            box = _to_crs(uri, np.array([box]), LONGITUDE_LATITUDE.to_wkt(), crs)[0]
        areas.append(box)
    inside = ~transform
    matrix = [inside.a, inside.b, inside.d, inside.e, inside.c, inside.f]
    return shapely.affinity.affine_transform(shapely.intersection_all(areas), matrix)


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


def _to_crs(uri: str, geometries: NDArray[Any], stated: str | None, crs: CRS) -> NDArray[Any]:
    if stated is None:
        raise SourceError(f"{uri}: states no CRS; save it with one, for example as GeoPackage")
    try:
        own = CRS.from_user_input(stated)
        if own == crs:
            return geometries

        def move(points: NDArray[np.float64]) -> NDArray[np.float64]:
            x, y = transform_points(own, crs, points[:, 0], points[:, 1])
            return np.column_stack([x, y])

        with gdal():
            moved: NDArray[Any] = shapely.transform(geometries, move)
    except CRSError as error:
        raise SourceError(f"{uri}: its CRS cannot be transformed to {crs} ({error})") from error
    return moved


def _is_known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and np.isnan(value))
