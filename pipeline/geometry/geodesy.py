"""Geodesy: lengths in m and areas in m2 of geometries in a coordinate reference system.

Geographic coordinates, and projections that distort areas at the raster's location (Web Mercator, polar ones), are
measured on the ellipsoid; all other projections in their plane, in metres whatever their unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyproj
import shapely
from affine import Affine
from pyproj.exceptions import CRSError
from rasterio.windows import Window
from scipy.interpolate import RegularGridInterpolator

from fewscope.connectors.pixels.transform import place_points
from fewscope.connectors.vectors.layers import Geometries
from fewscope.errors import SourceError

PLANE_ERROR = 0.01
"""Largest relative error of areas at which the plane of a projection is used; UTM stays below 0.2 % within its zone."""

LONGEST_EDGE = 10_000
"""Longest edge of a polygon before it is reprojected, m: longer ones are split, for a relative error of 1e-6."""

SPACING = 16
"""Distance between the pixels whose area is computed, px, where areas vary along rows too."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GroundMeasure:
    """Measures lengths and areas in one CRS. Made by `GroundMeasure.of`; picklable.

    Attributes
    ----------
    crs
        WKT, or any CRS definition that PROJ accepts; None if the raster has no CRS.
    method
        ``"plane"``, ``"ellipsoid"``, or ``"pixels"``: without a CRS nothing is known in metres.
    metres_per_unit
        Metres per unit of the axes, for ``"plane"``; 1 otherwise.
    centre
        Longitude and latitude in degrees around which a projection is measured on the ellipsoid; None for a geographic
        CRS, and for a projection that keeps meridians and parallels straight (Web Mercator).

    Examples
    --------
    >>> utm = Affine.translation(500_000, 4_000_000) @ Affine.scale(10, -10)
    >>> ground = GroundMeasure.of("EPSG:32618", utm, 100, 100)
    >>> ground.method, float(ground.area_m2(np.array([shapely.box(0, 0, 30, 20)]))[0])
    ('plane', 600.0)
    """

    crs: str | None
    method: Literal["plane", "ellipsoid", "pixels"]
    metres_per_unit: float = 1.0
    centre: tuple[float, float] | None = None

    @classmethod
    def of(cls, crs: str | None, transform: Affine, height: int, width: int) -> GroundMeasure:
        """The measure for a raster of (height, width) px, whose pixel corners ``transform`` maps to ``crs``.

        Raises
        ------
        SourceError
            PROJ does not recognise the CRS.
        """
        if not crs:
            return cls(None, "pixels")
        try:
            known = pyproj.CRS.from_user_input(crs)
        except CRSError as error:
            raise SourceError(
                f"CRS {crs[:60]!r} is not recognised by PROJ; assign a valid one, e.g. gdal_edit.py -a_srs EPSG:32618"
            ) from error
        if known.is_geographic:
            return cls(crs, "ellipsoid")
        if not known.is_projected:  # a local engineering CRS has metres and no place on Earth
            unit = known.axis_info[0].unit_conversion_factor if known.axis_info else 0.0
            return cls(crs, "plane", unit) if unit > 0 else cls(crs, "pixels")
        centre = transform @ (width / 2, height / 2)
        if abs(_areal_scale(known, centre) - 1) > PLANE_ERROR:
            return cls(
                crs, "ellipsoid", centre=None if _is_cylindrical(known) else _degrees_at(known, centre)
            )
        return cls(crs, "plane", known.axis_info[0].unit_conversion_factor)

    @property
    def description(self) -> str:
        """How areas and lengths are measured, for reports."""
        return {
            "plane": "in the plane of the raster's projection",
            "ellipsoid": "on the ellipsoid",
            "pixels": "in pixels: the raster has no coordinate reference system",
        }[self.method]

    def area_m2(self, geometries: Geometries) -> Floats:
        """Areas of polygons (n,), m2; NaN without a CRS.

        On the ellipsoid, of the polygons whose edges are straight in longitude and latitude, as pixels' are: after
        the equal-area cylindrical projection, which keeps meridians and parallels straight. Of other projections, such
        as polar ones, after the azimuthal equal-area projection around the raster's middle, edges cut into short ones.
        """
        if self.method == "pixels":
            return np.full(len(geometries), np.nan)
        if self.method == "plane":
            return np.asarray(shapely.area(geometries)) * self.metres_per_unit**2
        if self.centre is not None:
            unit = self._known.axis_info[0].unit_conversion_factor
            geometries = shapely.segmentize(geometries, LONGEST_EDGE / unit)
        return np.asarray(shapely.area(shapely.transform(geometries, self._equal_area)))

    def length_m(self, geometries: Geometries) -> Floats:
        """Lengths of lines, or perimeters of polygons with their holes' (n,), m; NaN without a CRS."""
        if self.method == "pixels":
            return np.full(len(geometries), np.nan)
        if self.method == "plane":
            return np.asarray(shapely.length(geometries)) * self.metres_per_unit
        parts, owner = shapely.get_parts(geometries, return_index=True)
        rings, of_part = shapely.get_rings(parts, return_index=True)
        is_line = shapely.get_dimensions(parts) == 1
        lines = np.concatenate([rings, parts[is_line]])
        owner = np.concatenate([owner[of_part], owner[is_line]])
        points, line = shapely.get_coordinates(lines, return_index=True)
        lengths = np.zeros(len(geometries))
        if len(points) > 1:
            same = line[1:] == line[:-1]
            np.add.at(lengths, owner[line[1:][same]], self.steps_m(points)[same])
        return lengths

    def steps_m(self, points: Floats) -> Floats:
        """Distances between successive points (n, 2) of the CRS: (n - 1,), m; NaN without a CRS."""
        if self.method == "pixels":
            return np.full(max(0, len(points) - 1), np.nan)
        if self.method == "plane":
            return np.hypot(*np.diff(points, axis=0).T) * self.metres_per_unit
        degrees = self._degrees(points)
        _, _, distance = self._geod.inv(*degrees[:-1].T, *degrees[1:].T)
        return np.asarray(distance)

    def local_plane_m(self, points: Floats, centre: tuple[float, float]) -> Floats:
        """Points (n, 2) of the CRS in a plane in metres around a place given in the CRS: for distances between them.

        On the ellipsoid the azimuthal equidistant plane, in which distances are off by less than 0.1 % within 300 km.
        NaN without a CRS.
        """
        if self.method == "pixels":
            return np.full(points.shape, np.nan)
        if self.method == "plane":
            return (points - centre) * self.metres_per_unit
        longitude, latitude = self._degrees(np.array([centre]))[0]
        plane = pyproj.Proj(proj="aeqd", lon_0=longitude, lat_0=latitude, a=self._geod.a, b=self._geod.b)
        return np.stack(plane(*self._degrees(points).T), axis=-1)

    def pixel_areas_m2(self, transform: Affine, window: Window) -> Floats:
        """Area of the pixels of a window, m2; 1 without a CRS.

        Returns
        -------
        (h, 1) where the pixels of a row are alike, each row's in its middle; else (h, w), measured every `SPACING`
        pixels and interpolated between.
        """
        h, w = window.height, window.width
        if self.method == "pixels":
            return np.ones((h, 1))
        is_upright = transform.b == transform.d == 0
        if self.method == "plane" or (self.centre is None and is_upright):
            rows, cols = np.arange(h)[:, None] + 0.5, np.full((1, 1), w / 2)
        else:
            rows, cols = _spaced(h)[:, None], _spaced(w)[None]
        rows, cols = np.broadcast_arrays(rows + window.row_off, cols + window.col_off)
        areas = self.pixel_areas_at_m2(transform, rows.ravel(), cols.ravel()).reshape(rows.shape)
        if areas.shape == (h, 1):
            return areas
        measured = RegularGridInterpolator((_spaced(h), _spaced(w)), areas)
        return np.asarray(measured(tuple(np.ogrid[0.5:h, 0.5:w])))

    def pixel_areas_at_m2(self, transform: Affine, rows: Floats, cols: Floats) -> Floats:
        """Area of a pixel around each place (n,) of the grid, m2; 1 without a CRS."""
        if self.method == "pixels":
            return np.ones(len(rows))
        pixels = shapely.box(cols - 0.5, rows - 0.5, cols + 0.5, rows + 0.5)
        return self.area_m2(shapely.transform(pixels, lambda points: place_points(points, transform)))

    def north(self, transform: Affine, row: float, col: float) -> tuple[float, float] | None:
        """Direction of north at (row, col): unit vector (down, right) in pixels; None without a location on Earth."""
        if self.method == "pixels" or not (self._known.is_geographic or self._known.is_projected):
            return None
        place = transform @ (col, row)
        if self._known.is_geographic:
            there = place[0], place[1] + 1e-3
        else:
            to_degrees = pyproj.Transformer.from_crs(self._known, self._known.geodetic_crs, always_xy=True)
            longitude, latitude = to_degrees.transform(*place)
            there = to_degrees.transform(longitude, latitude + 1e-3, direction="INVERSE")
        right, down = np.subtract(~transform @ there, (col, row)).tolist()
        length = np.hypot(down, right)
        return (down / length, right / length) if np.isfinite(length) and length > 0 else None

    def pixel_m(self, transform: Affine, row: float, col: float) -> tuple[float, float]:
        """(height, width) of the pixel at (row, col), m; NaN without a CRS."""
        corners = np.array([(col, row + 1), (col, row), (col + 1, row)])
        down, across = self.steps_m(place_points(corners, transform)).tolist()
        return down, across

    @cached_property
    def _known(self) -> pyproj.CRS:
        return pyproj.CRS.from_user_input(self.crs)

    @cached_property
    def _geod(self) -> pyproj.Geod:
        geod = self._known.get_geod()
        assert geod is not None, "a geographic or projected CRS has an ellipsoid"
        return geod

    def _degrees(self, points: Floats) -> Floats:
        """Longitude and latitude in degrees, (n, 2)."""
        if self._known.is_geographic:
            return points * np.degrees(self._known.axis_info[0].unit_conversion_factor)
        transformer = pyproj.Transformer.from_crs(self._known, self._known.geodetic_crs, always_xy=True)
        return np.stack(transformer.transform(points[:, 0], points[:, 1]), axis=-1)

    def _equal_area(self, points: Floats) -> Floats:
        """x, y in m of an equal-area projection; longitudes of a geographic CRS are not wrapped at the date line."""
        degrees, geod = self._degrees(points), self._geod
        if self.centre is not None:
            longitude, latitude = self.centre
            around = pyproj.Proj(proj="laea", lon_0=longitude, lat_0=latitude, a=geod.a, b=geod.b)
            return np.stack(around(*degrees.T), axis=-1)
        project = pyproj.Proj(proj="cea", a=geod.a, b=geod.b)
        _, y = project(np.zeros(len(degrees)), degrees[:, 1])
        return np.stack([geod.a * np.radians(degrees[:, 0]), y], axis=-1)


def total_m2(where: npt.NDArray[np.bool_], areas: Floats) -> float:
    """Area of the pixels that are True, (h, w), from `GroundMeasure.pixel_areas_m2` of their window."""
    if areas.shape[1] == 1:
        return float(np.count_nonzero(where, axis=1) @ areas[:, 0])
    return float(areas[where].sum())


def _spaced(n: int) -> Floats:
    """Centres of every `SPACING`-th of `n` pixels, the first and the last included.

    >>> _spaced(40).tolist(), _spaced(1).tolist()
    ([0.5, 16.5, 32.5, 39.5], [0.5, 1.5])
    """
    return np.append(np.arange(0, max(1, n - 1), SPACING), max(1, n - 1)) + 0.5


def _is_cylindrical(crs: pyproj.CRS) -> bool:
    """Whether meridians and parallels are straight and at right angles: Web Mercator, plate carree and the like."""
    operation = crs.coordinate_operation
    name = operation.method_name.lower() if operation is not None else ""
    return any(n in name for n in ("mercator", "cylindrical")) and not any(
        n in name for n in ("transverse", "oblique")
    )


def _degrees_at(crs: pyproj.CRS, place: tuple[float, float]) -> tuple[float, float]:
    """Longitude and latitude of a place given in the CRS."""
    longitude, latitude = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True).transform(*place)
    return float(longitude), float(latitude)


def _areal_scale(crs: pyproj.CRS, place: tuple[float, float]) -> float:
    """Area in the projection's plane over area on the ellipsoid, at a place given in the CRS."""
    longitude, latitude = _degrees_at(crs, place)
    if not np.isfinite([longitude, latitude]).all():
        return 1.0  # outside what the projection covers: nothing better is known than its plane
    return float(pyproj.Proj(crs).get_factors(longitude, latitude).areal_scale)
