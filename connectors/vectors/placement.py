"""Where the coordinates of a vector file lie on a raster: brought to its CRS, or refused in one line with the cause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyproj
import shapely
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform as transform_points
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.storage.gdal import gdal
from fewscope.errors import SourceError

Geometries = npt.NDArray[np.object_]

LONGITUDE_LATITUDE = CRS.from_epsg(4326)
MAX_LONGITUDE = (
    540.0  # one more turn than there is: some count from 0 to 360, some go on past the antimeridian
)
MAX_LATITUDE = 90.0
ROUNDING = 1e-6  # degrees by which a pole or the antimeridian may be missed
CLIP_MARGIN = 5.0  # degrees around a raster; of larger shapes the rest is cut off before they are projected
SIDE_PARTS = 16  # points along each side of a raster, for its footprint in another CRS
SAVE_WITH_CRS = "save it with its CRS, for example as GeoPackage"

_TRANSFORM_ERRORS = (CRSError, RasterioError, CPLE_BaseError)


@dataclass(frozen=True, slots=True)
class Target:
    """The raster that shapes are to lie on: its CRS (None: not stated), and its outline in that CRS."""

    crs: CRS | None
    outline: BaseGeometry

    @classmethod
    def of(cls, crs: CRS | None, transform: Affine, height: int, width: int) -> Target:
        """The target that a grid of pixels is."""
        corners = [(0, 0), (width, 0), (width, height), (0, height)]
        return cls(crs, shapely.Polygon([transform @ corner for corner in corners]))


def place(uri: str, geometries: Geometries, stated: str | None, target: Target) -> Geometries:
    """Geometries (n,) in the CRS of the target, on the target's turn of longitude.

    Parameters
    ----------
    uri
        The file, for messages.
    geometries
        As the file has them; None and empty ones stay.
    stated
        The CRS that the file states, in any notation; None: none.

    Raises
    ------
    SourceError
        The CRS is missing or unknown, the coordinates are impossible in it, or none of them reaches the target but all
        would if they were read in another way.
    """
    if target.crs is None:
        return geometries
    own = _known_crs(stated)
    if own is None:
        raise SourceError(f"{uri}: states no CRS; {_fit(geometries, None, target) or SAVE_WITH_CRS}")
    _check_range(uri, geometries, own, target)
    try:
        placed = _project(geometries, own, target)
    except _TRANSFORM_ERRORS as error:
        raise SourceError(
            f"{uri}: {_sample(geometries)} cannot be brought from {own} to {target.crs} "
            f"({' '.join(str(error).split())}); {SAVE_WITH_CRS}"
        ) from error
    if target.crs.is_geographic:
        placed = np.array([_on_turn(one, target.outline) for one in placed], object)
    if not _reach(placed, target) and (fit := _fit(geometries, own, target)):
        raise SourceError(f"{uri}: {_sample(geometries)} in {own} lie outside the raster; {fit}")
    return placed


def _known_crs(stated: str | None) -> CRS | None:
    """The CRS that a file states; None where it is missing, undefined (as GeoPackages say it), or of a local plane."""
    if not stated:
        return None
    try:
        crs = pyproj.CRS.from_user_input(stated)
        if crs.is_engineering or crs.name.lower().startswith("undefined"):
            return None
        return CRS.from_user_input(stated)
    except (pyproj.exceptions.CRSError, *_TRANSFORM_ERRORS):
        return None


def _check_range(uri: str, geometries: Geometries, own: CRS, target: Target) -> None:
    """Refuse what no place on Earth has."""
    bounds = shapely.bounds(geometries)
    if not own.is_geographic or np.isnan(bounds).all():
        return
    x, y = np.nanmax(np.abs(bounds[:, ::2])), np.nanmax(np.abs(bounds[:, 1::2]))
    if x > MAX_LONGITUDE + ROUNDING or y > MAX_LATITUDE + ROUNDING:
        is_json = own == LONGITUDE_LATITUDE and uri.lower().removesuffix(".gz").endswith(("json", "geojsonl"))
        raise SourceError(
            f"{uri}: {_sample(geometries)} are no longitude and latitude"
            f"{', which GeoJSON without a CRS has' if is_json else ''}; "
            f"{_fit(geometries, own, target) or SAVE_WITH_CRS}"
        )


def _sample(geometries: Geometries) -> str:
    """The first point, for people."""
    points = shapely.get_coordinates(geometries)
    return f"coordinates such as {points[0][0]:.9g}, {points[0][1]:.9g}" if len(points) else "its coordinates"


def _project(geometries: Geometries, own: CRS, target: Target) -> Geometries:
    assert target.crs is not None
    if own == target.crs:
        return geometries
    frame = _clip_frame(own, target)
    near = np.array([_clipped(one, frame) for one in geometries], object) if frame else geometries
    placed: Geometries = shapely.transform(near, _mover(own, target.crs))
    if not np.isfinite(shapely.get_coordinates(placed)).all():
        raise CRSError("some have no place in it")
    if target.crs.is_geographic:
        placed = np.array(
            [_whole_again(new, old, own) for new, old in zip(placed, near, strict=True)], object
        )
    return placed


def _mover(own: CRS, crs: CRS) -> Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]:
    def move(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        with gdal():
            x, y = transform_points(own, crs, points[:, 0], points[:, 1])
        return np.column_stack([x, y])

    return move


def _clip_frame(own: CRS, target: Target) -> BaseGeometry | None:
    """The neighbourhood of the target in degrees of `own`; None where `own` is a plane, or for lack of a footprint."""
    if not own.is_geographic:
        return None
    assert target.crs is not None
    ring = target.outline.exterior
    outline = shapely.segmentize(ring, ring.length / (4 * SIDE_PARTS))
    try:
        west, south, east, north = shapely.transform(outline, _mover(target.crs, own)).bounds
    except _TRANSFORM_ERRORS:
        return None
    if not np.isfinite([west, south, east, north]).all():
        return None
    margin = max(CLIP_MARGIN, east - west, north - south)
    if east - west > 180:  # around a pole, or across the antimeridian
        return shapely.box(-MAX_LONGITUDE, max(-90, south - margin), MAX_LONGITUDE, min(90, north + margin))
    boxes = [
        shapely.box(
            west + turn - margin, max(-90, south - margin), east + turn + margin, min(90, north + margin)
        )
        for turn in (-360, 0, 360)
    ]
    return shapely.union_all(boxes)


def _clipped(geometry: BaseGeometry | None, frame: BaseGeometry) -> BaseGeometry | None:
    """A geometry without what is far from a raster: a projection may have no place for it."""
    if geometry is None or geometry.is_empty or not geometry.intersects(frame) or frame.covers(geometry):
        return geometry
    return shapely.intersection(geometry if geometry.is_valid else shapely.make_valid(geometry), frame)


def _whole_again(new: BaseGeometry | None, old: BaseGeometry | None, own: CRS) -> BaseGeometry | None:
    """A geometry in degrees that a projection has torn apart at the antimeridian, in one piece."""
    if new is None or new.is_empty or old is None or new.bounds[2] - new.bounds[0] <= 180:
        return new
    if own.is_geographic and old.bounds[2] - old.bounds[0] > 180:
        return new  # as wide as that before
    east = shapely.transform(
        new, lambda p: np.column_stack([np.where(p[:, 0] < 0, p[:, 0] + 360, p[:, 0]), p[:, 1]])
    )
    return east if east.bounds[2] - east.bounds[0] < 180 else new


def _on_turn(geometry: BaseGeometry | None, outline: BaseGeometry) -> BaseGeometry | None:
    """A geometry in degrees, each of its parts turned by 360 so that it lies on the outline; twice where it does so."""
    if geometry is None or geometry.is_empty:
        return geometry
    west, _, east, _ = outline.bounds
    if (
        not east - west <= 2 * MAX_LONGITUDE
    ):  # no degrees, whatever the file states; there would be turns by the million
        return geometry
    parts, changed = [], False
    for part in shapely.get_parts(geometry):
        left, _, right, _ = part.bounds
        turns = range(int(np.ceil((west - right) / 360)), int(np.floor((east - left) / 360)) + 1)
        on = [turn for turn in turns if right + 360 * turn > west and left + 360 * turn < east]
        on = on or [round((west + east - left - right) / 720)]
        changed |= on != [0]
        parts += [shapely.affinity.translate(part, 360 * turn) if turn else part for turn in on]
    if not changed:
        return geometry
    return parts[0] if len(parts) == 1 else shapely.union_all(parts)


def _reach(placed: Geometries, target: Target) -> bool:
    """Whether any geometry touches the target, or there is none."""
    known = [one for one in placed if one is not None and not one.is_empty]
    return not known or bool(shapely.intersects(np.array(known, object), target.outline).any())


def _fit(geometries: Geometries, own: CRS | None, target: Target) -> str:
    """What would bring most of the geometries onto the target, and the cure, as the end of a message; or ""."""
    crs = target.crs
    assert crs is not None
    bounds = shapely.bounds(geometries)
    bounds = bounds[~np.isnan(bounds).any(1)]
    centres = np.column_stack([bounds[:, ::2].mean(1), bounds[:, 1::2].mean(1)])
    swapped = centres[:, ::-1]
    own_words = f"read in {crs}, the raster's CRS, they lie on it: {SAVE_WITH_CRS}"
    degrees_words = f"read as longitude and latitude they lie on it: {SAVE_WITH_CRS}"
    tries = [
        (own, swapped, "with x and y swapped they lie on it: write x (longitude) before y (latitude)"),
        (crs, centres, own_words),
        (LONGITUDE_LATITUDE, centres, degrees_words),
        (LONGITUDE_LATITUDE, swapped, f"swapped, and {degrees_words}"),
        (crs, swapped, f"swapped, and {own_words}"),
    ]
    for read_as, points, words in tries:
        if read_as is None or (read_as == own and points is centres) or not len(points):
            continue
        try:
            moved = points if read_as == crs else _mover(read_as, crs)(points)
        except _TRANSFORM_ERRORS:
            continue
        if not np.isfinite(moved).all():
            continue
        shapes = shapely.points(moved)
        if crs.is_geographic:
            shapes = np.array([_on_turn(shape, target.outline) for shape in shapes], object)
        if shapely.intersects(shapes, target.outline).mean() > 0.5:
            return words
    return ""
